"""Step by step: each thread stops before its next socket call, and makes one when it is told to; it locks nobody up."""

import contextlib
import gc
import itertools
import operator
import selectors
import socket
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from echo_kit import Client, free_port, serve_single, serve_threaded, start
from echo_kit.views.code import NOBODY, PAUSED, STANDS
from echo_kit.views.draw_timeline import HATCHES
from echo_kit.views.lanes import STOPPED, Lanes
from echo_kit.views.states import IN_ACCEPT, IN_RECV, PAUSED as PAUSED_STRETCH, STATES, WORKS
from echo_kit.watch import ends as patched, gate as gates, observation as watched, patches, rest
from echo_kit.watch.events import Connection, EventLog
from echo_kit.watch.gate import Gate

LONG = 20  # seconds after which a test gives up
SWAPPED = ("accept", "recv", "recv_into", "send", "sendall", "close")


def stands(server):
    """(line, mark) of each thread, in the order of the code; those outside of it last."""
    view = server.where()
    lines = [(line.text.strip(), mark) for each in view.functions for line in each.lines for mark in line.marks]
    lines += [("", mark) for mark in view.elsewhere]
    return [(text, str(mark)) for text, mark in lines if mark.kind in (STANDS, PAUSED)]


def marks(server):
    return [mark for _, mark in stands(server)]


def held(server):
    """The calls before which threads are held, by label."""
    server.settle()
    return {task.label: task.paused.name for task in server.observation.alive() if task.paused}


def calls(server):
    """What the server has done so far."""
    return [event.kind for event in server.observation.log if event.thread and event.kind in patched.TWINS]


def swapped():
    """The methods of socket.socket that stop, by name; each of the others has to be the plain twin."""
    found = [name for name in patched.TWINS if vars(socket.socket).get(name) is not patched.TWINS[name]]
    assert all(vars(socket.socket)[name] is patches.HELD[name] for name in found)
    return sorted(found)


def until(happened):
    deadline = time.monotonic() + LONG
    while not happened():
        assert time.monotonic() < deadline


def drive(server, done, most=200):
    """Step until `done()`; the names of the calls that were let go."""
    made = []
    for _ in range(most):
        server.settle()
        if done():
            return made
        made += held(server).values()
        assert server.step(), f"nobody is held; {marks(server)}"
    raise AssertionError(f"{most} steps and no end: {made}")


def finish(server, most=50):
    """Step until nobody is held any more."""
    made = []
    while names := held(server):
        made += names.values()
        server.step()
        assert len(made) < most, made
    return made


def every_call(host, port):
    with socket.create_server((host, port)) as listener:
        conn, _ = listener.accept()
        with conn:
            conn.recv(2)
            conn.recv_into(bytearray(3))
            conn.send(b"a")
            conn.sendall(b"b")


# -- one call at a time ------------------------------------------------------------------------------------------------


def test_each_call_waits_for_its_step():
    with start(every_call) as server:
        server.pause()
        assert server.paused
        assert stands(server) == [("conn, _ = listener.accept()", "◀ server thread: waits in accept for a new client")]
        assert server.step() == []
        with Client(server, name="alice") as alice:
            alice.send("hello")
            told = []
            while held(server):
                told.append((*stands(server)[0], calls(server)[-1]))
                in_the_timeline = str(server.timeline().by_thread()).rpartition(" · ")[2]
                assert in_the_timeline == told[-1][1].replace("‖ server thread: ", "is ")
                assert server.step() == ["server thread"]
            assert told == [
                ("conn.recv(2)", "‖ server thread: paused before recv for alice", "accept"),
                ("conn.recv_into(bytearray(3))", "‖ server thread: paused before recv for alice", "recv"),
                ('conn.send(b"a")', "‖ server thread: paused before send to alice", "recv"),
                ('conn.sendall(b"b")', "‖ server thread: paused before sendall to alice", "send"),
                ("with conn:", "‖ server thread: paused before close of alice's connection", "send"),
                (
                    "with socket.create_server((host, port)) as listener:",
                    "‖ server thread: paused before close of the listening socket",
                    "close",
                ),
            ]
            assert alice.receive(size=2, timeout=LONG) == "ab"
            assert str(server.where()).splitlines()[0] == "every_call: no thread is left"
            assert (server.step(), server.running, server.error) == ([], False, None)


