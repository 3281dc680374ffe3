"""What a stage of 300 connections costs the kernel, against one drawing of the same timeline by matplotlib.

All the time there is something new: clients in another process send a hundred messages a second. The same traffic is
measured without the stage first, and a plain Label that a thread sets ten times a second says how often the page can
hear of something new.
"""

import pytest

from .swarm import Swarm

CONNECTIONS, WAITING = 300, 120
MESSAGES, RATE = 1000, 100
AIM = 1 / 40  # of matplotlib's time, for an update
THREADS = "server = echo_kit.start(echo_kit.serve_threaded)"
SOME_WAIT = """
import socket, threading
def serve(host, port):
    with socket.create_server((host, port), backlog=128) as listener:
        clients = []
        while True:
            clients.append(listener.accept()[0])
            if len(clients) == 180:
                break
            threading.Thread(target=echo, args=clients[-1:]).start()
        echo(clients[-1])
def echo(conn):
    while data := conn.recv(1024):
        conn.sendall(data)
server = echo_kit.start(serve)"""
CLOCK = """
import ipywidgets, threading, time
label, over = ipywidgets.Label("0"), threading.Event()
label.add_class("peer")
def tick():
    while not over.wait(0.1):
        label.value = str(int(label.value) + 1)
threading.Thread(target=tick, daemon=True).start()
label"""
COUNT = """(shows) => {
    const seen = (window.__seen = [0, 0, 0]); // changes of the stage, of the label; drawings of the stage's timeline
    shows.forEach((each, number) => {
        const observer = new MutationObserver(() => { seen[number] += 1; });
        observer.observe(document.querySelector(each), { subtree: true, childList: true, characterData: true });
    });
    const context = document.querySelector(".jp-Notebook .echo-stage-canvas").getContext("2d");
    const clear = context.clearRect.bind(context);
    context.clearRect = (...place) => { seen[2] += 1; clear(...place); };
}"""
STAGE, PEER = ".jp-Notebook .echo-stage-words", ".jp-Notebook .peer"
DRAW = "server.timeline()._repr_mimebundle_()"


def spent(book):
    """Seconds of the processor that the kernel has taken."""
    return float(book.execute("print(time.process_time())"))


def traffic(book, swarm):
    """What the kernel takes for it, in seconds of the processor and of the clock."""
    began = spent(book)
    swarm.begin(MESSAGES, RATE)
    seconds = swarm.end()
    return spent(book) - began, seconds


@pytest.mark.parametrize(("start", "talking"), [(THREADS, CONNECTIONS), (SOME_WAIT, CONNECTIONS - WAITING)])
def test_ten_updates_a_second_cost_little(notebook, start, talking):
    book = notebook("import echo_kit\n" + start + CLOCK, "echo_kit.ServerPanel(server)")
    book.select(0)
    book.command("notebook:run-cell")
    book.page.locator(PEER).wait_for()
    with Swarm(book.execute("print(server.address[1])"), CONNECTIONS, talking) as swarm:
        plain, clock = traffic(book, swarm)
        without = plain / clock
        book.select(1)
        book.command("notebook:run-cell")
        book.page.locator(STAGE).get_by_text(f"{talking} served").wait_for()
        book.page.evaluate(COUNT, [STAGE, PEER])
        whole, clock = traffic(book, swarm)
        updates, ticks, drawings = book.page.evaluate("window.__seen")
        book.execute(DRAW)  # fonts are found, modules are loaded
        began = spent(book)
        book.execute(DRAW)
        drawing = spent(book) - began
    book.execute("over.set()")
    cost = (whole / clock - without) * clock / updates
    print(f"{CONNECTIONS} connections, {CONNECTIONS - talking} of them wait: the kernel takes {whole / clock:.1%} of a")
    print(f"core, {without:.1%} without the stage; {updates / clock:.1f} updates a second, label {ticks / clock:.1f};")
    print(f"an update takes {cost * 1000:.1f} ms, matplotlib {drawing * 1000:.0f} ms; the page drew {drawings} times")
    assert updates >= 0.9 / 2 * ticks
    assert cost <= drawing * 2 * AIM
    assert drawings <= 1.5 * updates  # not for each update one, and one for the time that moves on
