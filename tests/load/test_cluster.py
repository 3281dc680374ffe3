"""A swarm on many machines: real engines of ipyparallel, without echo_kit, and two machines on a cable of their own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from echo_kit import launch, serve_threaded, swarm
from echo_kit.load import cluster as code
from echo_kit.load.clients import room_for

from ..capture import not_here
from .machines import LIMIT, Cluster

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by their groups")

FEW = 200  # file descriptors of the last engine
OTHER = "zz-other"  # what the second machine calls itself


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two engines, and one that may have few file descriptors."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.engine()
        cluster.engine()
        cluster.wait(2)
        cluster.engine("sh", "-c", f'ulimit -n {FEW}; exec "$@"', "sh")
        cluster.wait(3)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def server():
    with launch(serve_threaded) as server:
        yield server


@pytest.fixture
def two(cluster):
    return cluster.client[:2]


# -- one report --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "engines"),
    [
        ({"clients": 100, "messages": 3}, 2),
        ({"clients": 7}, 2),
        ({"clients": 1}, 1),
        ({"clients": 9, "active": 4}, 2),
        ({"clients": 9, "active": 0}, 2),
        ({"clients": 9, "active": 5, "slow": 1, "messages": 2}, 2),
        ({"clients": 6, "messages": 0}, 2),
        ({"clients": 6, "messages": 3, "pace": 200, "size": 5000, "stagger": 0.001}, 2),
    ],
)
def test_the_engines_results_are_one_report(two, server, plan, engines):
    report = swarm(server, view=two, **plan)
    talk = plan.get("active", plan["clients"]) - plan.get("slow", 0)
    sent = talk * plan.get("messages", 5)
    assert report.complete
    assert (report.connected, report.answered, report.served) == (plan["clients"], sent, talk)
    assert (len(report.times), len(report.at), len(report.connects)) == (sent, sent, plan["clients"])
    rows = report.by_client()
    assert [row["number"] for row in sorted(rows, key=lambda row: row["number"])] == list(range(plan["clients"]))
    assert sum(row["answered"] for row in rows) == sent
    assert [sum(row["role"] == role for row in rows) for role in ("talks", "slow")] == [talk, plan.get("slow", 0)]
    assert report.engines == {socket.gethostname(): engines}
    assert report.memory is None
    here = f"They ran on {engines} engine{'s' if engines > 1 else ''} at {socket.gethostname()}."
    assert repr(report).endswith(here)


def test_it_is_the_report_of_one_process(two, server):
    plan = {"clients": 50, "messages": 4, "active": 20}
    both, one = swarm(server, view=two, **plan), swarm(server, **plan)
    names = ("clients", "active", "messages", "connected", "answered", "served", "lost", "wrong", "complete", "sends")
    assert [getattr(both, name) for name in names] == [getattr(one, name) for name in names]
    assert repr(both).startswith(repr(one))


def test_the_engines_have_no_echo_kit(two):
    for engine in two.targets:
        failed = two.client[engine].apply_async(__import__, "echo_kit").exception(LIMIT)
        assert "ModuleNotFoundError: import of echo_kit halted" in str(failed)


@pytest.mark.parametrize("engines", [1, 2, 3, 7, 20])
def test_parts_add_up_and_none_is_larger_than_it_may_be(engines):
    for clients in range(1, 30):
        for active in range(clients + 1):
            for slow in (0, 1, active // 2, active):
                plan = {"clients": clients, "active": active, "slow": min(slow, active), "stagger": 0.5, "first": 0}
                cut = code.parts(plan, engines)
                for name in ("clients", "active", "slow"):
                    counts = [part[name] for part in cut]
                    assert sum(counts) == plan[name]
                    assert max(counts) - min(counts) <= 1
                assert all(part["slow"] <= part["active"] <= part["clients"] for part in cut)
                numbers = [part["first"] + place for part in cut for place in range(part["clients"])]
                assert numbers == list(range(clients))
                assert all(part["stagger"] == 0.5 * engines for part in cut)


def test_a_server_that_is_away_refuses_all(two):
    with socket.create_server(("127.0.0.1", 0)) as away:
        address = away.getsockname()
    report = swarm(address, clients=11, view=two)
    assert (report.refused, report.connected, report.lost) == (11, 0, 55)
    assert not report.complete
    assert report.engines == {socket.gethostname(): 2}
    assert repr(report).splitlines()[0] == "11 clients: 0 connected, 11 refused."


# -- what it refuses, and what goes wrong ------------------------------------------------------------------------------


def test_what_is_no_view(cluster):
    for view in ("rc", cluster.client, cluster.client.load_balanced_view(), [0, 1]):
        with pytest.raises(TypeError, match=r"an ipyparallel view of one engine or more, like rc\[:\], not "):
            swarm(("127.0.0.1", 1), view=view)


@pytest.mark.parametrize("view", [lambda rc: rc[0], lambda rc: rc.direct_view([0, 1]), lambda rc: rc[[1, 0, 1]]])
def test_views_of_all_kinds(cluster, server, view):
    assert swarm(server, clients=5, view=view(cluster.client)).complete


def test_all_is_those_that_are_there(cluster, server):
    report = swarm(server, clients=6, view=cluster.client.direct_view("all"))
    assert report.complete
    assert report.engines == {socket.gethostname(): 3}


def test_as_many_as_an_engine_has_descriptors_for(cluster, server):
    third = cluster.client[2]
    with pytest.raises(RuntimeError, match=rf"300 clients need \d+ file descriptors, and .* {FEW} \(ulimit") as refused:
        swarm(server, clients=300, view=third)
    fits = int(str(refused.value).partition(": take ")[2].split()[0])
    assert FEW / 2 < fits < FEW
    some = 5  # that the engine opens and closes
    assert swarm(server, clients=fits - some, messages=1, view=third).complete
    with pytest.raises(RuntimeError, match=f"^{fits + some} clients need"):
        swarm(server, clients=fits + some, view=third)
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as never:
        with pytest.raises(RuntimeError, match="300 clients need"):
            swarm(never.getsockname(), clients=600, timeout=600, view=cluster.client[[0, 2]])
    assert swarm(server, clients=4, view=cluster.client[:2]).complete  # the other one does not go on for ten minutes


def test_this_process_has_room_as_before():
    assert room_for(1) == ""


def test_an_engine_that_dies_in_the_middle(cluster, server):
    process = cluster.engine()
    dies = cluster.wait(4)[-1]
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(LIMIT)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        view = cluster.client[[0, dies]]
        report = pool.submit(swarm, listener.getsockname(), clients=2, messages=1, timeout=600, view=view)
        conns = [stack.enter_context(listener.accept()[0]) for _ in range(2)]
        os.killpg(process.pid, signal.SIGKILL)
        error = report.exception(LIMIT)
        assert isinstance(error, RuntimeError)
        assert str(error).startswith(
            f"an engine did not run its part of the clients: [Engine Exception] EngineError: Engine {dies} died"
        )
        for conn in conns:  # the other one does not go on for ten minutes
            conn.settimeout(LIMIT)
            with suppress(ConnectionError):
                while conn.recv(100):
                    pass
    assert swarm(server, clients=4, view=cluster.client[:2]).complete


def waits(address):
    """Runs on an engine until the other side hangs up."""
    import socket

    with socket.create_connection(address) as sock:
        return sock.recv(1)


waits.__module__ = "__main__"  # the engine has no tests to import it from


def test_an_engine_that_runs_something_else(cluster, server, monkeypatch):
    name = "0.0.0.0"  # to connect to it is to connect to this machine, and which engines are here is not asked first
    monkeypatch.setattr(code, "LATE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server((name, 0)) as silent:
        listener.settimeout(LIMIT)
        other = cluster.client[1].apply_async(waits, listener.getsockname())
        with listener.accept()[0]:
            with pytest.raises(RuntimeError, match=r"1 engine \(1\) did not answer within .* s: do they run"):
                swarm((name, silent.getsockname()[1]), clients=4, timeout=0.5, view=cluster.client[:2])
        assert other.get(LIMIT) == b""  # it was not disturbed
        cluster.client[1].apply_async(os.getpid).get(LIMIT)
        silent.setblocking(False)
        for _ in range(2):  # the clients of the other engine
            silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # its own never came, also when it had time for them
            silent.accept()
    monkeypatch.undo()
    assert swarm(server, clients=4, view=cluster.client[:2]).complete


# -- two machines ------------------------------------------------------------------------------------------------------


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=LIMIT, check=False)


@pytest.fixture(scope="module")
def two_machines(tmp_path_factory):
    """An engine here, one on a machine at the other end of a cable, and the address of the finished server here."""
    if sys.platform != "linux":
        not_here("network namespaces are Linux's")
    if shutil.which("ip") is None:
        not_here("there is no ip (Debian: apt-get install iproute2)")
    name = f"ek{os.getpid()}"
    here, there = (f"198.18.{os.getpid() % 256}.{number}" for number in (1, 2))  # a network for measurements (RFC 2544)
    made = ip("netns", "add", name)
    if made.returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    try:
        for line in (
            f"link add {name}a type veth peer name {name}b netns {name}",
            f"addr add {here}/30 dev {name}a",
            f"link set {name}a up",
            f"-n {name} addr add {there}/30 dev {name}b",
            f"-n {name} link set {name}b up",
            f"-n {name} link set lo up",
        ):
            done = ip(*line.split())
            if done.returncode:
                pytest.skip(f"no cable can be made here: ip {line}: {done.stderr.strip()}")
        cluster = Cluster(tmp_path_factory.mktemp("two"), here)
        try:
            cluster.engine()
            in_it = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c"]
            cluster.engine(*in_it, f'hostname {OTHER}; exec "$@"', "sh")
            cluster.wait(2)
            with socket.create_server((here, 0)) as sock:
                address = sock.getsockname()
            serve = ["-u", "-m", "echo_kit", "server-thread", *map(str, address)]
            cluster.run([sys.executable, *serve], f"Listening on {here}")
            yield cluster, address
        finally:
            cluster.stop()
    finally:
        ip("link", "del", f"{name}a")
        ip("netns", "del", name)


def test_two_machines(two_machines):
    cluster, address = two_machines
    report = swarm(address, clients=200, messages=3, view=cluster.client[:])
    assert report.complete
    assert report.answered == 600
    assert report.engines == {socket.gethostname(): 1, OTHER: 1}
    assert f"They ran on 1 engine at {socket.gethostname()} and 1 engine at {OTHER}." in repr(report)


def test_an_address_that_is_each_machines_own(two_machines, server):
    cluster, _ = two_machines
    says = f"{server.address[0]} is a machine's own address, and there are engines on {OTHER}: let the server listen at"
    with pytest.raises(RuntimeError, match=says):
        swarm(server, view=cluster.client[:])
    names = cluster.client[:].apply_async(socket.gethostname).get(LIMIT)
    assert swarm(server, clients=4, view=cluster.client[names.index(socket.gethostname())]).complete
