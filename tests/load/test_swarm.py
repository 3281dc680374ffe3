"""A swarm against servers that are right, that are wrong in each way, and that are not there."""

import socket
import threading
from contextlib import contextmanager, suppress

import pytest

import echo_kit
from echo_kit.load import clients as program
from echo_kit.load.report import Swarm

LIMIT = 30  # seconds that anything may take before a test fails


def answer(conn):
    with conn:
        try:
            while data := conn.recv(65536):
                conn.sendall(data)
        except OSError:
            pass


@contextmanager
def server(handle=answer, backlog=1024, accepts=True):
    """The address of a server of this process that hands each connection to `handle`, in a thread."""
    threads, conns = [], []
    with socket.create_server(("127.0.0.1", echo_kit.free_port()), backlog=backlog) as listener:

        def serve():
            while accepts:
                try:
                    conn = listener.accept()[0]
                except OSError:
                    return
                conns.append(conn)
                threads.append(threading.Thread(target=handle, args=(conn,)))
                threads[-1].start()

        acceptor = threading.Thread(target=serve)
        acceptor.start()
        try:
            yield listener.getsockname()
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(LIMIT)
            for conn in conns:
                with suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(LIMIT)
            for conn in conns:
                conn.close()


def swarm(address, clients, messages=3, timeout=LIMIT, **more):
    return echo_kit.swarm(address, clients, messages, timeout=timeout, **more)


# -- what comes back ---------------------------------------------------------------------------------------------------


def test_every_byte_of_every_client_comes_back():
    with server() as address:
        report = swarm(address, 50, 4)
    assert (report.connected, report.answered, report.lost, report.wrong, report.served) == (50, 200, 0, 0, 50)
    assert report.complete
    assert len(report.times) == len(report.at) == 200
    assert len(report.connects) == 50
    assert 0 < report.p50 <= report.p99 <= report.worst == report.longest_wait < report.seconds
    assert repr(report) == "50 clients, all connected.\n200 messages: every byte came back."


@pytest.mark.parametrize("size", [1, 31, 300_000])
def test_messages_of_any_size(size):
    """The largest does not fit into the buffers of a connection: it is sent and read in parts."""
    with server() as address:
        assert swarm(address, 3, 2, size=size).complete


def test_each_message_is_another_one():
    with server() as address:
        swarm(address, 1)
    assert len({program.message(client, number, 16) for client in range(100) for number in range(10)}) == 1000


