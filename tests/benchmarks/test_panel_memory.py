"""An hour of a busy demo in a minute: what the kernel and the page keep of it, with a stage and two client panels.

Fifty clients of another process send as fast as they are answered, and leave and come again; the two panels send, too.
What is kept afterwards is compared with what was kept early on. In the kernel objects are counted, without those of the
server's log and of the stage's lanes, which have bounds of their own that a minute may not reach. What is left is one
for each connection: of the log's records, and the last one of each address that a client came from. (How many clients
come from the same address again is up to the system.)
"""

import json

from .swarm import Swarm

CELL = """import echo_kit, gc, json
server = echo_kit.start(echo_kit.serve_threaded)
panels = echo_kit.panels(server)
stage = echo_kit.ServerPanel(server)
display(panels, stage)"""
TYPE = """for number in range({messages}):
    for panel in panels.panels:
        panel._do({{"do": "send", "text": f"message {{number}}", "key": ""}})"""
KEPT = """gc.collect()
live, observation = stage._live, server.observation
print(json.dumps({
    "of the log": len(observation.log),
    "connections": len({*observation.accepted.values(), *(event.connection for event in observation.log)}),
    "of the stage": sum(len(part) for part in vars(live).values() if hasattr(part, "__len__")),
    "objects": len(gc.get_objects()) - len(observation.log)
    - sum(len(each.stretches) + len(each.marks) for each in live._sent.values()),
}))"""
ANSWERED = """(root, last) => !root.querySelector(".echo-client-open")
    && [...root.querySelectorAll(".echo-client-sent")].at(-1)?.textContent.includes(last)"""
CLIENTS = 50
PHASES = ((10_000, 600), (40_000, 2_000), (50_000, 2_500), (100_000, 5_000))  # messages, clients that come again
PARTS = 50  # of the messages of a phase, what each panel sends: one
MORE = 1.25  # times as much as early on, at most
OBJECTS = 500  # that come and go


def kept(book, cdp):
    cdp.send("HeapProfiler.collectGarbage")
    page = {each["name"]: each["value"] for each in cdp.send("Performance.getMetrics")["metrics"]}
    return json.loads(book.execute(KEPT)) | {"heap": page["JSHeapUsedSize"], "nodes": page["Nodes"]}


def test_what_is_kept_does_not_grow(notebook):
    book = notebook(CELL)
    book.run_all()
    cdp = book.page.context.new_cdp_session(book.page)
    cdp.send("Performance.enable")
    found, sent = [], 0
    with Swarm(book.execute("print(server.address[1])"), CLIENTS) as swarm:
        book.page.locator(".echo-stage-words").get_by_text(f"{CLIENTS + 2} served").wait_for()
        for messages, connects in PHASES:
            swarm.begin(messages, 0, connects)
            book.execute(TYPE.format(messages=messages // PARTS))
            seconds = swarm.end()
            for name in ("alice", "bob"):
                book.panel(name).until(ANSWERED, f"message {messages // PARTS - 1}")
            sent += messages
            found.append(kept(book, cdp))
            print(f"after {sent:,} messages (the last {messages:,} in {seconds:.1f} s):", found[-1])
    early, late = found[1], found[-1]
    assert late["of the stage"] <= MORE * early["of the stage"]
    assert late["objects"] - early["objects"] <= late["connections"] - early["connections"] + OBJECTS
    assert late["nodes"] <= MORE * early["nodes"]
    assert late["heap"] <= MORE * early["heap"]
