"""A start that fails says why, in these sentences, and leaves nothing: no thread, socket or patch (conftest looks)."""

import argparse
import asyncio
import contextlib
import functools
import gc
import http.server
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import traceback

import pytest

from echo_kit import Client, ServerStuck, free_port, serve_single, start
from echo_kit.watch import holders, reasons

LONG = 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells this")


def failing(serve, **options):
    """What start() raises: its type, and its words with its notes, as a traceback shows them. It is forgotten then."""
    before = threading.enumerate()
    try:
        server = start(serve, **options)
    except BaseException as error:
        said = "\n".join([str(error), *getattr(error, "__notes__", [])])
        assert [each for each in threading.enumerate() if each not in before] == []  # while the error is still there
        traceback.clear_frames(error.__traceback__)  # whose variables hold sockets that were never bound
        return type(error), said
    server.stop()
    raise AssertionError(f"it has started: {server!r}")


# -- it ends before it listens -----------------------------------------------------------------------------------------


def catches(host, port):
    try:
        socket.create_server((host, port)).listen()
    except OSError as error:
        print("cannot bind:", error.strerror)


def exits_with_a_text(host, port):
    print("I look for a port")
    sys.exit("none is free\n\x1b[2Jbye")


def logs_and_returns(host, port):
    for number in range(100):
        print("line", number)
    print("x" * 1000, file=sys.stderr)


def does_nothing(host, port):
    pass


def test_what_it_printed_is_in_the_message():
    with socket.create_server(("127.0.0.1", free_port())) as held:
        port = held.getsockname()[1]
        kind, said = failing(catches, port=port)
    assert kind is RuntimeError
    lines = said.splitlines()
    assert lines[0].startswith(
        "catches() returned before it listened. Does it call listen() and then loop over accept()?"
    )
    assert f" Port {port} is held by a socket of this kernel" in lines[0]
    assert lines[1] == "It had printed:"
    assert re.fullmatch(r"    cannot bind: .*in use.*", lines[2]) or sys.platform == "win32"
    assert len(lines) == 3


def test_an_exit_is_told_with_its_text():
    kind, said = failing(exits_with_a_text)
    assert kind is RuntimeError
    assert said.splitlines() == [
        "exits_with_a_text() ended by sys.exit() before it listened.",
        "It had printed:",
        "    I look for a port",
        "    none is free",
        "    \\x1b[2Jbye",
    ]


def test_of_much_that_it_printed_the_last_lines_are_shown():
    _, said = failing(logs_and_returns)
    lines = said.splitlines()
    assert lines[1:4] == ["It had printed:", "    … 81 more …", "    line 81"]
    assert lines[-2:] == ["    line 99", "    " + "x" * 199 + "…"]


def test_of_what_printed_nothing_nothing_is_said():
    kind, said = failing(does_nothing)
    assert kind is RuntimeError
    assert said == "does_nothing() returned before it listened. Does it call listen() and then loop over accept()?"


def test_a_command_line_program_that_gets_no_arguments():
    def main():
        parser = argparse.ArgumentParser("server.py")
        parser.add_argument("host")
        parser.add_argument("port", type=int)
        given = parser.parse_args()
        serve_single(given.host, given.port)

    kind, said = failing(main)
    assert kind is RuntimeError
    assert said.splitlines() == [
        "main() ended by sys.exit(2) before it listened. start(main, arguments=['127.0.0.1', '8000']) gives it "
        "arguments as a command line does.",
        "It had printed:",
        "    usage: server.py [-h] host port",
        "    server.py: error: the following arguments are required: host, port",
    ]
    port, argv = free_port(), [*sys.argv]
    with start(main, arguments=["127.0.0.1", str(port)]) as server:
        assert server.address == ("127.0.0.1", port)
        server.restart()
        assert server.address == ("127.0.0.1", port)
        assert sys.argv == argv


def test_an_error_keeps_its_type_and_gets_what_was_printed_as_a_note():
    def serve(host, port):
        print("almost")
        raise LookupError("no such thing")

    assert failing(serve) == (LookupError, "no such thing\nIt had printed:\n    almost")


def test_a_ctrl_c_that_nobody_has_pressed():
    def serve(host, port):
        raise KeyboardInterrupt

    assert failing(serve) == (
        KeyboardInterrupt,
        "\nThe server raised it itself, before it listened: nobody has pressed Ctrl+C.",
    )


# -- it is no function that serves -------------------------------------------------------------------------------------


