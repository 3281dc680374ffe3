"""The finished servers as programs of their own: every byte comes back, whoever leaves how, and Ctrl+C ends them."""

import contextlib
import errno
import os
import random
import re
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import echo_kit
from echo_kit import free_port, servers
from echo_kit.servers import handle_client, readable

from .programs import LIMIT, ROOT, SYSTEMS, Program, ask, connect, read, read_to_end, reset, serving

COMMANDS = ["server", "server-thread"]
LINE = re.compile(r"(Connected by|Received data from|Lost) \('127\.0\.0\.1', \d+\)( : .+)?|Listening on .*|Stopped")


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(params=COMMANDS)
def server(request, stack):
    return stack.enter_context(serving(request.param))


@pytest.fixture
def client(server, stack):
    return stack.enter_context(connect(server))


def still_serves(server):
    """A new client is served, nothing is printed but the known lines, and Ctrl+C ends the server in good order."""
    with connect(server) as sock:
        assert ask(sock, b"still there?") == b"still there?"
    server.interrupt()
    assert [line for line in server.out.splitlines() if not LINE.fullmatch(line)] == []


# -- every byte comes back ---------------------------------------------------------------------------------------------


def test_the_messages_of_the_classic_exercise(server, client):
    me = client.getsockname()
    ask(client, "Grüße".encode())
    assert server.expect(" : Grüße\n") == f"Connected by {me}\nReceived data from {me} : Grüße\n"


def test_every_value_of_a_byte_comes_back(server, client):
    every = bytes(range(256))
    assert ask(client, every) == every
    assert [ask(client, every[n : n + 1]) for n in every] == [every[n : n + 1] for n in every]
    client.close()
    still_serves(server)


def test_a_megabyte_in_random_pieces_comes_back(server, client):
    chance = random.Random(1)
    data = chance.randbytes(1_000_000)

    def feed():
        at = 0
        while at < len(data):
            size = chance.randrange(1, 9000)
            client.sendall(data[at : at + size])
            at += size
        client.shutdown(socket.SHUT_WR)  # a half-close: all of it still has to come back

    feeder = threading.Thread(target=feed)
    feeder.start()
    back = read_to_end(client)
    feeder.join(LIMIT)
    assert back == data
    client.close()
    still_serves(server)


def test_a_half_closed_client_gets_the_rest(server, client):
    client.sendall(b"x" * 100_000)
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == b"x" * 100_000


def test_a_character_in_two_pieces(server, client):
    assert ask(client, b"\xe2\x82") + ask(client, b"\xac") == "€".encode()
    server.expect(" : \\xe2\\x82\n")
    server.expect(" : \\xac\n")
    client.close()
    still_serves(server)


def test_no_control_character_reaches_the_terminal(server, client):
    evil = "\x1b[2J\x1b]0;title\x07\r\x00\x7f\x85\x9b31m\u202e\u2028\ud83d".encode("utf-8", "surrogatepass")
    assert ask(client, evil + b"\n\tend") == evil + b"\n\tend"
    text = server.expect("end\n").splitlines()[-1]
    assert text.endswith(r" : \x1b[2J\x1b]0;title\x07\r\x00\x7f\x85\x9b31m\u202e\u2028\\xed\\xa0\\xbd\n\tend")
    client.close()
    still_serves(server)
    assert re.search(r"[^\n -~]", server.out) is None


def test_long_texts_are_cut(server, client):
    ask(client, b"y" * 300)
    ask(client, b"\0" * 300)
    server.expect(" : " + "y" * 199 + "…\n")
    server.expect(" : " + r"\x00" * 49 + r"\x0" + "…\n")
    assert [len(readable(b"z" * size)) for size in (0, 1, 200, 201)] == [0, 1, 200, 200]
    assert readable("it's “é”, C:\\temp".encode()) == "it's “é”, C:\\temp"  # what a terminal can show, it shows


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "", "LC_ALL": "C"}], ids=str)
def test_a_terminal_without_umlauts(command, env, stack):
    server = stack.enter_context(serving(command, env=env))
    with connect(server) as client:
        assert ask(client, "é€😀".encode() * 100) == "é€😀".encode() * 100
    still_serves(server)


