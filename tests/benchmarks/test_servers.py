"""The course's servers and their peers, one table: messages and connections a second, times, 1,000 at once, memory.

    pytest -m bench -rP tests/benchmarks/test_servers.py

All are measured in one run, by turns, in blocks so short that what else the machine does hits all alike. Each server is
a process of its own, and prints to /dev/null, each line at once as in a terminal; the clients are one more process. The
table is written as JSON, too: to the path in ECHO_KIT_BENCH_JSON, or beside pytest's temporary files.
"""

import contextlib
import importlib.util
import json
import os
import platform
import select
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from echo_kit import free_port

from . import servers
from .closed_loop import LIMIT, clients_program, numbers

HERE = Path(__file__).parent
EPOLL = "C, epoll"
NAMES = {function.__name__: name for function, name in servers.KINDS.items()} | {"epoll": EPOLL}
SINGLE = ("classic_single", "finished_single")
BLOCKS = {1: 16, 10: 20, 100: 16}  # by the number of clients
MILLISECONDS, WARM = 25, 4
SETS = 3  # of fresh processes: how threads come to share the interpreter lock is chance, and stays as it began
AT_ONCE, PATIENCE = 1000, 3  # clients that connect at the same time, and seconds that they wait
IDLE = 1000  # clients whose memory is measured
# A server, its peer, and by the number of clients what it shall make at least of the peer's messages.
AIMS = [
    ("finished", "classic", {1: 1.0, 10: 1.0, 100: 1.0}),
    ("finished_quiet", "socketserver_threads", {1: 1.0, 10: 1.0, 100: 1.0}),
    ("selectors_of_part_3", "epoll", {10: 0.8, 100: 0.8}),
    ("observed", "plain", {1: 0.95, 10: 0.8, 100: 0.6}),
]


@contextlib.contextmanager
def serving(kind, epoll):
    """Its process and its port; it listens."""
    port = free_port()
    command = [epoll] if kind == "epoll" else [sys.executable, HERE / "servers.py", kind]
    process = subprocess.Popen(
        [*command, str(port)], cwd=servers.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert select.select([process.stderr], [], [], LIMIT)[0], f"{kind} does not listen"
        line = process.stderr.readline()
        assert line == "listening\n", f"{kind}: {line}{process.stderr.read()}"
        yield process, port
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)


def missing(kind, epoll):
    """Why it cannot be measured here, or ""."""
    if kind == "epoll" and epoll is None:
        return "there is no C compiler"
    if kind == "uvloop_streams" and importlib.util.find_spec("uvloop") is None:
        return "uvloop is not installed"
    return ""


def resident(process):
    """Bytes of memory that it has."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux names no VmRSS")


def memory(process, port):
    """Bytes for each of `IDLE` clients that have had an echo, and are silent."""
    with contextlib.ExitStack() as stack:
        before = resident(process)
        for _ in range(IDLE):
            conn = stack.enter_context(socket.create_connection((servers.HOST, port), timeout=LIMIT))
            conn.sendall(b"x")
            assert conn.recv(1) == b"x"
        return (resident(process) - before) / IDLE


def talk(program, clients, ports):
    """By port: messages a second in each block, and (median, 99th percentile) of the times in milliseconds."""
    lines = numbers(program, "talk", clients, BLOCKS[clients], MILLISECONDS, *ports)
    blocks, facts = lines[WARM : BLOCKS[clients]], lines[BLOCKS[clients] :]
    return [
        ([block[place] for block in blocks], [each / 1000 for each in facts[place][:2]]) for place in range(len(ports))
    ]


def measured(kinds, program, epoll):
    """By kind, its row; and by (server, peer), by clients: the part of the peer's messages that the server makes."""
    rows, ratios = {kind: {"name": NAMES[kind]} for kind in kinds}, {}
    for clients in BLOCKS:
        some = [kind for kind in kinds if clients == 1 or kind not in SINGLE]
        rates, times = {kind: [] for kind in some}, {kind: [] for kind in some}
        for _ in range(SETS):
            with contextlib.ExitStack() as stack:
                ports = [stack.enter_context(serving(kind, epoll))[1] for kind in some]
                for kind, (blocks, took) in zip(some, talk(program, clients, ports), strict=True):
                    rates[kind] += blocks
                    times[kind].append(took)
        for kind in some:
            p50, p99 = map(median, zip(*times[kind], strict=True))
            rows[kind][f"at {clients}"] = {"messages/s": median(rates[kind]), "p50 ms": p50, "p99 ms": p99}
        for server, peer, aims in AIMS:
            if clients in aims and server in rates and peer in rates:
                pairs = zip(rates[server], rates[peer], strict=True)
                ratios.setdefault((server, peer), {})[clients] = median(ours / theirs for ours, theirs in pairs)
    for kind in kinds:
        if kind in SINGLE:
            continue
        with serving(kind, epoll) as (process, port):
            rows[kind]["connections/s"] = numbers(program, "connect", 10, 1000, port)[0][0]
        with serving(kind, epoll) as (process, port):
            soon, heard, last = numbers(program, "once", AT_ONCE, PATIENCE * 1000, port)[0]
            rows[kind]["at once"] = {"served after 1 s": soon, "in the end": heard, "last after s": last}
        with serving(kind, epoll) as (process, port):
            rows[kind]["bytes a client"] = memory(process, port)
    return rows, ratios