async def coroutine(host, port):
    pass


async def asynchronous_generator(host, port):
    yield


def generator(host, port):
    yield


class Handler(socketserver.BaseRequestHandler):
    pass


class Made:
    def __init__(self, host, port):
        self.address = host, port


class Called:
    async def __call__(self, host, port):
        pass


NOT_RUN = "calling it runs none of its lines; "
RUN_IT = NOT_RUN + "start() a function that runs it: def main(host, port): asyncio.run({}(host, port))"
TAKE_OUT = NOT_RUN + "take the yield out, or start() a function that runs through it"
NO_SERVERS = {
    "coroutine": (coroutine, "coroutine is a coroutine function (async def): " + RUN_IT.format("coroutine")),
    "partial": (
        functools.partial(coroutine, "127.0.0.1"),
        "coroutine is a coroutine function (async def): " + RUN_IT.format("coroutine"),
    ),
    "object": (Called(), "Called is a coroutine function (async def): " + RUN_IT.format("Called")),
    "async generator": (
        asynchronous_generator,
        "asynchronous_generator is an asynchronous generator function (async def with yield): " + TAKE_OUT,
    ),
    "generator": (generator, "generator is a generator function (it has a yield): " + TAKE_OUT),
    "handler": (
        Handler,
        "Handler is a class of the socketserver module: make a server of it, like "
        "start(TCPServer((host, port), Handler))",
    ),
    "class of servers": (
        http.server.HTTPServer,
        "HTTPServer is a class of the socketserver module: make a server of it, like "
        "start(HTTPServer((host, port), Handler))",
    ),
    "keyword": (
        lambda host, port, *, verbose: None,
        "start() can call serve(host, port), serve(port) or main(), but <lambda> needs 3 arguments: host, port, "
        "verbose. Give it the others by functools.partial or a lambda",
    ),
    "builtin": (dict, "start() cannot see which arguments dict takes: start() a function that calls it"),
    "called": (None, "start() needs the function that serves, like start(serve), not None"),
}


@pytest.mark.parametrize(("serve", "says"), NO_SERVERS.values(), ids=NO_SERVERS)
def test_what_serves_nobody_is_not_even_called(serve, says):
    assert failing(serve) == (TypeError, says)


def test_what_hides_a_coroutine_or_makes_an_object():
    assert failing(lambda host, port: coroutine(host, port)) == (
        RuntimeError,
        "<lambda>() returned a coroutine and ran none of its lines: asyncio.run(...) runs them.",
    )
    assert failing(lambda host, port: generator(host, port)) == (
        RuntimeError,
        "<lambda>() returned a generator and ran none of its lines: a loop over it runs them.",
    )
    assert failing(Made) == (
        RuntimeError,
        "Made is a class: calling it made an object, and nothing listened. start() the method that serves.",
    )


def test_a_partial_has_the_name_of_its_function():
    def serve(greeting, host, port):
        serve_single(host, port)

    with start(functools.partial(serve, "hello")) as server:
        assert server.name == "serve"


def test_asyncio_in_a_function_is_watched():
    async def talk(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()
        writer.close()

    def serve(host, port):
        async def main():
            async with await asyncio.start_server(talk, host, port) as listener:
                await listener.serve_forever()

        asyncio.run(main())

    with start(serve) as server:
        with Client(server, name="alice") as alice:
            alice.send("hi")
            assert alice.receive(timeout=LONG) == "hi"
        assert str(server.timeline()).splitlines()[1:] == [
            '  alice  connected · accepted · served by the server thread · "hi" echoed · left'
        ]


# -- it serves what cannot be watched ----------------------------------------------------------------------------------

UDP = "This is a UDP socket: it has no connections to watch. Use SOCK_STREAM, with listen() and accept()."
UNIX = "This is a socket of AF_UNIX: its clients have no host and port to tell them apart by. Use AF_INET."
needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no AF_UNIX")


def udp(host, port):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((host, port))
        print("ready")
        while True:
            data, who = sock.recvfrom(1024)
            sock.sendto(data, who)


def udp_left_open(host, port):
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind((host, port))
    sock.settimeout(60)
    sock.recv(1024)


def udp_of_socketserver(host, port):
    with socketserver.ThreadingUDPServer((host, port), Handler) as server:
        server.serve_forever()


def udp_of_asyncio(host, port):
    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, (host, port))
        try:
            await asyncio.sleep(60)
        finally:
            transport.close()

    asyncio.run(main())


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of such a socket has 108 bytes at most


