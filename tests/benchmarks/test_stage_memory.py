"""The memory of a stage that a class watches for a quarter of an hour: of the kernel's process, and of the page.

All the time clients of another process talk, and one a second leaves and comes again. The log grows until it is full
(250,000 records, less than 75 MB together: at this rate after seven minutes); nothing else may. What the table shows is
what the two processes hold after their garbage was collected, fifteen times.

    ECHO_KIT_STAGE_MINUTES=15 pytest -m bench -rP tests/benchmarks/test_stage_memory.py

Without that variable it takes one minute: then the log is far from full.
"""

import json
import os

from .swarm import Swarm

# Not `serve_threaded`: it hangs up on clients that are silent for a minute, as they are while a busy machine measures.
CELL = """import echo_kit, gc, json, psutil, socket, threading
def echo(conn):
    with conn:
        while data := conn.recv(65536):
            conn.sendall(data)
def serve(host, port):
    with socket.create_server((host, port), backlog=64) as listener:
        while True:
            threading.Thread(target=echo, args=listener.accept()[:1]).start()
server = echo_kit.start(serve)
stage = echo_kit.ServerPanel(server)
stage"""
KEPT = """gc.collect()
print(json.dumps([psutil.Process().memory_info().rss / 1e6, len(server.observation.log), len(stage._live._sent)]))"""
CLIENTS, RATE = 40, 300  # clients, and messages a second in all
SAMPLES = 15
MINUTES = float(os.environ.get("ECHO_KIT_STAGE_MINUTES", "1"))
RECORD = 75 / 250_000  # MB at most, as `CAPACITY` promises it
KERNEL, PAGE = 10, 3  # MB that the kernel and the page may grow from the fifth sample to the last, without the log


def test_the_memory_of_a_stage_is_bounded(notebook):
    book = notebook(CELL)
    book.run_all()
    cdp = book.page.context.new_cdp_session(book.page)
    cdp.send("Performance.enable")
    seconds, found = MINUTES * 60 / SAMPLES, []
    print(f"{CLIENTS} clients, {RATE} messages a second; one client a second leaves and comes again")
    print("minute  kernel MB  records of the log  lanes  page MB  nodes")
    with Swarm(book.execute("print(server.address[1])"), CLIENTS) as swarm:
        book.page.locator(".echo-stage-words").get_by_text(f"{CLIENTS} served").wait_for()
        for number in range(1, SAMPLES + 1):
            swarm.begin(round(RATE * seconds), RATE, round(seconds))
            swarm.end()
            kernel, records, lanes = json.loads(book.execute(KEPT))
            cdp.send("HeapProfiler.collectGarbage")
            page = {each["name"]: each["value"] for each in cdp.send("Performance.getMetrics")["metrics"]}
            heap, nodes = page["JSHeapUsedSize"] / 1e6, page["Nodes"]
            found.append((kernel, records, heap))
            minute = number * seconds / 60
            print(f"{minute:6.1f}  {kernel:9.1f}  {records:18,}  {lanes:5}  {heap:7.1f}  {nodes:5}", flush=True)
    early, late = found[SAMPLES // 3 - 1], found[-1]
    assert late[0] - early[0] <= (late[1] - early[1]) * RECORD + KERNEL, found
    assert late[2] - early[2] <= PAGE, found
