"""The command line as a user meets it: the client's messages, and one line that helps for every bad input."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from echo_kit import free_port

from .programs import LIMIT, ROOT, SYSTEMS, Program, ask, connect, read, reset, serving

SERVERS = ["server", "server-thread"]
COMMANDS = [*SERVERS, "client"]


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def run(stack):
    return lambda *arguments, **options: stack.enter_context(Program(*arguments, **options))


@pytest.fixture
def listener(stack):
    """A server that the test plays itself."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", free_port())))
    listener.settimeout(LIMIT)
    return listener


@pytest.fixture
def talk(run, listener, stack):
    """Start a client; the program, and the test's end of its connection."""

    def start(**options):
        client = run("client", *listener.getsockname(), **options)
        conn = stack.enter_context(listener.accept()[0])
        conn.settimeout(LIMIT)
        client.expect("> ")
        return client, conn

    return start


@pytest.fixture
def held_port(stack):
    """A port at which nobody listens, and that nobody else can get."""
    holder = stack.enter_context(socket.socket())
    holder.bind(("127.0.0.1", free_port()))
    return holder.getsockname()[1]


def complains(program, *words):
    """It ended with exit code 2 and one line that has all of the words."""
    code, error = program.end()
    assert code == 2, error
    assert re.fullmatch(r"echo_kit: [^\n]+\n", error), error
    assert [word for word in words if word not in error] == [], error


# -- the client --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", SERVERS)
def test_the_messages_of_the_classic_exercise(command, run, stack):
    server = stack.enter_context(serving(command))
    client = run("client", "127.0.0.1", server.port)
    client.type("hello\n")
    client.type("Grüße\n")
    assert client.end() == (0, "")
    connected = f"Connected to 127.0.0.1:{server.port}, use Ctrl+C to exit\n"
    assert client.out == f"{connected}> Received  :  hello\n> Received  :  Grüße\n> \n"


def test_a_client_gives_its_name_in_its_first_line(run, listener, stack):
    client = run("client", *listener.getsockname(), "--name", "alice")
    conn = stack.enter_context(listener.accept()[0])
    conn.settimeout(LIMIT)
    client.expect("> I am alice\n")
    assert read(conn, 10) == b"I am alice"
    conn.sendall(b"I am alice")
    client.expect("Received  :  I am alice\n> ")
    complains(run("server", "--name", "alice"), "--name is for a client")


@pytest.mark.parametrize("command", COMMANDS)
def test_without_an_address_the_first_line_says_how_to_give_one(command, run):
    program = run(command)
    program.expect(f"To use another address: python -m echo_kit {command} HOST PORT\n")
    assert program.out.count("To use another address") == 1
    # Somebody may use port 8000 of this machine: then a client connects, and a server has to complain.
    try:
        program.expect("Connected to 127.0.0.1:8000, " if command == "client" else "Listening on 127.0.0.1:8000\n")
    except AssertionError:
        refused = ("nobody listens at 127.0.0.1:8000", "start a server")
        complains(program, *(refused if command == "client" else ("port 8000 is held by", "another port")))
    else:
        program.interrupt()


def test_an_empty_line_does_not_hang_it(run, talk):
    client, conn = talk()
    client.type("\n")
    client.expect("(an empty line sends nothing: there is nothing to wait for)\n> ")
    client.type("hello\n")
    assert read(conn, 5) == b"hello"


@pytest.mark.parametrize("text", ["x" * 5000, "é€😀" * 1000, "a"])
@pytest.mark.parametrize("command", SERVERS)
def test_a_reply_comes_back_whole(command, text, run, stack):
    server = stack.enter_context(serving(command))
    client = run("client", "127.0.0.1", server.port)
    for line in (text, "next"):
        client.type(f"{line}\n")
        client.expect(f"Received  :  {line}\n> ")


def test_a_reply_in_single_bytes(talk):
    client, conn = talk()
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.type("wörld\n")
    for byte in read(conn, 6):
        conn.sendall(bytes([byte]))
    client.expect("Received  :  wörld\n> ")


