"""Make the pictures anew, from real runs: `python img/make.py [views|terminals|panels|embed …]`.

They are in this folder, and those of INSTRUCTORS.md in notebooks/img.
`terminals` types into real programs in real pseudo-terminals. `panels` takes a real JupyterLab in a real browser, as
tests/lab.py has them. `embed` puts the pictures of terminals into their notebooks' cells. Without a word it makes all.
"""

import io
import socket
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

import echo_kit

HERE = Path(__file__).parent
LESSONS = HERE.parent / "notebooks" / "img"  # what INSTRUCTORS.md shows: the notebooks' folder is complete in itself
PANELS = ("stage", "stage_step_by_step", "client_panels")


def pause(seconds: float = 0.4) -> None:
    """People type slowly: without pauses all marks of a picture would lie on one another."""
    time.sleep(seconds)


def one_conversation(server: echo_kit.Server) -> None:
    with echo_kit.Client(server, name="alice") as alice:
        for message in ["hello", "news?", "bye"]:
            pause()
            alice.send(message)
            alice.receive()
        pause()


def two_clients(server: echo_kit.Server) -> None:
    with echo_kit.Client(server, name="alice") as alice:
        pause()
        alice.send("hello")
        alice.receive()
        pause()
        bob = echo_kit.Client(server, name="bob")
        pause()
        bob.send("hi")
        pause()
        alice.send("news?")
        alice.receive()
        pause()
        alice.send("bye")
        alice.receive()
        pause()
    if bob.unanswered:
        bob.receive()
    pause()
    bob.send("at last")
    bob.receive()
    pause()
    bob.close()


def handle_client(conn, addr):
    while True:
        data = conn.recv(1024)
        if not data:
            break
        conn.sendall(data)
    conn.close()


def one_thread(host, port):
    s = socket.create_server((host, port))
    while True:
        conn, addr = s.accept()
        handle_client(conn, addr)


# Short lines, for the picture:
# fmt: off
def thread_for_each(host, port):
    s = socket.create_server((host, port))
    while True:
        conn, addr = s.accept()
        thread = Thread(target=handle_client,
                        args=(conn, addr))
        thread.start()
# fmt: on


def while_bob_waits(serve, name: str) -> echo_kit.Snapshot:
    """Alice has her echo and stays; bob has sent "hi", and most of a second has passed."""
    with echo_kit.start(serve, name=name) as server, echo_kit.Client(server, name="alice") as alice:
        pause(0.3)
        alice.send("hello")
        alice.receive()
        pause(0.3)
        with echo_kit.Client(server, name="bob") as bob:
            pause(0.3)
            bob.send("hi")
            pause(0.8)
            return server.snapshot()


def run(serve, story) -> echo_kit.Timeline:
    with echo_kit.start(serve) as server:
        story(server)
        return server.timeline()


SERVER = """import socket

def handle_client(conn, addr):
    while True:
        data = conn.recv(1024)
        if not data:
            break
        print("Received:", data.decode())
        conn.sendall(data)
    conn.close()

def serve(host, port):
    s = socket.create_server((host, port))
    while True:
        conn, addr = s.accept()
        handle_client(conn, addr)"""
STAGE = """import echo_kit

server = echo_kit.start(serve)
echo_kit.ServerPanel(server)"""
CLIENTS = 'echo_kit.panels(server, "alice", "bob")'


def panels_on_a_page() -> None:
    """Raises what says that there is no browser to take a picture with."""
    from playwright.sync_api import sync_playwright

    from tests.lab import JupyterLab, Notebook, find_browser, write_notebook

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_browser())
        jupyterlab = JupyterLab(Path(folder))
        try:
            # So wide that the panels are about 1000 pixels wide, and so high that they need not be scrolled.
            context = chromium.new_context(viewport={"width": 1180, "height": 1900}, device_scale_factor=2)
            context.set_extra_http_headers({"Authorization": f"token {jupyterlab.token}"})
            context.request.get(f"{jupyterlab.url}/lab?token={jupyterlab.token}")
            write_notebook(jupyterlab.files / "stage.ipynb", SERVER, STAGE, CLIENTS)
            book = Notebook(jupyterlab, context.new_page(), "stage.ipynb")
            book.ready()
            take_pictures(book)
        finally:
            jupyterlab.stop()
            chromium.close()


def take_pictures(book) -> None:
    book.command("application:toggle-left-area")
    book.run_all()
    stage, alice, bob = book.stage(), book.panel("alice"), book.panel("bob")
    stage.root.locator("select").select_option("10")
    alice.is_("being served")
    pause(1)
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    pause(1.5)
    bob.type("hi")
    stage.shows(words="1 served · 1 waiting · 1 message", boxes=["bob · 2 bytes unread"])
    pause(2)
    shoot_full_screen(book, stage, "stage")
    shoot(book.output(2).locator(".echo-clients"), "client_panels")
    stage.click("Step by step")
    alice.type("news?")
    stage.until("(root) => root.querySelector('.echo-stage-paused')")
    pause(1)
    shoot(stage, "stage_step_by_step")


def shoot_full_screen(book, stage, name: str) -> None:
    """As a lecture hall with a small projector sees it."""
    before = book.page.viewport_size
    book.page.set_viewport_size({"width": 1366, "height": 768})
    stage.click("Full screen")
    book.page.wait_for_function("document.fullscreenElement")
    pause(1)
    save(book.page.screenshot(), name)
    stage.click("Leave")
    book.page.set_viewport_size(before)


def shoot(panel, name: str) -> None:
    save(getattr(panel, "root", panel).screenshot(), name, LESSONS)


def save(png: bytes, name: str, folder: Path = HERE) -> None:
    from refresh import small  # of the notebooks' pictures

    (folder / f"{name}.png").write_bytes(small(png))
    print(f"{name}.png")


def views() -> None:
    single = run(echo_kit.serve_single, two_clients)
    threaded = run(echo_kit.serve_threaded, two_clients)
    moments = while_bob_waits(one_thread, "One thread"), while_bob_waits(thread_for_each, "A thread for each client")
    pictures = {
        "why_bob_waits": echo_kit.side_by_side(*moments),
        "one_conversation": run(echo_kit.serve_single, one_conversation),
        "two_clients_single": single,
        "two_clients_threaded": threaded,
        "single_and_threaded": echo_kit.side_by_side(single, threaded),
    }
    for name, picture in pictures.items():
        drawn = io.BytesIO()
        picture.figure().savefig(drawn, dpi=110, metadata={"Description": str(picture)})
        save(drawn.getvalue(), name)
        print(picture)


def terminals() -> None:
    import terminals  # beside this file

    from tests.terminals import NO_PTY

    if sys.platform == "win32":
        print(NO_PTY)
    else:
        terminals.make()


def panels() -> None:
    try:
        panels_on_a_page()
    except Exception as error:  # Playwright is missing, or its browser
        print(f"no browser, so these stay as they are: {', '.join(PANELS)} ({str(error).splitlines()[0]})")


def embed() -> None:
    import terminals

    terminals.embed()


PARTS = {each.__name__: each for each in (views, terminals, panels, embed)}

if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE.parent / "notebooks")]
    for name in sys.argv[1:] or PARTS:
        if name not in PARTS:
            sys.exit(f"{name!r} is not a part of this: {', '.join(PARTS)}")
        PARTS[name]()