def unix(host, port):
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("door")
        door.listen()
        while True:
            door.accept()


def unix_datagrams(host, port):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("door")
        sock.recv(1024)


def unix_of_socketserver(host, port):
    with socketserver.UnixStreamServer("door", Handler) as server:
        server.serve_forever()


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        *((each, UDP) for each in (udp, udp_left_open, udp_of_socketserver, udp_of_asyncio)),
        pytest.param(unix, UNIX, marks=needs_unix),
        pytest.param(unix_of_socketserver, UNIX, marks=needs_unix),
        pytest.param(unix_datagrams, UNIX, marks=needs_unix),
    ],
)
def test_what_cannot_be_watched_is_refused_at_once(serve, says, path):
    began = time.monotonic()
    kind, said = failing(serve, timeout=LONG)
    assert time.monotonic() - began < LONG / 4
    assert kind is RuntimeError
    assert re.fullmatch(rf"{serve.__name__}\(\) did not listen; it stood at line \d+ of \w+: .+", said.splitlines()[0])
    assert said.splitlines()[0].endswith(f". {says}")
    assert said.splitlines()[1:] == (["It had printed:", "    ready"] if serve is udp else [])


def test_the_port_of_what_was_refused_is_free_again():
    port = free_port()
    failing(udp_left_open, port=port)
    with socket.socket(type=socket.SOCK_DGRAM) as again:
        again.bind(("127.0.0.1", port))


def test_udp_beside_tcp_is_served():
    def serve(host, port):
        with socket.socket(type=socket.SOCK_DGRAM) as beside:
            beside.bind((host, port))
            time.sleep(0.3)  # longer than it takes to be certain of one that reads
            serve_single(host, port)

    with start(serve) as server, Client(server) as client:
        client.send("x")
        assert client.receive(timeout=LONG) == "x"


def test_udp_that_is_closed_before_it_listens():
    def serve(host, port):
        with socket.socket(type=socket.SOCK_DGRAM) as first:
            first.bind((host, port))
        time.sleep(0.3)
        serve_single(host, port)

    with start(serve) as server, Client(server) as client:
        client.send("x")
        assert client.receive(timeout=LONG) == "x"


def test_udp_and_a_server_that_does_something_else():
    def serve(host, port):
        with socket.socket(type=socket.SOCK_DGRAM) as beside:
            beside.bind((host, port))
            while True:
                time.sleep(0.01)

    kind, said = failing(serve, timeout=0.5)
    assert kind is ServerStuck
    assert said.startswith("serve() did not listen within 0.5 s; it stood at line ")
    assert said.endswith(f" then accept().{UDP.replace('This is', ' It has bound')}")


@pytest.mark.parametrize("kind", [socketserver.UDPServer, socketserver.ThreadingUDPServer])
def test_a_server_object_of_udp(kind):
    with kind(("127.0.0.1", 0), Handler) as made:
        says = f"start() cannot watch this {kind.__name__}: {UDP.replace('This is', 'it has').rstrip('.')}"
        assert failing(made) == (RuntimeError, says)


def test_a_server_object_that_does_not_listen():
    with http.server.HTTPServer(("127.0.0.1", 0), Handler, False) as made:
        says = "it does not listen. Call its server_bind() and server_activate(), or leave out the False"
        assert failing(made) == (RuntimeError, f"start() cannot watch this HTTPServer: {says}")
    says = "its socket is closed. Make a new HTTPServer, and start() that"
    assert failing(made) == (RuntimeError, f"start() cannot watch this HTTPServer: {says}")


# -- it cannot have its address ----------------------------------------------------------------------------------------


def binds(address, family=socket.AF_INET):
    def serve(host, port):
        with socket.socket(family) as sock:
            sock.bind(address(host, port))

    return serve


def two_arguments(host, port):
    with socket.socket() as sock:
        sock.bind(host, port)