def test_what_is_known_of_a_held_thread():
    with start(serve_single) as server, Client(server, name="alice") as alice:
        server.settle()
        (task,) = server.observation.alive()
        assert (task.paused, task.waiting.connection) == (None, task.connection)
        server.pause()
        before = server.observation.log.clock()
        alice.send("hello")
        server.settle()
        call = task.paused
        assert (call.name, call.seen.connection, task.waiting) == ("sendall", task.connection, None)
        assert rest.state(server.observation) == (True, [])  # it rests, and need not be watched for that
        assert before < call.began < server.observation.log.clock()
        with pytest.raises(AttributeError):
            call.name = "recv"


def test_the_view_of_a_server_that_runs_step_by_step():
    def serve(host, port):
        with socket.create_server((host, port)) as s:
            while True:
                conn, _ = s.accept()
                with conn:
                    while data := conn.recv(1024):
                        conn.sendall(data)

    with start(serve) as server, Client(server, name="alice") as alice, Client(server, name="bob"):
        server.pause()
        alice.send("hello")
        assert str(server.where()) == textwrap.dedent("""\
            serve: 1 thread, step by step

                def serve(host, port):
                    with socket.create_server((host, port)) as s:
                        while True:
                            conn, _ = s.accept()                   ○ nobody is here
                            with conn:
                                while data := conn.recv(1024):
                                    conn.sendall(data)             ‖ server thread: paused before sendall to alice""")
        assert server.snapshot().headline == "bob waits: the only thread is paused before sendall to alice"
        html = server.where()._repr_html_()
        chip = 'border: 4px double #0077BB">‖ server thread: paused before sendall to alice</span></div>'
        (line,) = [each for each in html.removesuffix("</pre></div>").split("<div") if "conn.sendall" in each]
        assert line.startswith(' style="background: rgba(0, 119, 187, 0.14)">')
        assert line.endswith(chip)
        alice.close()
        assert server.step() == ["server thread"]
        assert server.step() == ["server thread"]  # recv has seen the end
        assert server.step() == ["server thread"]  # close
        # A thread that is held before accept is at the accept: it is not said that nobody is.
        assert stands(server) == [("conn, _ = s.accept()", "‖ server thread: paused before accept")]
        marked = [mark.kind for each in server.where().functions for line in each.lines for mark in line.marks]
        assert NOBODY not in marked
        assert server.snapshot().headline == "bob waits: the only thread is paused before accept"
        assert server.snapshot().figure()  # its badge is drawn
        server.resume()
        assert str(server.where()).startswith("serve: 1 thread\n")


def test_a_step_for_one_thread_only():
    with start(serve_threaded) as server:
        with Client(server, name="alice") as alice, Client(server, name="bob") as bob:
            server.pause()
            alice.send("hi")
            bob.send("ho")
            assert held(server) == {"thread 1": "sendall", "thread 2": "sendall"}
            assert marks(server) == [
                "◀ server thread: waits in accept for a new client",
                "‖ thread 1: paused before sendall to alice",
                "‖ thread 2: paused before sendall to bob",
            ]
            assert server.step("thread 2") == ["thread 2"]
            assert bob.receive(timeout=LONG) == "ho"
            assert held(server) == {"thread 1": "sendall", "thread 2": "recv"}
            assert alice.pending() == b""
            assert server.step("thread 2") == ["thread 2"]
            for wrong in ("thread 2", "server thread", "thread 9", ""):
                with pytest.raises(ValueError, match=r"paused now: thread 1$") as info:
                    server.step(wrong)
                assert repr(wrong) in str(info.value)
            assert server.step() == ["thread 1"]
            assert alice.receive(timeout=LONG) == "hi"
            server.resume()
            with pytest.raises(ValueError, match="paused now: no thread; serve_threaded does not run step by step"):
                server.step("thread 1")