def test_a_reply_does_not_move_the_cursor(talk):
    client, conn = talk()
    client.type("1234567\n")
    read(conn, 7)
    conn.sendall(b"\x1b[2J\r\xff\n")
    client.expect("Received  :  \\x1b[2J\\r\\xff\\n\n> ")


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
@pytest.mark.parametrize("answer", [b"", b"he"])
def test_the_server_leaves_instead_of_answering(leave, answer, talk):
    client, conn = talk()
    client.type("hello\n")
    read(conn, 5)
    conn.sendall(answer)
    leave(conn)
    client.expect("The server has left: ")
    assert client.end() == (0, "")


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
def test_the_server_leaves_while_the_client_types(leave, talk):
    client, conn = talk()
    leave(conn)
    client.type("hello\n")
    client.expect("The server has left: ")
    assert client.end() == (0, "")


def test_ctrl_c_at_the_prompt(talk):
    client, conn = talk()
    client.interrupt()
    assert conn.recv(1) == b""


def test_ctrl_c_while_it_waits_for_an_answer(talk):
    client, conn = talk()
    client.type("hello\n")
    read(conn, 5)
    client.interrupt()
    assert conn.recv(1) == b""


def test_the_end_of_the_input(talk):
    client, conn = talk()
    assert client.end() == (0, "")
    assert conn.recv(1) == b""


@pytest.mark.parametrize(
    "env", [{}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "", "LC_ALL": "C"}], ids=["utf-8", "ascii", "C"]
)
def test_any_bytes_typed_at_any_terminal(env, talk):
    client, conn = talk(env=env)
    typed = "Grüße".encode() + b"\xff\xfe\x80\xe2\x82"
    client.type(typed + b"\n")
    assert read(conn, len(typed)) == typed
    conn.sendall(typed)
    shown = r"Gr\xfc\xdfe" if env.get("PYTHONIOENCODING") == "ascii" else "Grüße"
    client.expect(f"Received  :  {shown}" + r"\xff\xfe\x80\xe2\x82" + "\n> ")
    assert client.end() == (0, "")


# -- bad input ---------------------------------------------------------------------------------------------------------