ELSEWHERE = "try 127.0.0.1, or 0.0.0.0 for all addresses of this machine."
ADDRESSES = {
    "too big": (binds(lambda host, port: (host, 70000)), "70000 is not a port: take a number from 1024 to 65535."),
    "text": (
        binds(lambda host, port: (host, "8000")),
        "The port that bind() got is text, '8000': make it a number by int().",
    ),
    "no pair": (
        binds(lambda host, port: host),
        "bind() takes one pair, (host, port), in brackets of its own: bind((host, port)).",
    ),
    "two": (two_arguments, "bind() takes one pair, (host, port), in brackets of its own: bind((host, port))."),
    "unknown": (
        binds(lambda host, port: ("nobody.invalid", port)),
        f"'nobody.invalid' is not a host that this machine knows: {ELSEWHERE}",
    ),
    "not a name": (binds(lambda host, port: ("ä" * 70, port)), f"'{'ä' * 70}' is not a host name: {ELSEWHERE}"),
    "create_server": (
        lambda host, port: socket.create_server(("nobody.invalid", port)),
        f"'nobody.invalid' is not a host that this machine knows: {ELSEWHERE}",
    ),
    "another machine": (
        binds(lambda host, port: ("192.0.2.1", port)),
        f"192.0.2.1 is not an address of this machine: {ELSEWHERE}",
    ),
    "IPv6": (binds(lambda host, port: ("::1", port)), "::1 is an IPv6 address: make the socket with socket.AF_INET6."),
    "IPv4": (
        binds(lambda host, port: ("127.0.0.1", port), socket.AF_INET6),
        "127.0.0.1 is an IPv4 address: make the socket with socket.AF_INET.",
    ),
}


@pytest.mark.parametrize(("serve", "says"), ADDRESSES.values(), ids=ADDRESSES)
def test_an_address_that_cannot_be_bound(serve, says):
    kind, said = failing(serve)
    assert said.splitlines()[1:] == [says]
    with pytest.raises(kind):  # the very error that it gets without us
        serve("127.0.0.1", free_port())


def test_accept_without_listen():
    def serve(host, port):
        with socket.socket() as sock:
            sock.bind((host, port))
            sock.accept()

    _, said = failing(serve)
    assert said.splitlines()[1:] == ["accept() needs a socket that listens: call listen() on it first."]


def test_a_server_that_waits_for_somebody_to_type(monkeypatch):
    def serve(host, port):
        input("port? ")

    reader, writer = os.pipe()
    before = threading.enumerate()
    with open(reader) as keyboard, open(writer, "w") as typist:
        monkeypatch.setattr(sys, "stdin", keyboard)
        with pytest.raises(ServerStuck) as info:
            start(serve, timeout=0.2)
        typist.write("\n")
        typist.flush()
        for thread in set(threading.enumerate()) - set(before):
            thread.join(LONG)
    first, stays, *printed = str(info.value).splitlines()
    assert first.endswith(
        ' of serve: input("port? "). A server calls bind(), then listen(), then accept(). input() waits for what '
        "somebody types: write the value into the code, or ask in a cell before start()."
    )
    assert stays.endswith("To be rid of the thread, restart the kernel.")
    assert printed == ["It had printed:", "    port? "]


def test_errors_of_other_calls_get_no_reason():
    def serve(host, port):
        with open(__file__ + "/nothing"):
            pass

    _, said = failing(serve)
    assert len(said.splitlines()) == 1
    assert reasons.refusal(PermissionError(13, "no"), ("127.0.0.1", 80)) == (
        "port 80 on 127.0.0.1 is not allowed: ports below 1024 need special rights; take one from 1024 up"
    )
    assert reasons.refusal(OSError(5, "disk"), ("127.0.0.1", 80)) == ""


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"host": ""}, ValueError, f"host='' is not a host: {ELSEWHERE[:-1]}"),
        (
            {"host": "nobody.invalid"},
            ValueError,
            f"host='nobody.invalid' is not a host that this machine knows: {ELSEWHERE[:-1]}",
        ),
        ({"host": "\udcff"}, ValueError, f"host='\\udcff' is not a host name: {ELSEWHERE[:-1]}"),
        (
            {"host": "nul\0byte"},
            ValueError,
            f"host='nul\\x00byte' is not a host that this machine knows: {ELSEWHERE[:-1]}",
        ),
        ({"host": ("127.0.0.1", 8000)}, TypeError, "host= takes text like '127.0.0.1', not ('127.0.0.1', 8000)"),
        ({"port": "8000"}, TypeError, "port= takes a number like 8000, not '8000'"),
        (
            {"port": 70000},
            ValueError,
            "70000 is not a port: take a number from 1024 to 65535, or leave out port= to get a free one",
        ),
        (
            {"port": -1},
            ValueError,
            "-1 is not a port: take a number from 1024 to 65535, or leave out port= to get a free one",
        ),
    ],
)
def test_what_start_is_given_is_looked_at_first(given, kind, says):
    assert failing(serve_single, **given) == (kind, says)