def test_no_credit_and_no_double_release():
    """However many step at once: each thread makes as many calls as it was let go for."""

    def sends(host, port):
        with socket.create_server((host, port)) as s:
            with s.accept()[0] as conn:
                while True:
                    conn.sendall(b"x")

    let_go = []

    def steps():
        for _ in range(25):
            let_go.extend(server.step())

    with start(sends) as server:
        server.pause()
        with socket.create_connection(server.address):
            server.settle()
            threads = [threading.Thread(target=steps) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LONG)
            server.settle()
            assert held(server) == {"server thread": "sendall"}
            assert 25 <= len(let_go) <= 100
            assert calls(server).count("send") == len(let_go)
            assert [each.kind for each in server.observation.log].count("pause") == len(let_go)


def test_resume_sets_all_free():
    with start(serve_threaded) as server:
        with Client(server) as alice, Client(server) as bob:
            server.pause()
            server.pause()
            for each in (alice, bob):
                each.send("hello")
            assert set(held(server).values()) == {"sendall"}
            server.resume()
            server.resume()
            assert not server.paused
            for each in (alice, bob):
                assert each.receive(timeout=LONG) == "hello"
                each.send("again")
                assert each.receive(timeout=LONG) == "again"
            server.pause()
            alice.send("hello")
            assert held(server) == {"thread 1": "sendall"}


# -- all kinds of servers ----------------------------------------------------------------------------------------------


def lines_of(conn):
    with conn, conn.makefile("rwb") as file:
        for line in file:
            file.write(line)
            file.flush()