def test_an_address_may_be_a_name_or_ipv6():
    with server() as (_, port):
        assert swarm(("localhost", port), 2).complete
    try:
        listener = socket.create_server(("::1", echo_kit.free_port("::1")), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        report = swarm(listener.getsockname(), 2, 0)
        assert report.connected == 2


def test_a_server_of_the_kernel_will_do():
    with echo_kit.start(echo_kit.serve_threaded) as watched:
        assert swarm(watched, 5).complete


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def handler(*steps):
    """A handler that does with each message in turn what the steps say, and hangs up after the last."""

    def handle(conn):
        with conn:
            for step in steps:
                try:
                    data = conn.recv(65536)
                    if not data:
                        return
                    step(conn, data)
                except OSError:
                    return

    return handle


def echo(conn, data):
    conn.sendall(data)


def shout(conn, data):
    conn.sendall(data.replace(b".", b","))


def twice(conn, data):
    conn.sendall(data + data)


def nothing(conn, data):
    pass


@pytest.mark.parametrize(
    ("steps", "answered", "wrong", "hung_up", "told"),
    [
        ([echo, shout], 2, 2, 0, "6 messages: 2 came back, 2 wrong and 2 lost."),
        ([twice, nothing], 0, 2, 0, "6 messages: 0 came back, 2 wrong and 4 lost."),
        ([echo], 2, 0, 2, "6 messages: 2 came back, 4 lost.\nThe server hung up on 2 clients."),
        ([echo, nothing, echo], 2, 0, 0, "6 messages: 2 came back, 4 lost."),
    ],
)
def test_wrong_answers_are_counted(steps, answered, wrong, hung_up, told):
    with server(handler(*steps)) as address:
        report = swarm(address, 2, timeout=1)
    assert (report.answered, report.wrong, report.hung_up) == (answered, wrong, hung_up)
    assert report.lost == 6 - answered - wrong
    assert not report.complete
    assert report.served == 0
    assert told in repr(report)


def test_who_waits_in_vain_has_the_longest_wait():
    with server(handler(echo, nothing, echo)) as address:
        report = swarm(address, 2, timeout=1)
    assert report.worst < report.longest_wait
    assert 0.5 < report.longest_wait < 1.5
    assert {row["state"] for row in report.by_client()} == {"waiting"}


def test_nobody_listens():
    address = ("127.0.0.1", echo_kit.free_port())
    report = swarm(address, 3)
    assert (report.refused, report.connected, report.lost) == (3, 0, 9)
    assert repr(report) == "3 clients: 0 connected, 3 refused.\n9 messages: 0 came back, 9 lost."
    assert report.figure() is not None
    assert "longest" not in report.table()


def test_a_full_backlog_leaves_clients_without_an_answer():
    with server(backlog=1, accepts=False) as address:
        report = swarm(address, 10, 1, timeout=1)
    assert report.timed_out > 0
    assert report.connected + report.timed_out == 10
    assert f"{report.timed_out} without an answer to connect" in repr(report)
    assert report.answered == 0


def test_a_server_that_accepts_nobody_is_no_answer():
    with server(accepts=False) as address:
        report = swarm(address, 3, timeout=0.5)
    assert (report.connected, report.answered, report.lost, report.hung_up) == (3, 0, 9, 0)


# -- silent, slow, paced -----------------------------------------------------------------------------------------------


def test_silent_clients_are_there_first_and_stay():
    there, most = set(), []

    def handle(conn):
        there.add(conn)
        with conn:
            try:
                while data := conn.recv(65536):
                    most.append(len(there))
                    conn.sendall(data)
            except OSError:
                pass

    with server(handle) as address:
        report = swarm(address, 20, 2, active=3)
    assert report.complete
    assert report.answered == 6
    assert min(most[1:]) > 17  # the first is the probe, which comes when the silent ones are connected
    assert sum(row["role"] == "silent" for row in report.by_client()) == 17


def test_silent_clients_that_are_hung_up_on_are_counted():
    def handle(conn):
        with conn:
            data = conn.recv(65536)
            conn.sendall(data)

    def shown_out(conn):
        with silent_ones:
            numbers.append(conn)
            silent = len(numbers) <= 2
        if silent:
            conn.close()
        else:
            handle(conn)

    silent_ones, numbers = threading.Lock(), []
    with server(shown_out) as address:
        report = swarm(address, 3, 1, active=1)
    assert (report.answered, report.hung_up, report.complete) == (1, 2, False)
    assert "The server hung up on 2 clients." in repr(report)


def test_one_slow_reader_stops_a_server_for_one_at_a_time():
    one = threading.Lock()

    def handle(conn):
        with one:
            answer(conn)

    with server(handle) as address:
        alone = swarm(address, 3, 1, timeout=3, slow=1)
    with server() as address:
        beside = swarm(address, 3, 1, slow=1)
    assert (alone.answered, alone.lost) == (0, 2)
    assert (beside.answered, beside.lost) == (2, 0)
    assert beside.complete


def test_a_slow_reader_that_goes_ends_nobody_else():
    numbers, late = iter(range(9)), threading.Event()
    came, gone = threading.Event(), threading.Event()

    def handle(conn):
        number = next(numbers)
        with conn:
            while data := conn.recv(65536):
                if number == 0:
                    came.wait(LIMIT)
                    break  # the slow one: a reset, since it has sent more
                came.set()
                gone.wait(LIMIT)
                late.wait(0.2 * number)  # the second talker is still waiting when the first one has all its answers
                conn.sendall(data)
        gone.set()

    with server(handle) as address:
        report = swarm(address, 3, 2, slow=1)
    assert (report.answered, report.lost) == (4, 0)


def test_a_pace_counts_from_when_a_message_was_due():
    """A server that is late once is late for the messages behind, too."""
    late = threading.Event()

    def pause(conn, data):
        late.wait(0.5)
        conn.sendall(data)

    with server(handler(echo, pause, *[echo] * 20)) as address:
        paced = swarm(address, 1, 10, pace=20)
    assert paced.complete
    assert sum(time > 0.1 for time in paced.times) >= 5, paced.times  # 0.5 s, 0.45 s, 0.4 s, …
    with server(handler(echo, pause, *[echo] * 20)) as address:
        closed = swarm(address, 1, 10)
    assert sum(time > 0.1 for time in closed.times) < sum(time > 0.1 for time in paced.times)


def test_a_pace_is_kept():
    with server() as address:
        report = swarm(address, 2, 10, pace=20)
    assert report.seconds > 0.4
    assert report.per_second < 60


# -- memory ------------------------------------------------------------------------------------------------------------


def test_memory_is_that_of_the_silent_clients():
    with echo_kit.launch(echo_kit.serve_threaded) as threaded:
        report = swarm(threaded, 201, 1, active=1)
        if threaded.memory() is None:
            pytest.skip("only Linux tells the memory of a process")
        assert 5_000 < report.memory_per_client < 60_000  # bytes: 17,000 were seen
        assert "kB for each silent client" in report.table()
        assert swarm(threaded, 5).memory is None  # nobody is silent
    with echo_kit.launch(echo_kit.serve_single) as single:
        assert swarm(single, 5, 1, active=1, timeout=4).memory is None  # it has not accepted them all


# -- what cannot be ----------------------------------------------------------------------------------------------------

WHO = ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"server": 3}, TypeError, "like ('127.0.0.1', 8000), not 3"),
        ({"server": ("127.0.0.1", 0)}, ValueError, "a port must be from 1 to 65,535, not 0"),
        ({"clients": 0}, ValueError, "clients must be from 1 to 10,000, not 0"),
        ({"clients": 10_001}, ValueError, "clients must be from 1 to 10,000, not 10,001"),
        ({"clients": "9"}, TypeError, "clients must be a whole number from 1 to 10,000, not '9'"),
        ({"clients": True}, TypeError, "not True"),
        ({"messages": -1}, ValueError, "messages must be from 0 to 1,000,000, not -1"),
        ({"messages": 2.5}, TypeError, "not 2.5"),
        ({"clients": 5, "active": 6}, ValueError, "active must be from 0 to 5 (there are no more clients), not 6"),
        ({"clients": 5, "active": 2, "slow": 3}, ValueError, "slow must be from 0 to 2 (slow ones are active), not 3"),
        ({"size": 0}, ValueError, "size must be from 1 to"),
        ({"timeout": float("nan")}, ValueError, "timeout must be from 0.1 to 600, not nan"),
        ({"timeout": None}, TypeError, "timeout must be a number"),
        ({"pace": 0}, ValueError, "pace must be from 0.01"),
        ({"stagger": 1, "clients": 1000}, ValueError, "stagger must be from 0 to 0.03 (they must all come in time)"),
        ({"clients": 10_000, "messages": 101}, ValueError, "10,000 clients with 101 messages are 1,010,000"),
        ({"server": ("nobody.invalid", 8000)}, RuntimeError, "'nobody.invalid' is not a host that"),
    ],
)
def test_bad_numbers_are_told(arguments, error, words):
    with pytest.raises(error) as raised:
        echo_kit.swarm(**{"server": WHO, **arguments})
    assert words in str(raised.value)