# -- signals -----------------------------------------------------------------------------------------------------------

MAIN_THREAD = (
    "A server in a notebook runs in a thread, and Python handles signals in the main thread only: leave that call out "
    "here. server.interrupt() raises KeyboardInterrupt in the server, as Ctrl+C does in a terminal."
)


def sets_a_handler(host, port):
    signal.signal(signal.SIGINT, lambda *_: None)
    serve_single(host, port)


def sets_a_wakeup(host, port):
    signal.set_wakeup_fd(-1)


def sets_a_handler_of_asyncio(host, port):
    async def main():
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, print)

    asyncio.run(main())


@pytest.mark.parametrize("serve", [sets_a_handler, sets_a_wakeup, sets_a_handler_of_asyncio])
def test_signals_are_for_the_main_thread(serve):
    kind, said = failing(serve)
    assert kind in (ValueError, RuntimeError)
    assert said.splitlines()[1:] == [MAIN_THREAD]


# -- who holds the port ------------------------------------------------------------------------------------------------


def without_reuse(host, port):
    with socket.socket() as sock:
        sock.bind((host, port))
        sock.listen()
        sock.accept()


def holder_of(port, serve=without_reuse, **options):
    """The sentence that start() says of a port that is in use."""
    kind, said = failing(serve, port=port, **options)
    assert kind is OSError
    assert "in use" in said.splitlines()[0] or sys.platform == "win32"
    return said.partition("\n")[2]


def test_another_server_of_this_kernel_is_called_by_its_name():
    with start(serve_single, name="first\x1b[2J") as first:
        port = first.address[1]
        says = (
            f"Port {port} is held by the server first\\x1b[2J of this kernel, at 127.0.0.1:{port}: call stop() of it, "
        )
        assert holder_of(port) == holder_of(port, host="0.0.0.0") == f"{says}or use another port."


def test_a_server_of_the_socketserver_module_in_this_kernel():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made, start(made, name="web"):
        port = made.server_address[1]
        assert f"Port {port} is held by the server web of this kernel" in holder_of(port)


@pytest.fixture
def main_module(monkeypatch):
    """What a notebook has in its cells: variables, and IPython's list of the cells that were run."""
    main = type(sys)("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    main.In = ["", "import socket", "door = 1\nhttpd = 2", "%time 1 + 1", "with make() as door: pass", "print(door)"]
    return main


def test_a_socket_that_a_cell_left_open(main_module):
    with socket.create_server(("127.0.0.1", 0)) as main_module.door:
        port = main_module.door.getsockname()[1]
        assert holder_of(port) == (
            f"Port {port} is held by a socket of this kernel that is still open, the variable door of cell [4]: call "
            "door.close(), or use another port."
        )
    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as main_module.httpd:
        port = main_module.httpd.server_address[1]
        assert "the variable httpd.socket of cell [2]: call httpd.socket.close()," in holder_of(port)
    with socket.socket() as main_module.bound:
        main_module.bound.bind(("127.0.0.1", 0))  # and does not listen
        assert "the variable bound: call bound.close()," in holder_of(main_module.bound.getsockname()[1])


def test_a_connection_and_a_socket_without_a_name(main_module):
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        says = (
            f"Port {port} is held by a socket of this kernel that no variable of the notebook names (file descriptor "
        )
        assert holder_of(port) == f"{says}{door.fileno()}): restart the kernel, or use another port."
        client = socket.create_connection(door.getsockname())
        main_module.conn, _ = door.accept()
        gc.collect()  # and so the walk through all objects comes to a younger connection first
        with socket.create_connection(door.getsockname()), door.accept()[0]:
            assert holder_of(port).startswith(says)
    with client, main_module.conn:
        if sys.platform == "linux":
            assert holder_of(port) == (
                f"Port {port} is held by a connection of this kernel that is still open, the variable conn: call "
                "conn.close(), or use another port."
            )


LISTENS = (
    "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
)


@contextlib.contextmanager
def process(*arguments, code=LISTENS):
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=-1, stdout=-1, text=True) as running:
        try:
            yield running, int(running.stdout.readline())
        finally:
            running.communicate("\n", timeout=LONG)


@LINUX
def test_another_process_is_named():
    with process() as (other, port):
        name = os.path.basename(sys.executable)
        says = f"Port {port} is held by {name} -c {LISTENS}"
        assert holder_of(port) == (
            f"{says[: says.index(name) + holders.COMMAND - 1]}… (process {other.pid}, which this kernel has started): "
            "stop it, or use another port."
        )