BAD = {
    "no port": (["127.0.0.1", "abc"], ["'abc'", "is not a port", "like 8000"]),
    "too big": (["127.0.0.1", "70000"], ["'70000'", "is not a port", "like 8000"]),
    "negative": (["127.0.0.1", "-1"], ["'-1'", "is not a port", "like 8000"]),
    "endless": (["127.0.0.1", "9" * 5000], ["'999", "is not a port", "like 8000"]),
    "empty": (["127.0.0.1", ""], ["''", "is not a port", "like 8000"]),
    "Arabic digits": (["127.0.0.1", "٨٠٠٠"], ["'٨٠٠٠'", "is not a port", "like 8000"]),
    "one argument": (["8000"], ["'8000'", "give both, like 127.0.0.1 8000"]),
    "three arguments": (["127.0.0.1", "8000", "x"], ["'127.0.0.1 8000 x'", "give both, like 127.0.0.1 8000"]),
    "unknown option": (["--loud", "127.0.0.1", "8000"], ["--loud", "--help"]),
    "unknown host": (["nobody.invalid", "8000"], ["nobody.invalid", "127.0.0.1"]),
    "no host name": (["x" * 70, "8000"], ["x" * 70, "is not a host name: try 127.0.0.1"]),
    "no host": (["", "8000"], ["'' is not a host: try 127.0.0.1"]),
    "blank host": (["  ", "8000"], ["'  ' is not a host: try 127.0.0.1"]),
    "host of bytes": (["\udcff\udcfe", "8000"], ["'\\udcff\\udcfe' is not a host name: try 127.0.0.1"]),
    "host with an escape": (["a\x1b[2Jb", "8000"], ["'a\\x1b[2Jb' is not a host", "try 127.0.0.1"]),
    "host with an empty label": (["a..b", "8000"], ["'a..b' is not a host name: try 127.0.0.1"]),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line_that_helps(command, arguments, words, run):
    complains(run(command, *arguments), *words)


@pytest.mark.parametrize(("arguments", "words"), [([], ["command", "--help"]), (["sever"], ["'sever'", "'server'"])])
def test_no_such_command(arguments, words, run):
    complains(run(*arguments), *words)


@pytest.mark.parametrize("command", SERVERS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_port_in_use(command, system, run, listener):
    port = listener.getsockname()[1]
    program = run(command, "127.0.0.1", port, python=SYSTEMS[system])
    complains(program, f"port {port} is held by ", f" (process {os.getpid()}): stop it, or use another port")


@pytest.mark.parametrize("command", SERVERS)
def test_an_address_of_another_machine(command, run):
    complains(run(command, "192.0.2.1", 8000), "192.0.2.1 is not an address of this machine", "try 127.0.0.1")


@pytest.mark.parametrize("command", SERVERS)
@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost", "::"])
def test_it_says_who_can_connect(command, host, stack):
    if host == "::" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    server = stack.enter_context(serving(command, host))
    said = server.out.splitlines()[:-1]
    more = f"At {host} other computers can connect, too; at 127.0.0.1 only this one can"
    assert said == ([] if host in ("127.0.0.1", "localhost") else [more])
    with connect(server, "::1" if host == "::" else "127.0.0.1") as sock:
        assert ask(sock, b"hi") == b"hi"


# Drop CAP_NET_BIND_SERVICE (10) by PR_CAPBSET_DROP (24): root then has no more right to low ports than anybody else.
WITHOUT_RIGHTS = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 10, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a program give away its right to a low port")
@pytest.mark.parametrize("command", SERVERS)
def test_a_port_below_1024(command, run):
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 1:
        pytest.skip("this machine lets every user have port 1")
    program = run("-m", "echo_kit", command, "127.0.0.1", 1, python=("-c", WITHOUT_RIGHTS))
    complains(program, "port 1 on 127.0.0.1 is not allowed", "from 1024 up")


def test_a_refused_connection(run, held_port):
    complains(run("client", "127.0.0.1", held_port), f"nobody listens at 127.0.0.1:{held_port}", "start a server")


def test_port_0_is_for_servers(run):
    complains(run("client", "127.0.0.1", 0), "'0'", "like 8000")


def test_help(run):
    program = run("--help")
    assert program.end() == (0, "")
    for word in (*COMMANDS, "HOST PORT", "127.0.0.1 8000", "Ctrl+C"):
        assert word in program.out


# -- what it needs -----------------------------------------------------------------------------------------------------

BARE = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
try:
    runpy.run_module("echo_kit", run_name="__main__", alter_sys=True)
finally:
    foreign = {{name.split(".")[0] for name in sys.modules}} - {{*sys.stdlib_module_names, "echo_kit", "__main__"}}
    assert not foreign, foreign
"""


@pytest.mark.parametrize("command", SERVERS)
def test_the_standard_library_is_enough(command, run, stack):
    server = stack.enter_context(serving(command, python=("-I", "-S", "-c", BARE)))
    with connect(server) as sock:
        assert ask(sock, b"hi") == b"hi"
    client = run("client", "127.0.0.1", server.port, python=("-I", "-S", "-c", BARE))
    client.type("hi\n")
    client.expect("Received  :  hi\n> ")
    assert client.end() == (0, "")
    server.interrupt()


def test_nothing_of_jupyter_is_loaded(run):
    code = "import sys, echo_kit, echo_kit.__main__; print(*sys.modules)"
    program = run(python=("-c", code))
    assert program.end() == (0, "")
    assert {"matplotlib", "ipywidgets", "anywidget", "IPython", "numpy"}.isdisjoint(program.out.split())


# The signal goes to another thread: Python notes it, and the main thread waits on, as it does after one that came just
# before it began to wait.
UNNOTICED = """
import signal, socket, sys, threading
from echo_kit import free_port
from echo_kit.__main__ import _serve

def serve(host, port):
    with socket.create_server((host, port)) as s:
        threading.Thread(target=press, daemon=True).start()  # which waits, too, until the thread has started
        try:
            print("listening", flush=True)
            s.accept()
        except KeyboardInterrupt:
            print("Stopped", flush=True)

def press():
    sys.stdin.readline()
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

_serve(serve, "127.0.0.1", free_port())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there the main thread never waits in accept")
def test_a_ctrl_c_just_before_accept_is_not_lost(stack):
    program = subprocess.Popen([sys.executable, "-c", UNNOTICED], stdin=-1, stdout=-1, stderr=-1, text=True)
    stack.callback(program.kill)
    assert program.stdout.readline() == "listening\n"
    state = Path(f"/proc/{program.pid}/stat")
    deadline = time.monotonic() + LIMIT
    while state.exists() and ") S " not in state.read_text() and time.monotonic() < deadline:
        pass  # until it waits
    output, errors = program.communicate("now\n", timeout=LIMIT)
    assert (output, errors, program.returncode) == ("Stopped\n", "", 0)


# -- an output that takes nothing --------------------------------------------------------------------------------------


def fill(output):
    """Until not one byte more fits."""
    os.set_blocking(output, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(output, b"x")
    os.set_blocking(output, True)


def pipe():
    return os.pipe()


def terminal():
    return os.openpty()  # full, it is to its programs as with Ctrl+S pressed


@pytest.fixture
def blocked(stack):
    """A server whose output nobody reads, and which waits to print what it has just received."""

    def start(command, outlet, system="posix"):
        reader, writer = outlet()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        port = free_port()
        arguments = [sys.executable, *SYSTEMS[system], command, "127.0.0.1", str(port)]
        server = subprocess.Popen(arguments, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
        stack.callback(server.stderr.close)
        stack.callback(server.wait)
        stack.callback(server.kill)
        line = b""
        while b"Listening" not in line:
            line = os.read(reader, 1000)
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LIMIT))
        assert ask(sock, b"hi") == b"hi"
        fill(writer)
        sock.sendall(b"more")
        sock.settimeout(0.2)  # no answer comes
        with pytest.raises(TimeoutError):
            sock.recv(10)
        return server

    return start


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl+C can only be sent by signals")
@pytest.mark.parametrize(
    ("command", "outlet", "system"),
    [
        pytest.param("server", pipe, "posix", marks=pytest.mark.soak),
        ("server-thread", terminal, "posix"),
        pytest.param("server-thread", pipe, "windows", marks=pytest.mark.soak),
    ],
)
def test_ctrl_c_ends_a_server_whose_output_is_blocked(command, outlet, system, blocked):
    server = blocked(command, outlet, system)
    server.send_signal(signal.SIGINT)
    assert server.wait(LIMIT) == 0
    assert server.stderr.read() == ""


# A client to which Ctrl+C comes just before its print blocks.
UNNOTICED_BY_A_CLIENT = """
import signal, threading
from echo_kit.__main__ import run
threading.Thread(target=threading.Event().wait, daemon=True).start()  # takes the signal, and ends no call by it
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # here it is noticed when the call returns
run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl+C can only be sent by signals")
@pytest.mark.parametrize(
    "program", [["-m", "echo_kit"], ["-c", UNNOTICED_BY_A_CLIENT]], ids=["it waits", "just before"]
)
def test_ctrl_c_ends_a_client_whose_output_is_blocked(program, listener, stack):
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    arguments = [sys.executable, *program, "client", *map(str, listener.getsockname())]
    client = subprocess.Popen(arguments, cwd=ROOT, stdin=-1, stdout=writer, stderr=-1, text=True)
    stack.callback(client.communicate)
    stack.callback(client.kill)
    conn = stack.enter_context(listener.accept()[0])
    while b"> " not in os.read(reader, 1000):
        pass
    fill(writer)
    client.stdin.write("hello\n")
    client.stdin.flush()
    conn.sendall(conn.recv(100))
    client.send_signal(signal.SIGINT)
    assert client.wait(LIMIT) == 0


CLOSED = "echo_kit: nothing can be written any more (Broken pipe): this program ends\n"
FULL = "echo_kit: nothing can be written any more (No space left on device): this program ends\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are told apart otherwise")
@pytest.mark.parametrize("command", SERVERS)
def test_a_closed_output_ends_a_server_in_one_line(command, stack):
    """As in `… | head -1`."""
    port = free_port()
    arguments = [sys.executable, "-m", "echo_kit", command, "127.0.0.1", str(port)]
    server = subprocess.Popen(arguments, cwd=ROOT, stdout=-1, stderr=-1, text=True)
    stack.callback(server.stderr.close)
    stack.callback(server.wait)
    stack.callback(server.kill)
    assert server.stdout.readline() == f"Listening on 127.0.0.1:{port}\n"
    server.stdout.close()
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):  # it has ended already, or ends just then
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LIMIT))
    assert (server.wait(LIMIT), server.stderr.read()) == (0, CLOSED)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("command", SERVERS)
def test_an_output_without_room_ends_a_server_in_one_line(command):
    with open("/dev/full", "w") as full:
        arguments = [sys.executable, "-m", "echo_kit", command, "127.0.0.1", str(free_port())]
        server = subprocess.run(arguments, cwd=ROOT, stdout=full, stderr=-1, text=True, timeout=LIMIT)
    assert (server.returncode, server.stderr) == (0, FULL)