def test_a_limit_on_file_descriptors_is_told():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 2**20
    words = program.room_for(most)
    try:
        assert words.startswith(f"{most:,} clients need ")
        fewer = int(words.partition("take ")[2].split()[0].replace(",", ""))
        assert program.room_for(fewer) == ""
        assert most - 1000 < fewer <= most - program.SPARE
        assert program.room_for(10) == ""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_that_crashes_is_told(monkeypatch, tmp_path):
    """The real thing: another program in its place, which ends."""
    crash = tmp_path / "clients.py"
    crash.write_text("import sys; sys.stdin.readline(); raise SystemExit('no memory is left')")
    monkeypatch.setattr(program, "__file__", str(crash))
    with pytest.raises(RuntimeError, match="the process of the clients has ended: no memory is left"):
        echo_kit.swarm(WHO, 1)


# -- the report --------------------------------------------------------------------------------------------------------


def outcome(took, **counts):
    counts = {"connected": 1, "answered": len(took)} | counts
    rows = [[0, "talks", "done", len(took), max(took, default=0.0)]]
    return {"counts": counts, "clients": rows, "at": took, "took": took, "connects": [0.1], "talked": 1, "seconds": 2}


PLAN = {"clients": 1, "active": 1, "messages": 100, "slow": 0}


@pytest.mark.parametrize(("part", "time"), [(0, 1), (1, 1), (50, 50), (50.1, 51), (99, 99), (99.5, 100), (100, 100)])
def test_percentiles(part, time):
    """Nearest rank: the smallest time within which at least so many percent of the answers were there."""
    report = Swarm(PLAN, [outcome([float(each) for each in range(100, 0, -1)])])
    assert report.percentile(part) == time


def test_what_went_wrong_otherwise_is_named():
    counts = {"connected": 0, "Network is unreachable": 1}
    report = Swarm(PLAN, [outcome([], **counts)])
    assert repr(report).startswith("1 client: 0 connected, 1 could not connect (Network is unreachable).")
    with pytest.raises(ValueError, match="from 0 to 100, got 101"):
        report.percentile(101)


def test_it_shows_itself_as_a_picture_and_facts_without_times():
    with server() as address:
        report = swarm(address, 3)
    shown, _ = report._repr_mimebundle_()
    assert set(shown) == {"text/plain", "image/png"}
    assert shown["text/plain"] == "3 clients, all connected.\n9 messages: every byte came back."
    words = " ".join(text.get_text() for axes in report.figure().axes for text in [axes.title, axes.xaxis.label])
    assert "50 % within" in words
    assert "answers a second" in words
    assert "ms" in report.table()
    assert report.to_dict()["answered"] == 9