@LINUX
def test_the_kernel_of_another_notebook_is_called_so():
    with process("-m", "ipykernel_launcher") as (other, port):
        says = f"Port {port} is held by the kernel of another notebook (process {other.pid}): "
        assert holder_of(port) == f"{says}stop it, or use another port."


FORKS = """
import os, socket
from echo_kit import start
from echo_kit.watch import holders
door = socket.create_server(("127.0.0.1", 0))
address = door.getsockname()
reader, writer = os.pipe()
child = os.fork()
if not child:
    os.close(writer)
    os.read(reader, 1)
    os._exit(0)
door.close()
del door
print(holders.holder(address).replace(str(child), "CHILD").replace(str(address[1]), "PORT"))
os.close(writer)
os.waitpid(child, 0)
"""


@LINUX
def test_a_child_process_that_holds_what_its_parent_has_closed():
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=LONG, check=False)
    said = "port PORT is held by a child process of this kernel (process CHILD): stop it, or use another port.\n"
    assert (done.stdout, done.stderr) == (said, "")


def test_a_server_that_tries_again_and_again_is_told_who_holds_the_port():
    def serve(host, port):
        while True:
            try:
                socket.create_server((host, port))
            except OSError:
                time.sleep(0.01)

    with start(serve_single, name="first") as first:
        port = first.address[1]
        kind, said = failing(serve, port=port, timeout=0.2)
        assert kind is ServerStuck
        assert f"then accept(). Port {port} is held by the server first of this kernel" in said


@LINUX
def test_what_the_system_keeps_is_told_with_the_time_that_is_left():
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as client:
        port = door.getsockname()[1]
        door.accept()[0].close()
        assert client.recv(1) == b""
    said = holder_of(port)
    found = re.fullmatch(
        rf"No program holds port {port}: the system keeps it for (\d+) s more \(TIME_WAIT\), since the server side "
        r"closed a connection first\. Wait, use another port, or set SO_REUSEADDR before bind\(\)\.",
        said,
    )
    assert found, said
    assert 50 < int(found[1]) <= 60
    with start(serve_single, port=port):
        pass  # which sets it


def test_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    says = "port 8000 is held by another program, or for up to a minute by the system (TIME_WAIT); "
    ask = "in a terminal says more: stop it, or use another port."
    assert holders.holder(("127.0.0.1", 8000)) == f"{says}lsof -nP -iTCP:8000 {ask}"
    monkeypatch.setattr(sys, "platform", "win32")
    assert holders.holder(("127.0.0.1", 8000)) == f"{says}netstat -ano | findstr :8000 {ask}"


def test_addresses_that_meet(monkeypatch):
    one, all4, all6 = ("127.0.0.1", 80), ("0.0.0.0", 80), ("::", 80, 0, 0)
    meets = holders._meet
    assert all(
        meets(*pair) for pair in [(one, one), (one, all4), (all4, one), (all6, one), (("::ffff:127.0.0.1", 80), one)]
    )
    assert not any(
        meets(*pair) for pair in [(one, ("127.0.0.1", 81)), (one, ("127.0.0.2", 80)), ((), one), (("::1", 80), one)]
    )


# -- nothing stays, or it is named -------------------------------------------------------------------------------------


def test_a_thread_that_stays_is_named():
    release = threading.Event()

    def serve(host, port):
        sock = socket.socket()
        sock.bind((host, port))
        while not release.is_set():
            with contextlib.suppress(BaseException):
                release.wait()

    port, before = free_port(), threading.enumerate()
    with pytest.raises(ServerStuck) as info:
        start(serve, port=port, timeout=0.2)
    lines = str(info.value).splitlines()
    assert re.fullmatch(
        r"serve did not end within 1 s: server thread stands at line \d+ of serve: .+ restart the kernel\.", lines[1]
    )
    with socket.create_server(("127.0.0.1", port)):
        pass  # the port is free, though the thread goes on
    release.set()
    for thread in set(threading.enumerate()) - set(before):
        thread.join(LONG)


def test_an_error_that_is_kept_keeps_no_port():
    def serve(host, port):
        sock = socket.socket()
        sock.bind((host, port))
        raise LookupError("and its traceback holds the socket")

    port = free_port()
    with pytest.raises(LookupError) as kept:
        start(serve, port=port)
    with socket.create_server(("127.0.0.1", port)):
        assert kept.value.__traceback__ is not None
    del kept
    gc.collect()
