"""Ctrl+C at any moment of start, stop, restart and `with`; and several threads that start and stop one server."""

import contextlib
import signal
import socket
import socketserver
import sys
import threading
import time

import pytest

from echo_kit import Client, ServerStuck, run, serve_single, serve_threaded, server as runner, start
from echo_kit.watch import apart, observation, output, patches

from ..conftest import open_sockets

LONG = 20
unix = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl+C ends no wait of the main thread there")


def never_listens(host, port):
    with socket.socket():
        while True:
            time.sleep(0.01)


def of_socketserver(host, port):
    with socketserver.ThreadingTCPServer((host, port), socketserver.StreamRequestHandler) as server:
        server.serve_forever()


def interrupted_at(number, call):
    """Make `call`, and raise KeyboardInterrupt in this thread before its instruction of that number. Whether there was
    such an instruction.
    """
    left = [number]

    def trace(frame, event, _):
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGINT)  # its handler raises here
        return trace

    before = sys.gettrace()
    with contextlib.suppress(KeyboardInterrupt):
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(before)
    return left[0] <= 0


def interrupted_after(seconds, call):
    def handler(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            call()
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Calls:
    """One of the four, made anew for each moment, and what must be so afterwards."""

    def __init__(self, serve):
        self.serve = serve
        self.threads, self.sockets, self.patches = threading.enumerate(), open_sockets(), patches.state()

    def start(self):
        return lambda: start(self.serve, name="it", timeout=0.03 if self.serve is never_listens else 5.0)

    def stop(self):
        return start(self.serve, name="it").stop

    def restart(self):
        return start(self.serve, name="it").restart

    def with_(self):
        def block():
            with start(self.serve, name="it"):
                pass

        return block

    def check(self):
        """The next start and stop repair what was left."""
        with start(serve_single, name="it") as server, Client(server) as alice:
            alice.send("x")
            assert alice.receive() == "x"
            assert [each.name for each in observation.running] == ["it"]
            assert runner.newest("it") is server
        assert patches.state() == self.patches
        assert observation.running == []
        assert not observation.observed
        assert threading.enumerate() == self.threads
        assert open_sockets() == self.sockets
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join(LONG)


CALLS = ("start", "stop", "restart", "with_")


@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_before_some_instructions(call):
    calls = Calls(serve_threaded)
    for number in {int(1.5**power) for power in range(24)}:
        interrupted_at(number, getattr(calls, call)())
        calls.check()


@pytest.mark.soak
@pytest.mark.parametrize("serve", [serve_single, of_socketserver])
@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_before_any_instruction(call, serve):
    calls, number, more = Calls(serve), 1, True
    while more:
        more = interrupted_at(number, getattr(calls, call)())
        calls.check()
        number += 1
    assert number > 60, "all of them"


@unix
@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_at_some_moments(call):
    calls = Calls(serve_threaded)
    for moment in range(12):
        interrupted_after(0.0005 * moment + 0.0001, getattr(calls, call)())
        calls.check()


@unix
@pytest.mark.soak
@pytest.mark.parametrize("serve", [serve_single, of_socketserver, never_listens])
@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_at_500_moments(call, serve):
    if serve is never_listens and call != "start":
        pytest.skip("it never runs")
    calls = Calls(serve)
    for moment in range(0, 500, 10 if serve is never_listens else 1):
        with contextlib.suppress(ServerStuck):
            interrupted_after(0.00002 * moment + 0.00001, getattr(calls, call)())
        calls.check()


def test_a_second_stop_finishes_what_an_interrupted_one_began(monkeypatch):
    server = start(serve_single)
    address, give = server.address, threading.Event()
    ends = patches.end
    monkeypatch.setattr(patches, "end", lambda seen: (give.wait(LONG), ends(seen)))
    monkeypatch.setattr(apart, "PATIENCE", 0.01)
    interrupted_after(0.05, server.stop)
    assert server.observation in observation.running, "it has been interrupted"
    give.set()
    server.stop()
    assert observation.running == []
    assert runner.newest("serve_single") is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_start_that_is_interrupted_while_it_waits_leaves_no_server():
    began = time.monotonic()
    interrupted_after(0.1, lambda: start(never_listens, name="it"))
    assert time.monotonic() - began < 4, "it has not waited for five seconds"
    assert observation.running == []
    assert runner.newest("it") is None


def test_a_client_program_that_is_interrupted_while_it_begins():
    def main():
        input()

    calls = Calls(serve_single)
    for number in range(1, 200, 20):
        interrupted_at(number, lambda: run(main, name="it"))
        run(main, name="it").stop()
        assert observation.running == []
        assert patches.state() == calls.patches


# -- a patch is never laid over itself ---------------------------------------------------------------------------------


def test_what_an_interrupted_end_has_left_is_repaired_by_the_next():
    """As if `end` had come to nothing after it had noted that no server runs."""
    before = patches.state()
    server = start(serve_single)
    observation.running.remove(server.observation)
    for _ in range(2):
        with start(serve_single, name="another"):
            assert output.found["excepthook"] is not output.excepthook
            assert output.found["start"] is patches.plain_start
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join(LONG)
        assert patches.state() == before
    server.stop()
    assert patches.state() == before


def test_a_patch_over_ours_that_passes_on_does_not_run_in_a_circle(monkeypatch):
    """Somebody keeps our excepthook and calls it, also after the last stop."""
    heard = []
    monkeypatch.setattr(threading, "excepthook", heard.append)
    with start(serve_single):
        ours = threading.excepthook
        threading.excepthook = lambda died: ours(died)
        theirs = threading.excepthook
    assert threading.excepthook is theirs
    for number in (1, 2):
        with start(serve_single):
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join(LONG)
        assert [died.exc_type for died in heard] == [ZeroDivisionError] * number
        assert threading.excepthook is theirs


# -- several threads ---------------------------------------------------------------------------------------------------


def at_once(*calls):
    """Each in a thread of its own, all at once; the errors that they raise."""
    gate, errors = threading.Barrier(len(calls)), []

    def make(call):
        gate.wait(LONG)
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * LONG)
    assert not any(thread.is_alive() for thread in threads), "a deadlock"
    return errors