# -- clients that leave ------------------------------------------------------------------------------------------------


def test_a_client_that_resets(server, client):
    me = client.getsockname()
    ask(client, b"hi")
    reset(client)
    server.expect(f"Lost {me} : ")
    still_serves(server)


def test_a_client_that_resets_while_the_server_sends(server, stack):
    client = stack.enter_context(never_reading(server))
    me = client.getsockname()
    reset(client)
    server.expect(f"Lost {me} : ")
    still_serves(server)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux can lose a client that fast")
def test_a_client_whose_network_is_gone(stack, capsys):
    listener = stack.enter_context(socket.create_server(("127.0.0.1", free_port())))
    client = stack.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(listener.getsockname())
    conn, addr = listener.accept()
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)  # milliseconds; without it, a quarter of an hour
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            client.send(b"x" * 1000)
    handle_client(conn, addr)
    assert f"Lost {addr} : {os.strerror(errno.ETIMEDOUT)}\n" in capsys.readouterr().out
    assert conn.fileno() == -1


def never_reading(server):
    """A client that has sent until the server, blocked in sendall, took no more."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    sock.settimeout(0.5)  # no room for so long: nobody reads at the other end
    with contextlib.suppress(TimeoutError):
        while True:
            sock.sendall(b"x" * 100_000)
    return sock


# -- many clients ------------------------------------------------------------------------------------------------------


def test_the_single_server_serves_one_after_the_other(stack):
    server = stack.enter_context(serving("server"))
    alice, bob = (stack.enter_context(connect(server)) for _ in "ab")
    bob.sendall(b"hi")
    for _ in range(100):
        ask(alice, b"hello")
    assert select.select([bob], [], [], 0)[0] == []
    assert str(bob.getsockname()) not in server.out
    alice.close()
    assert read(bob, 2) == b"hi"


def test_the_threaded_server_serves_both(stack):
    server = stack.enter_context(serving("server-thread"))
    alice, bob = (stack.enter_context(connect(server)) for _ in "ab")
    for _ in range(10):
        assert ask(bob, b"hi") == b"hi"
        assert ask(alice, b"hello") == b"hello"


def test_the_lines_of_many_clients_do_not_mix(stack):
    server = stack.enter_context(serving("server-thread"))
    socks = [stack.enter_context(connect(server)) for _ in range(5)]
    threads = [threading.Thread(target=lambda sock=sock: [ask(sock, b"%d" % n) for n in range(200)]) for sock in socks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    for sock in socks:
        sock.close()
    still_serves(server)
    for sock in range(5):
        assert len(re.findall(r"^Received data from .* : 1\d\d$", server.out, re.M)) == 500, sock


def test_the_threaded_server_forgets_clients_that_have_left():
    def kept():
        for frame in sys._current_frames().values():
            while frame is not None:
                if frame.f_code.co_name == "serve_threaded":
                    return len(frame.f_locals["clients"])
                frame = frame.f_back
        raise AssertionError("serve_threaded does not run")

    with echo_kit.start(echo_kit.serve_threaded) as server:
        for _ in range(200):
            with socket.create_connection(server.address, timeout=LIMIT) as sock:
                ask(sock, b"hi")
                sock.shutdown(socket.SHUT_WR)
                assert read_to_end(sock) == b""
        assert kept() <= 10
        assert len(server.threads) <= 10


# -- it says no to nobody for long -------------------------------------------------------------------------------------

LIMITED = """
import os, sys, time
from echo_kit import servers
from echo_kit.__main__ import main
print("pid", os.getpid(), flush=True)
began = time.process_time()
{settings}
main()
print(f"CPU {{time.process_time() - began:.2f}}", flush=True)
os._exit(0)
"""
FEW = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
has_resource = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for a single process")


def limited(settings, command="server-thread"):
    """A server with other limits than those that it has in the lesson."""
    return serving(command, python=("-c", LIMITED.format(settings=settings)))


def nothing_comes(sock, seconds=0.3):
    return select.select([sock], [], [], seconds)[0] == []


@has_resource
@pytest.mark.parametrize(
    "leaves",
    [
        pytest.param(True, marks=pytest.mark.soak, id="the hog leaves"),
        pytest.param(False, id="the hog is cut by the idle limit"),
    ],
)
def test_a_client_that_takes_every_file_descriptor(stack, leaves):
    server = stack.enter_context(limited(f"{FEW}; servers.IDLE = {60 if leaves else 2}"))
    hog = [stack.enter_context(connect(server)) for _ in range(80)]
    server.expect("Full : Too many open files\n")
    late = stack.enter_context(connect(server))
    late.sendall(b"hi")
    if leaves:
        assert nothing_comes(late, seconds=3)
        for sock in hog:
            sock.close()
    assert read(late, 2) == b"hi"
    late.close()
    server.interrupt()
    assert float(server.out.split()[-1]) < 1  # seconds of processor time; one that tries again and again has 3 here
    assert server.out.count("Full : ") < 10
    assert "Traceback" not in server.out


@pytest.mark.parametrize("way", ["the system has no more", "Thread.start says so"])
def test_a_client_for_which_no_thread_is_to_be_had_is_refused_and_the_others_are_served(way, stack):
    if way == "Thread.start says so":
        server = stack.enter_context(echo_kit.start(echo_kit.serve_threaded, most_threads=4))
        address = server.address
    else:
        program = stack.enter_context(limited(NO_THREADS))
        address = ("127.0.0.1", program.port)
    served = [stack.enter_context(socket.create_connection(address, timeout=LIMIT)) for _ in range(3)]
    assert [ask(sock, b"hi") for sock in served] == 3 * [b"hi"]
    for _ in range(2):
        with socket.create_connection(address, timeout=LIMIT) as late:
            assert late.recv(1) == b""
    assert [ask(sock, b"hi") for sock in served] == 3 * [b"hi"]
    served[0].close()
    if way == "Thread.start says so":
        assert server.settle()
        assert server.error is None
        assert server.log.lines().count("Full : can't start new thread") == 2
        with socket.create_connection(address, timeout=LIMIT) as late:
            assert ask(late, b"hi") == b"hi"
    else:
        program.interrupt()
        assert program.out.count("Full : can't start new thread\n") == 2
        assert "Traceback" not in program.out


NO_THREADS = """
import threading
name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"  # since 3.13
begin, left = getattr(threading, name), iter(4 * [True])  # one for Ctrl+C
def start_new_thread(*arguments, **named):
    if next(left, False):
        return begin(*arguments, **named)
    raise RuntimeError("can't start new thread")