def cells(row):
    """A row of the table, as texts."""
    for clients in BLOCKS:
        if at := row.get(f"at {clients}"):
            yield f"{at['messages/s']:,.0f}"
            yield f"{at['p50 ms']:.2f} / {at['p99 ms']:.2f}"
        else:
            yield from ("–", "–")
    if "at once" not in row:
        yield from ("–", "–", "–")
        return
    yield f"{row['connections/s']:,.0f}"
    once = row["at once"]
    all_served = once["in the end"] == AT_ONCE
    yield f"all in {once['last after s']:.2f} s" if all_served else f"{once['in the end']:.0f} in {PATIENCE} s"
    yield f"{row['bytes a client'] / 1000:.1f} kB"


def table(rows, absent):
    """As Markdown: the README shows it."""
    counts = [f"{clients} client{'s' * (clients > 1)}" for clients in BLOCKS]
    head = ["server", *(each for count in counts for each in (f"{count}: messages/s", "p50 / p99 ms"))]
    head += ["connections/s", f"{AT_ONCE:,} at once, served", "memory a client"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([row["name"], *cells(row)] for row in rows.values())]
    lines += [[NAMES[kind], why, *[""] * (len(head) - 2)] for kind, why in absent.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and the clients use epoll")
def test_the_servers_and_their_peers(tmp_path, capsys):
    epoll = None
    if compiler := shutil.which("cc"):
        epoll = tmp_path / "epoll"
        subprocess.run([compiler, "-O2", "-o", epoll, HERE / "epoll_server.c"], check=True, timeout=LIMIT)
    absent = {kind: why for kind in NAMES if (why := missing(kind, epoll))}
    with clients_program() as program:
        rows, ratios = measured([kind for kind in NAMES if kind not in absent], program, epoll)
    told = [
        {"server": NAMES[server], "peer": NAMES[peer], "clients": clients, "ratio": ratio, "aim": aims[clients]}
        for server, peer, aims in AIMS
        for clients, ratio in ratios.get((server, peer), {}).items()
    ]
    machine = f"{os.cpu_count()} processors, {platform.system()}, Python {platform.python_version()}"
    path = Path(os.environ.get("ECHO_KIT_BENCH_JSON") or tmp_path / "servers.json")
    path.write_text(json.dumps({"machine": machine, "rows": rows, "ratios": told, "absent": absent}, indent=1))
    with capsys.disabled():
        print("", machine, table(rows, absent), "", sep="\n")
        for each in told:
            print("{server} / {peer}, {clients}: {ratio:.2f} (aim {aim})".format(**each))
        print(f"as JSON: {path}")
    for each in told:
        assert each["ratio"] >= each["aim"] / 2, each
    assert rows["finished"]["at once"]["in the end"] == AT_ONCE
    assert rows["finished"]["at once"]["last after s"] <= 2