def test_two_starts_of_one_name_at_once_leave_one_server():
    for _ in range(10):
        begun = []
        assert at_once(*[lambda begun=begun: begun.append(start(serve_single, name="it"))] * 2) == []
        assert sorted(server.running for server in begun) == [False, True]
        assert [each.name for each in observation.running] == ["it"]
        assert runner.newest("it") is next(server for server in begun if server.running)
        runner.newest("it").stop()
    assert observation.running == []


def again_and_again(call, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        call()


@pytest.mark.parametrize("seconds", [0.5, pytest.param(8, marks=pytest.mark.soak)])
def test_eight_threads_restart_and_stop_the_same_server(seconds):
    before = patches.state()
    server = start(serve_threaded)
    errors = at_once(*[lambda call=call: again_and_again(call, seconds) for call in [server.restart, server.stop] * 4])
    assert errors == []
    assert [each.name for each in observation.running] in ([], ["serve_threaded"])
    assert (runner.newest("serve_threaded") is server) is server.running
    server.stop()
    assert patches.state() == before


def test_starts_of_many_names_at_once_leave_the_arguments_of_the_program():
    before = list(sys.argv)
    servers = []
    assert at_once(*[lambda n=n: servers.append(start(serve_single, name=f"{n}")) for n in range(6)]) == []
    assert sys.argv == before
    assert at_once(*[server.stop for server in servers]) == []


@pytest.mark.parametrize("what", ["stop", "restart", "start"])
def test_a_servers_own_thread_that_ends_it_while_others_do(what):
    def serve(host, port):
        with socket.create_server((host, port)) as door:
            while True:
                conn, _ = door.accept()
                with conn:
                    conn.recv(1)
                    if what == "start":
                        start(serve)
                    else:
                        getattr(servers[0], what)()

    servers = [start(serve)]
    with Client(servers[0]) as alice:
        alice.send("x")
        assert at_once(servers[0].stop, lambda: start(serve), servers[0].restart) == []
    runner._stop_all()
    assert observation.running == []


def test_whoever_waits_too_long_for_another_start_reads_why(monkeypatch):
    monkeypatch.setattr(apart, "TURN", 0.1)
    reached, release = threading.Event(), threading.Event()

    def serve(host, port):
        reached.set()
        release.wait(LONG)
        serve_single(host, port)

    first = threading.Thread(target=lambda: start(serve, name="it").stop())
    first.start()
    assert reached.wait(LONG)
    with pytest.raises(ServerStuck) as error:
        start(serve_single, name="it")
    release.set()
    first.join(LONG)
    assert str(error.value) == (
        "another thread has been starting or stopping it for 0.1 s, and goes on. Wait for it, or start the server "
        "under another name."
    )