setattr(threading, name, start_new_thread)
"""

ARRIVALS = """
import contextlib, os, signal, socket, sys, threading, time
from echo_kit import free_port, servers
from echo_kit.servers import serve_threaded

out, sys.stdout = sys.stdout, open(os.devnull, "w")
port, forgotten = free_port(), 0

def come(clients, over):
    while not over.is_set():
        with contextlib.suppress(OSError):
            clients.append(socket.create_connection(("127.0.0.1", port), timeout=5))

def press(clients, count):
    while len(clients) < count:
        time.sleep(0)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

for number in range(40):
    clients, over = [], threading.Event()
    mine = [threading.Thread(target=come, args=(clients, over)),
            threading.Thread(target=press, args=(clients, 2 + number % 7))]
    with contextlib.suppress(KeyboardInterrupt):
        for thread in mine:
            thread.start()
        serve_threaded("127.0.0.1", port)
    over.set()
    for thread in mine:
        thread.join()
    deadline = time.monotonic() + 2
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.001)  # a thread that had just been started learns that its client was hung up on
    forgotten += threading.active_count() - 1
    for sock in clients:
        sock.close()
print(forgotten, "threads were not told", file=out, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals for a thread")
def test_ctrl_c_while_clients_arrive_hangs_up_on_each(stack):
    """In a notebook: the process goes on after it, so that nobody else would close the connections."""
    program = subprocess.run([sys.executable, "-c", ARRIVALS], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert (program.stdout, program.stderr) == ("0 threads were not told\n", "")


def test_clients_beyond_the_limit_wait_in_the_backlog(stack):
    server = stack.enter_context(limited("servers.MOST = 2"))
    alice, bob = (stack.enter_context(connect(server)) for _ in "ab")
    for sock in (alice, bob):
        ask(sock, b"hello")
    carol = stack.enter_context(connect(server))
    carol.sendall(b"hi")
    assert nothing_comes(carol)
    assert str(carol.getsockname()) not in server.out
    reset(bob)
    assert read(carol, 2) == b"hi"
    for leave in (socket.socket.close, reset) * 3:  # a place is given back, once, however a client leaves
        dave, erin = (stack.enter_context(connect(server)) for _ in "de")
        erin.sendall(b"hi")
        assert nothing_comes(erin, seconds=0.1)
        leave(carol)
        assert ask(dave, b"hello") == b"hello"
        assert nothing_comes(erin, seconds=0.1)
        leave(dave)
        assert read(erin, 2) == b"hi"
        carol = erin
    stack.enter_context(connect(server)).sendall(b"hi")
    server.interrupt()  # while somebody waits


@pytest.mark.parametrize("command", COMMANDS)
def test_a_silent_client_is_hung_up_on(stack, command):
    server = stack.enter_context(limited("servers.IDLE = 1", command))
    silent = stack.enter_context(connect(server))
    me = silent.getsockname()
    next_one = stack.enter_context(connect(server))
    next_one.sendall(b"hi")
    assert read(next_one, 2) == b"hi"
    assert silent.recv(1) == b""
    server.expect(f"Lost {me} : timed out\n")
    still_serves_after(server, next_one)


def still_serves_after(server, sock):
    sock.close()
    with connect(server) as another:
        assert ask(another, b"still there?") == b"still there?"
    server.interrupt()
    assert "Traceback" not in server.out


def test_a_client_that_never_reads_is_hung_up_on(stack):
    server = stack.enter_context(limited("servers.IDLE = 1"))
    client = stack.enter_context(never_reading(server))
    server.expect(f"Lost {client.getsockname()} : timed out\n")
    still_serves_after(server, client)


def test_an_active_client_is_not_hung_up_on(stack):
    server = stack.enter_context(limited("servers.IDLE = 1"))
    active, silent = (stack.enter_context(connect(server)) for _ in range(2))
    deadline = time.monotonic() + LIMIT
    while nothing_comes(silent, seconds=0.05):  # the limit begins anew with each message
        assert time.monotonic() < deadline
        assert ask(active, b"hello") == b"hello"
    assert ask(active, b"and again") == b"and again"


@pytest.mark.parametrize("platform", ["linux", "elsewhere"])
def test_the_idle_limit_may_be_a_part_of_a_second(stack, monkeypatch, capsys, platform):
    monkeypatch.setattr(servers, "IDLE", 0.05)
    monkeypatch.setattr(servers, "sys", SimpleNamespace(platform=platform if sys.platform == "linux" else "elsewhere"))
    listener = stack.enter_context(socket.create_server(("127.0.0.1", free_port())))
    silent = stack.enter_context(socket.create_connection(listener.getsockname()))
    handler, began = threading.Thread(target=handle_client, args=listener.accept()), time.monotonic()
    handler.start()
    handler.join(LIMIT)
    took = time.monotonic() - began
    silent.shutdown(socket.SHUT_RDWR)  # in any case it ends now
    handler.join(LIMIT)
    assert 0.04 < took < LIMIT
    me = silent.getsockname()
    assert capsys.readouterr().out == f"Connected by {me}\nLost {me} : timed out\n"


def room_for_a_thousand():
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return most > 2200 and int(Path("/proc/sys/net/core/somaxconn").read_text()) >= 1000
    except (ImportError, OSError):
        return False


@pytest.fixture
def many_descriptors():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not room_for_a_thousand(), reason="this system has no room for a thousand clients in a backlog")
def test_a_thousand_that_come_at_once(stack, many_descriptors):
    """All are connected before the server takes the first, and then all are served: within 0.5 s, measured."""
    server = stack.enter_context(limited(""))
    pid = int(re.search(r"pid (\d+)", server.out)[1])
    os.kill(pid, signal.SIGSTOP)
    try:
        socks = [stack.enter_context(socket.socket()) for _ in range(1000)]
        chooser = stack.enter_context(selectors.DefaultSelector())
        for sock in socks:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", server.port))
            chooser.register(sock, selectors.EVENT_WRITE)
        while len(chooser.get_map()):
            connected = chooser.select(0.9)  # one that gets no answer tries again after a second
            assert connected, f"{len(chooser.get_map())} of 1,000 found no room in the backlog"
            for key, _ in connected:
                assert key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                chooser.unregister(key.fileobj)
    finally:
        os.kill(pid, signal.SIGCONT)
    for sock in socks:
        sock.settimeout(LIMIT)
        sock.sendall(b"hi")
    for sock in socks:
        assert read(sock, 2) == b"hi"
    server.interrupt()  # while all are there


# -- Ctrl+C ------------------------------------------------------------------------------------------------------------


def with_nobody(server):
    with connect(server) as sock:
        ask(sock, b"hello")
    return []


def with_silent_clients(server):
    socks = [connect(server) for _ in range(3)]
    ask(socks[0], b"hello")
    return socks


def with_clients_that_never_read(server):
    return [never_reading(server), connect(server)]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("clients", [with_nobody, with_silent_clients, with_clients_that_never_read])
def test_ctrl_c_ends_it_and_the_port_is_free_at_once(command, system, clients, stack):
    python = SYSTEMS[system]
    server = stack.enter_context(serving(command, python=python))
    for sock in clients(server):
        stack.enter_context(sock)  # still connected, when the next server starts
    server.interrupt()
    assert "\nStopped\n" in server.out
    again = stack.enter_context(serving(command, port=server.port, python=python))
    assert again.port == server.port
    still_serves(again)


def test_ctrl_c_ends_the_threads_of_all_clients(stack):
    code = (
        "import os, threading; from echo_kit.servers import serve_threaded; serve_threaded('127.0.0.1', 0);"
        "print('threads', threading.active_count(), flush=True); os._exit(0)"
    )
    server = stack.enter_context(serving(python=("-u", "-c", code)))
    for sock in with_silent_clients(server) + with_clients_that_never_read(server):
        stack.enter_context(sock)
    for _ in range(5):
        server.expect("Connected by")
    server.interrupt()
    # The main thread; and the newest, if Ctrl+C came between its start and its entry in `clients`.
    assert int(server.out.split()[-1]) <= 2


@pytest.mark.parametrize("command", COMMANDS)
def test_ipv6(command, stack):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = stack.enter_context(serving(command, "::1"))
    client = stack.enter_context(Program("client", "::1", server.port))
    client.expect(f"Connected to ::1:{server.port}, use Ctrl+C to exit\n> ")
    client.type("hi\n")
    client.expect("Received  :  hi\n> ")
    assert re.fullmatch(r"Connected by (\('::1', \d+, 0, 0\))\nReceived data from \1 : hi\n", server.expect(" : hi\n"))
    client.interrupt()
    server.interrupt()