def by_file(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            lines_of(s.accept()[0])


def by_pool(host, port):
    with socket.create_server((host, port)) as s, ThreadPoolExecutor(2) as pool:
        while True:
            pool.submit(lines_of, s.accept()[0])


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


class Threading(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def by_socketserver(host, port):
    with Threading((host, port), Handler) as server:
        server.serve_forever()


def by_select(host, port):
    with socket.create_server((host, port)) as s, selectors.DefaultSelector() as selector:
        s.setblocking(False)
        selector.register(s, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is s:
                    conn, _ = s.accept()
                    conn.setblocking(False)
                    selector.register(conn, selectors.EVENT_READ)
                elif data := key.fileobj.recv(1024):
                    key.fileobj.send(data)
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


@pytest.mark.parametrize(
    ("serve", "answer", "end"),
    [
        (by_file, ["recv_into", "send"], ["recv_into", "close"]),
        (by_pool, ["recv_into", "send"], ["recv_into", "close"]),
        (by_socketserver, ["recv_into", "sendall"], ["recv_into", "close"]),
        (by_select, ["accept", "recv", "send"], ["recv", "close"]),
    ],
)
def test_every_kind_of_server_runs_step_by_step(serve, answer, end):
    with start(serve) as server:
        server.pause()
        with Client(server, name="alice") as alice:
            alice.send("hello\n")
            made = drive(server, lambda: "send" in calls(server))
            # What the first accept let in is on its way; the thread that accepts comes to its next accept meanwhile.
            assert [name for name in made if name != "accept" or serve is by_select] == answer
            assert alice.receive(timeout=LONG) == "hello\n"
        made = finish(server)
        assert [name for name in made if name != "accept"][-len(end) :] in (end, [*end[1:], "close"])
        assert calls(server).count("close") == 1
        assert server.error is None
        server.resume()
        with Client(server) as bob:
            bob.send("hello\n")
            assert bob.receive(timeout=LONG) == "hello\n"


def test_a_pool_that_is_older_than_the_server():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result(LONG)

        def serve(host, port):
            with socket.create_server((host, port)) as s:
                while True:
                    pool.submit(lines_of, s.accept()[0])

        for _ in range(2):  # the second time its worker is known as the first server's
            with start(serve) as server:
                server.pause()
                with Client(server, name="alice") as alice:
                    alice.send("hello\n")
                    until(lambda server=server: set(held(server)) - {"server thread"})  # known from its first call on
                    (label,) = set(held(server)) - {"server thread"}
                    assert f"‖ {label}: paused before recv for alice" in marks(server)
                    assert calls(server) == ["listen", "accept"]
                    drive(server, lambda: "send" in calls(server))
                    assert alice.receive(timeout=LONG) == "hello\n"
                assert "close" in finish(server)


def test_a_socketserver_that_is_handed_over():
    with start(Threading(("127.0.0.1", free_port()), Handler)) as server:
        server.pause()
        with Client(server, name="alice") as alice:
            assert marks(server) == ["‖ server thread: paused before accept"]
            alice.send("hello\n")
            drive(server, lambda: "send" in calls(server))
            assert alice.receive(timeout=LONG) == "hello\n"


def test_a_server_whose_accept_has_a_timeout():
    turns = threading.Semaphore(0)

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            s.settimeout(0.01)
            while True:
                with contextlib.suppress(TimeoutError):
                    s.accept()[0].close()
                turns.release()

    with start(serve) as server:
        assert turns.acquire(timeout=LONG)
        server.pause()
        while not held(server):  # it is in the accept in which it was
            assert turns.acquire(timeout=LONG)
        while turns.acquire(blocking=False):
            pass
        for _ in range(5):
            assert server.step() == ["server thread"]
            assert turns.acquire(timeout=LONG)
            assert held(server) == {"server thread": "accept"}
            assert not turns.acquire(blocking=False), "one step, one accept"


def test_a_client_that_hangs_up_meanwhile():
    with start(serve_single) as server:
        with Client(server, name="alice") as alice:
            server.pause()
            alice.send("hello")
            assert held(server) == {"server thread": "sendall"}
        assert held(server) == {"server thread": "sendall"}
        assert server.step() == ["server thread"]
        assert set(finish(server)) <= {"recv", "close", "accept"}
        assert marks(server) == ["◀ server thread: waits in accept for a new client"]
        assert server.error is None


def test_a_method_kept_from_before_is_not_held():
    """A known limit, which pause() tells of."""
    going_on = threading.Event()

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            with s.accept()[0] as conn:
                recv = conn.recv
                going_on.wait(LONG)
                while data := recv(1024):
                    conn.sendall(data)

    with start(serve) as server, Client(server, name="alice") as alice:
        server.pause()
        going_on.set()
        assert marks(server) == ["◀ server thread: waits in recv for alice"]
        alice.send("hello")
        assert held(server) == {"server thread": "sendall"}


# -- whose calls are held ----------------------------------------------------------------------------------------------


def test_only_the_servers_own_threads_are_held():
    kept = []

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            while True:
                conn, _ = s.accept()
                kept.append(conn)
                while data := conn.recv(1024):
                    conn.sendall(data)

    with start(serve) as server, start(serve_threaded) as other:
        server.pause()
        with Client(server) as alice, Client(other) as bob:
            bob.send("hello")
            assert bob.receive(timeout=LONG) == "hello"
            assert (held(other), other.paused) == ({}, False)
            assert "pause" not in [event.kind for event in other.observation.log]
            assert held(server) == {"server thread": "recv"}
            kept[0].sendall(b"from a cell")
            assert alice.receive(timeout=LONG) == "from a cell"
            other.pause()
            server.resume()
            bob.send("hello")
            alice.send("hello")
            assert alice.receive(timeout=LONG) == "hello"
            assert held(other) == {"thread 1": "sendall"}
            alice.close()


def test_what_the_kit_closes_is_not_held():
    kept = []

    def serve(host, port):
        s = socket.create_server((host, port))
        kept.append(s)
        kept.append(s.accept()[0])

    with start(serve) as server:
        server.pause()
        with Client(server):
            assert server.settle()
            assert marks(server) == []
            assert not server.running
            assert [each.fileno() for each in kept] == [-1, -1]
    kept.clear()


def test_a_destructor_that_runs_in_the_kits_own_code_is_not_held(monkeypatch):
    """The garbage collector closes a forgotten file in whatever thread, and wherever that is."""
    first, kept = threading.Event(), []

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            conn, _ = s.accept()
            cycle = [conn.makefile("rb")]
            cycle.append(cycle)
            conn.close()  # the file keeps it open
            kept.append(conn)
            del cycle
            first.set()
            with s.accept()[0] as conn:
                conn.recv(1)

    gc.collect()
    gc.freeze()  # there is little else to look through
    gc.disable()
    try:
        with start(serve) as server, Client(server):
            assert first.wait(LONG)
            server.pause()
            with Client(server, name="bob") as bob:
                server.settle()
                assert held(server) == {"server thread": "recv"}
                bob.send("x")
                assert "close" not in calls(server)
                log = server.observation.log
                # The next one who asks for the time collects; without a frame of this file, which would be a student's.
                times = map(operator.call, itertools.chain([gc.collect], itertools.repeat(log.clock)))
                monkeypatch.setattr(log, "clock", times.__next__)
                assert server.step() == ["server thread"]
                assert held(server) == {"server thread": "close"}
                assert "close" in calls(server)
                assert marks(server) == ["‖ server thread: paused before close of bob's connection"]
                assert kept[0].fileno() == -1
                monkeypatch.undo()
    finally:
        gc.enable()
        gc.unfreeze()


# -- the end -----------------------------------------------------------------------------------------------------------


def outcomes(host, port):
    """Tells what each of its calls gave."""

    def told(call, *args):
        try:
            result = call(*args)
        except BaseException as error:
            print(call.__name__, type(error).__name__)
            raise
        print(call.__name__, result if isinstance(result, bytes) else "done")
        return result

    def accept():
        return s.accept()[0]

    def recv():
        return conn.recv(1024)

    def sendall():
        conn.sendall(data)

    def close():
        conn.close()

    with socket.create_server((host, port)) as s:
        while True:
            conn = told(accept)
            with contextlib.suppress(OSError):
                while data := told(recv):
                    told(sendall)
            told(close)


@pytest.mark.parametrize(
    ("state", "printed"),
    [
        ("accept", ["close done", "accept ServerStopped"]),
        ("recv", ["recv b''", "close done", "accept ServerStopped"]),
        ("sendall", ["recv b'hello'", "sendall BrokenPipeError", "close done", "accept ServerStopped"]),
        ("close", ["recv b''", "close done", "accept ServerStopped"]),
    ],
)
def test_stop_from_every_state(state, printed):
    """To the student's code it looks as it does when nobody has paused anything; and nothing is thrown into it."""
    server = start(outcomes)
    server.pause()
    with Client(server) as alice:
        if state == "sendall":
            alice.send("hello")
        elif state in ("close", "accept"):
            alice.close()
        drive(server, lambda: state in held(server).values())
        began = server.observation.log.clock()
        server.stop()
        assert server.observation.log.clock() - began < 2
    assert server.log.lines()[-len(printed) :] == printed
    assert not server.paused
    assert not server.running
    server.pause()
    assert (server.paused, server.step(), watched.running) == (False, [], [])
    server.resume()


def test_stop_with_many_threads_held_while_another_thread_steps():
    server = start(serve_threaded)
    over = threading.Event()

    def steps():
        while not over.is_set():
            server.step()

    server.pause()
    stepper = threading.Thread(target=steps)
    with contextlib.ExitStack() as stack:
        for number in range(20):
            stack.enter_context(Client(server, name=str(number))).send("hello")
            server.step()
        stepper.start()
        try:
            server.stop()
        finally:
            over.set()
            stepper.join(LONG)
    assert not server.running
    assert server.error is None


def test_stop_while_a_held_thread_has_the_students_lock():
    lock = threading.Lock()

    def handle(conn):
        with conn:
            while data := conn.recv(1024):
                with lock:
                    conn.sendall(data)

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            while True:
                threading.Thread(target=handle, args=(s.accept()[0],)).start()

    server = start(serve)
    with Client(server, name="alice") as alice, Client(server, name="bob") as bob:
        server.pause()
        alice.send("hi")
        assert held(server) == {"thread 1": "sendall"}
        bob.send("ho")
        waits = "waits" if sys.platform == "linux" else "is"
        assert f"◀ thread 2: {waits} at with lock, serving bob" in marks(server)
        assert held(server) == {"thread 1": "sendall"}
        server.stop()
    assert not server.running
    assert server.error is None


def test_stop_by_one_of_its_own_threads():
    stopped = threading.Event()

    def handle(conn):
        with conn:
            if conn.recv(1024) == b"stop":
                server.stop()
                stopped.set()

    def serve(host, port):
        with socket.create_server((host, port)) as s:
            while True:
                threading.Thread(target=handle, args=(s.accept()[0],)).start()

    server = start(serve)
    with Client(server) as alice, Client(server) as bob:
        server.pause()
        alice.send("other")
        bob.send("stop")
        assert stopped.wait(LONG)  # it was in its recv when the server was paused
        server.stop()
    assert not server.running


def test_a_new_server_of_the_same_name():
    first = start(serve_single)
    with Client(first):
        first.pause()
        with start(serve_single) as second, Client(second) as alice:
            assert (first.running, second.paused, swapped()) == (False, False, [])
            alice.send("hello")
            assert alice.receive(timeout=LONG) == "hello"


def test_the_interpreter_ends_with_held_threads():
    program = """
        from echo_kit import Client, serve_threaded, start
        server = start(serve_threaded)
        server.pause()
        alice = Client(server, name="alice")
        alice.send("hello")
        print(server.step(), server.step("thread 1"))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=LONG, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "['server thread', 'thread 1'] ['thread 1']\n", "")


def test_pause_step_and_resume_by_many_at_once(busy):
    """Whatever order they come in, nobody is left behind, and stop ends the server."""
    over = threading.Event()

    def hammer(*what):
        while not over.is_set():
            for each in what:
                each()

    server = start(serve_threaded)
    gate = lambda on: lambda: patches.step_by_step(server.observation, on)  # noqa: E731
    threads = [threading.Thread(target=hammer, args=each) for each in ((gate(True), gate(False)), (server.step,))]
    with busy():
        with Client(server) as alice:
            for thread in threads:
                thread.start()
            try:
                for number in range(200):
                    alice.send(f"{number:3}")
                    assert alice.receive(size=3, timeout=LONG) == f"{number:3}"
            finally:
                over.set()
                for thread in threads:
                    thread.join(LONG)
            server.pause()
            server.stop()
    assert not server.running
    assert server.observation.trouble is None


# -- costs nothing when off --------------------------------------------------------------------------------------------


def test_the_wrappers_are_there_only_while_a_server_runs_step_by_step():
    plain = [getattr(socket.socket, name) for name in SWAPPED]
    with start(serve_single) as one:
        with start(serve_threaded) as two:
            assert swapped() == []
            one.pause()
            assert swapped() == sorted(SWAPPED)
            two.pause()
            one.resume()
            assert swapped() == sorted(SWAPPED)
            two.stop()
            assert swapped() == []
            one.pause()
            assert swapped() == sorted(SWAPPED)
            two.resume()
            assert swapped() == sorted(SWAPPED)
    assert [getattr(socket.socket, name) for name in SWAPPED] == plain


def test_the_wrappers_go_with_an_observation_that_was_not_stopped_in_good_order():
    plain = [getattr(socket.socket, name) for name in SWAPPED]
    observation = watched.Observation("broken off")
    patches.begin(observation)
    try:
        patches.step_by_step(observation, True)
        assert swapped() == sorted(SWAPPED)
    finally:
        patches.end(observation)
        observation.close_all()
    assert [getattr(socket.socket, name) for name in SWAPPED] == plain


@pytest.mark.parametrize("when", ["before", "while"])
def test_what_somebody_else_has_patched_is_left_alone(when, monkeypatch):
    with start(serve_single) as server, Client(server) as alice:
        server.settle()
        if when == "while":
            server.pause()
        theirs = socket.socket.recv
        monkeypatch.setattr(socket.socket, "recv", lambda self, *args: theirs(self, *args))
        mine = socket.socket.recv
        server.pause()
        server.resume()
        assert socket.socket.recv is mine
        alice.send("hello")
        assert alice.receive(timeout=LONG) == "hello"
        monkeypatch.undo()  # puts back what stood there: once the server is stopped, it is nobody's
        if when == "while":
            assert swapped() == ["recv"]
            server.pause()
            server.resume()
        assert swapped() == []


# -- what the timeline says --------------------------------------------------------------------------------------------


def test_a_pause_is_not_work():
    with start(serve_threaded) as server, Client(server, name="alice") as alice:
        server.pause()
        alice.send("hello")
        before = server.timeline()
        assert str(before.by_thread()).splitlines()[1:] == [
            "  server thread  accepted alice · waits in accept",
            "  thread 1       served alice · is paused before sendall to alice",
        ]
        (pending,) = [span for span in before.spans["alice"] if span.state == PAUSED_STRETCH]
        assert (pending.end, pending.thread, pending.client) == (before.now, "thread 1", "alice")
        assert before.spans["alice"][-1] == pending
        server.step()
        assert "is paused before recv for alice" in str(server.timeline().by_thread())
        assert alice.receive(timeout=LONG) == "hello"
        server.step()
        alice.close()
        assert "is paused before close of alice's connection" in str(server.timeline().by_thread())
        server.step()
        timeline = server.timeline()
        pauses = [event for event in timeline.events if event.kind == "pause"]
        assert [each.thread for each in pauses] == ["thread 1"] * 3
        spans = timeline.spans["alice"]
        drawn = [(each.begin, each.end) for each in spans if each.state == PAUSED_STRETCH]
        assert drawn == [(each.began, each.ended) for each in pauses]
        assert all(a.end <= b.begin for a, b in itertools.pairwise(spans)), "no two at once"
        states = [each.state for each in timeline.thread_spans["thread 1"]]
        assert states[-1] == WORKS, "from the end of the pause to the close"
        assert [state for state in states if state != WORKS] == [
            *(IN_RECV, PAUSED_STRETCH, PAUSED_STRETCH, IN_RECV, PAUSED_STRETCH)
        ]
        (row,) = timeline.table()
        busy = sum(each.end - each.begin for each in spans if each.state == WORKS)
        assert row["seconds busy"] == pytest.approx(busy)
        assert row["seconds busy"] < row["seconds served"] - sum(end - begin for begin, end in drawn)
        assert "pause" not in {each["call"] for each in timeline.calls()}
        assert str(
            timeline
        ) == "serve_threaded: 1 connection\n  alice  connected · accepted · served by thread 1 · " + (
            '"hello" echoed · left'
        )


@pytest.mark.parametrize(
    ("selects", "after_the_send"), [(False, [(WORKS, 6, 7)]), (True, [])], ids=["blocks", "selects"]
)
def test_what_is_work_before_and_after_a_pause(selects, after_the_send):
    end, log, lanes = Connection(("127.0.0.1", 1)), EventLog(), Lanes()
    for kind, began in (("accept", 0), ("recv", 1), ("pause", 3), ("send", 5), ("pause", 7), ("close", 9)):
        log.add(kind, began, end, thread="server thread", ended=began + 1)
    lanes.selects = selects
    lanes.fold(log)
    assert [span[:3] for span in lanes.threads["server thread"]] == [
        (IN_ACCEPT, 0, 1),
        (IN_RECV, 1, 2),
        (WORKS, 2, 3),
        (PAUSED_STRETCH, 3, 4),
        (WORKS, 4, 5),
        (WORKS, 5, 6),
        *after_the_send,
        (PAUSED_STRETCH, 7, 8),
        (WORKS, 8, 9),
    ]


def test_a_pause_before_accept_is_the_threads_and_nobody_elses():
    with start(serve_threaded) as server:
        server.pause()
        with Client(server, name="alice"):
            server.settle()
            timeline = server.timeline()
            assert timeline.lanes[0].threads == ["thread 1"], "who is held before accept serves nobody"
            assert str(timeline.by_thread()).splitlines()[1:] == [
                "  server thread  accepted alice · is paused before accept",
                "  thread 1       is paused before recv for alice",
            ]
            server.step()
            spans = server.timeline().thread_spans["server thread"]
            assert [(each.state, each.client) for each in spans] == [
                *((IN_ACCEPT, ""), (PAUSED_STRETCH, ""), (IN_ACCEPT, ""))
            ]


@pytest.mark.parametrize("dark", [False, True])
def test_a_pause_is_drawn_by_more_than_a_colour(dark):
    with start(serve_single) as server, Client(server, name="alice") as alice:
        server.pause()
        alice.send("hello")
        figure = server.timeline().figure(dark=dark)
        (axis,) = figure.axes
        (bars,) = [each for each in axis.collections if each.get_hatch() == HATCHES[PAUSED_STRETCH.hatch]]
        ink = figure.legends[0].get_texts()[0].get_color()
        assert matplotlib_colours(bars) == {(PAUSED_STRETCH.colour.lower(), ink.lower())}
        assert PAUSED_STRETCH.legend in [each.get_text() for each in figure.legends[0].get_texts()]
        assert PAUSED_STRETCH.colour not in [state.colour for state in STATES if state != PAUSED_STRETCH]
        server.step()
        server.step()
        threads = server.timeline().by_thread().figure(dark=dark)
        assert PAUSED_STRETCH.legend in [each.get_text() for each in threads.legends[0].get_texts()]


def matplotlib_colours(bars):
    from matplotlib.colors import to_hex

    return {(to_hex(face), to_hex(edge)) for face in bars.get_facecolor() for edge in bars.get_edgecolor()}


def test_a_pause_that_a_stop_ends_is_in_the_timeline():
    with start(serve_single) as server, Client(server, name="alice") as alice:
        server.pause()
        alice.send("hello")
        server.settle()
    timeline = server.timeline()
    (pause,) = [event for event in timeline.events if event.kind == "pause"]
    assert (pause.thread, pause.error, pause.size) == ("server thread", "", 0)
    assert [each.state for each in timeline.spans["alice"]].count(PAUSED_STRETCH) == 1
    assert {event.kind for event in timeline.events if event.error == STOPPED} == {"send"}  # before which it was held


# -- the gate ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def waiting(gate, who):
    """A thread that waits at the gate; gives the event of its coming through."""
    through = threading.Event()

    def run():
        gate.wait(who, f"what {who} does")
        through.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until(lambda: gate.what(who) is not None)
        yield through
    finally:
        gate.open()
        thread.join(LONG)


def test_an_open_gate_holds_nobody():
    gate = Gate()
    gate.wait("a", "x")
    assert (gate.what("a"), gate.let_go("a"), gate.leaving(["a"])) == (None, False, False)


def test_the_gate_lets_one_through_once():
    gate = Gate()
    gate.closed = True
    with waiting(gate, "a") as a, waiting(gate, "b") as b:
        assert (gate.what("a"), gate.what("b"), gate.what("c")) == ("what a does", "what b does", None)
        assert gate.let_go("a")
        assert not gate.let_go("a")
        assert a.wait(LONG)
        assert not b.is_set()
        assert (gate.what("a"), gate.what("b")) == (None, "what b does")
        with waiting(gate, "a") as again:
            assert not again.is_set(), "no credit is kept"
            assert gate.what("a") == "what a does"
    assert b.wait(LONG)
    assert not gate.leaving("ab")


def test_a_wake_up_that_is_lost_is_no_hang():
    gate = Gate()
    gate.closed = True
    with waiting(gate, "a") as a, waiting(gate, "b") as b:
        gate._standing.pop("a")  # and nobody releases its lock
        assert a.wait(50 * gates.SLICE)
        gate.closed = False
        assert b.wait(50 * gates.SLICE)


def test_who_has_been_let_go_is_on_its_way(monkeypatch):
    """Until it has run: else a view could take it for one that rests."""
    gate, through = Gate(), []

    class Lock:
        def acquire(self, timeout=None):
            if timeout is not None:
                through.append((gate.let_go("a"), gate.leaving(["a"]), gate.leaving(["b"])))

        def release(self):
            pass

    monkeypatch.setattr(gates, "allocate_lock", Lock)
    gate.closed = True
    gate.wait("a", "x")
    assert through == [(True, True, False)]
    assert not gate.leaving(["a"])


def test_a_server_does_not_rest_while_one_is_on_its_way():
    with start(serve_single) as server:
        server.settle()
        (task,) = server.observation.alive()
        server.observation.gate._leaving.add(task)
        assert not server.settle(timeout=0.1)
        server.observation.gate._leaving.clear()
        assert server.settle()


def test_an_observer_that_is_broken_holds_nobody(monkeypatch):
    def broken(*args, **named):
        raise RuntimeError("the observer is broken")

    with start(serve_single) as server, socket.create_connection(server.address, timeout=LONG) as alice:
        server.pause()
        monkeypatch.setattr(Gate, "wait", broken)
        monkeypatch.setattr(EventLog, "add", broken)
        alice.sendall(b"hello")
        assert alice.recv(100) == b"hello"
        assert server.error is None
        assert isinstance(server.observation.trouble, RuntimeError)
