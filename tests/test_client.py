"""The client: what was sent comes back however it is split, every failure says which it was, nothing waits for ever."""

import contextlib
import gc
import os
import re
import selectors
import socket
import struct
import threading
import time

import pytest

import echo_kit
from echo_kit import Client, EchoError, NoReply, Refused, Reset, ServerClosed, free_port, serve_threaded, start
from echo_kit.watch.events import Connection
from echo_kit.watch.observation import FEW

from .scripted import LONG, scripted


def echo(conn):  # prints nothing: between two phases of a test pytest swaps sys.stdout
    with conn:
        while data := conn.recv(65536):
            conn.sendall(data)


def single(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            echo(listener.accept()[0])


def threaded(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],)).start()


@pytest.fixture(params=[single, threaded], ids=["single", "threaded"])
def server(request):
    with start(request.param) as server:
        yield server


@pytest.mark.parametrize("message", ["hello", "é 世 😀", "a\nb", b"\xff\x00", bytearray(b"array"), memoryview(b"view")])
def test_what_is_sent_comes_back(server, message):
    with Client(server, name="alice") as alice:
        alice.send(message)
        assert alice.unanswered > 0
        answer = alice.receive(timeout=LONG)
        assert answer == (message if isinstance(message, str) else bytes(message))
        assert alice.unanswered == 0


def test_several_messages_are_one_answer(server):
    with Client(server) as alice:
        for text in ("one ", "two ", "three"):
            alice.send(text)
        assert alice.receive(timeout=LONG) == "one two three"
        alice.send("text and ")
        alice.send(b"bytes")
        assert alice.receive(timeout=LONG) == b"text and bytes"
        alice.send("text again")
        assert alice.receive(timeout=LONG) == "text again"


def test_a_big_message_does_not_block_against_its_own_echo(server):
    data = os.urandom(5_000_000)
    with Client(server) as alice:
        alice.send(data, timeout=LONG)
        assert alice.receive(timeout=LONG) == data


def test_an_echo_in_pieces():
    def one_byte_at_a_time(conn):
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in conn.recv(100):
            conn.sendall(bytes([byte]))

    with scripted(one_byte_at_a_time) as address, Client(address) as alice:
        alice.send("é in pieces")
        assert alice.receive(timeout=LONG) == "é in pieces"


def test_no_reply_keeps_what_came():
    def half(conn):
        data = conn.recv(100)
        conn.sendall(data[:2])
        go_on.wait(LONG)
        conn.sendall(data[2:])

    go_on = threading.Event()
    with scripted(half) as address, Client(address, name="alice") as alice:
        alice.send("hello")
        assert alice.receive(size=1, timeout=LONG) == "h"
        with pytest.raises(NoReply, match=r"alice waited 0.05 s for an answer, and 1 of 4 bytes came back$"):
            alice.receive(timeout=0.05)
        go_on.set()
        assert alice.receive(timeout=LONG) == "ello"


def test_no_reply_says_what_is_owed(server):
    with Client(server, name="alice") as alice:
        with pytest.raises(NoReply, match="nothing came back: all that it has sent is answered"):
            alice.receive(timeout=0)
        alice.send("")
        with pytest.raises(NoReply, match="all that it has sent is answered"):
            alice.receive(timeout=0)


def test_a_server_that_speaks_first():
    with scripted(lambda conn: conn.sendall(b"welcome\n")) as address, Client(address) as alice:
        assert alice.receive(timeout=LONG) == "welcome\n"
        with pytest.raises(ServerClosed, match=r"closed the connection$"):
            alice.receive(timeout=LONG)


def test_a_given_size():
    with scripted(lambda conn: conn.sendall(conn.recv(100) * 3)) as address, Client(address) as alice:
        alice.send("abc")
        assert alice.receive(size=9, timeout=LONG) == "abcabcabc"
        assert alice.receive(size=0) == ""


def test_offer_hands_over_what_the_system_takes_and_never_waits():
    def read_when_told(conn):
        go_on.wait(LONG)
        while data := conn.recv(65536):
            came.append(data)

    go_on, came = threading.Event(), []
    message = os.urandom(20_000_000)  # more than the buffers of both sides hold
    with scripted(read_when_told) as address:
        with Client(address) as alice:
            left = memoryview(message)
            while count := alice.offer(left):
                left = left[count:]
            assert 0 < alice.unanswered == len(message) - len(left) < len(message)
            go_on.set()
            with selectors.DefaultSelector() as selector:
                selector.register(alice, selectors.EVENT_WRITE)
                while left:
                    assert selector.select(LONG)
                    left = left[alice.offer(left) :]
        with pytest.raises(ServerClosed, match="has closed its connection"):
            alice.offer(b"late")
    assert b"".join(came) == message


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "nul\0byte"])
def test_what_is_no_name_of_a_host(host):
    with pytest.raises(EchoError, match="cannot connect to"):
        Client((host, 8000))


def test_pending_takes_what_has_come():
    sent, gone = threading.Event(), threading.Event()
    with (
        scripted(lambda conn: (conn.sendall(b"now"), sent.set(), gone.wait(LONG))) as address,
        Client(address) as alice,
    ):
        assert alice.pending() in (b"", b"now")
        assert sent.wait(LONG)
        with pytest.raises(NoReply):
            alice.receive(size=4, timeout=0.05)
        alice.pending()
        assert alice.pending() == b""
        assert alice.fileno() > 0
        gone.set()
        with pytest.raises(ServerClosed):
            alice.receive(timeout=LONG)
        with pytest.raises(ServerClosed):
            alice.pending()


def test_refused():
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        address = listener.getsockname()
    with pytest.raises(Refused, match=rf"nobody listens at 127.0.0.1:{address[1]}. Is the server running there\?"):
        Client(address)


def test_reset():
    def reset(conn):
        conn.recv(100)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with scripted(reset) as address, Client(address) as alice:
        alice.send("hello")
        with pytest.raises(Reset, match="was reset by the server; nothing came back"):
            alice.receive(timeout=LONG)
        with pytest.raises(Reset):
            alice.send("more")
        with pytest.raises(Reset):
            alice.pending()


def test_the_server_closes():
    with scripted(lambda conn: conn.sendall(conn.recv(100)[:2])) as address, Client(address) as alice:
        alice.send("hello")
        with pytest.raises(ServerClosed, match="closed the connection; 2 of 5 bytes came back"):
            alice.receive(timeout=LONG)
        with pytest.raises(ServerClosed):
            alice.send("more")
        assert alice.pending() == b"he"


def test_send_says_when_the_server_has_left():
    """Plain TCP says so only to the second send: the first one looks as if it worked."""
    with scripted(lambda conn: None) as address, Client(address) as alice:
        with pytest.raises(ServerClosed):
            alice.receive(timeout=LONG)
    with scripted(lambda conn: None) as address:
        alice = Client(address)
    with alice, pytest.raises(ServerClosed):  # its end of file is here, and has not been read
        alice.send("hello")


def test_a_server_that_does_not_read():
    release = threading.Event()
    with scripted(lambda conn: release.wait(LONG)) as address, Client(address, name="alice") as alice:
        with pytest.raises(NoReply, match=r"took [\d,]+ of the 50,000,000 bytes that alice sends, and no more"):
            alice.send(bytes(50_000_000), timeout=0.2)
        assert 0 < alice.unanswered < 50_000_000
        release.set()


def test_a_part_of_a_message_is_in_the_timeline():
    def serve(host, port):
        with socket.create_server((host, port)) as s:
            s.accept()[0].close() if release.wait(LONG) else None

    release = threading.Event()
    with start(serve) as server, Client(server, name="alice") as alice:
        with pytest.raises(NoReply):
            alice.send(bytes(50_000_000), timeout=0.2)
        lane = server.timeline().lanes[0]
        assert [event.size for event in lane.to_server] == [lane.client.sent]
        assert str(server.timeline()).endswith(f'{chr(92)}x00…" ({lane.client.sent:,} bytes) unread')
        release.set()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_full_backlog_gets_no_answer():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen(0)
        filling = [socket.socket() for _ in range(4)]
        for sock in filling:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        try:
            with pytest.raises(NoReply, match=r"did not answer within 0.1 s. Is the address right, its backlog full\?"):
                Client(listener.getsockname(), timeout=0.1)
        finally:
            for sock in filling:
                sock.close()


def test_a_closed_client(server):
    alice = Client(server, name="alice")
    assert repr(alice).startswith("<Client alice connected to 127.0.0.1:")
    alice.close()
    alice.close()
    alice.vanish()
    assert repr(alice).startswith("<Client alice closed to ")
    for call in (lambda: alice.send("x"), lambda: alice.receive(timeout=LONG), alice.pending):
        with pytest.raises(ServerClosed, match="alice has closed its connection"):
            call()


def test_a_client_that_vanishes_resets():
    outcome = []

    def read(conn):
        try:
            conn.recv(10)
        except ConnectionResetError as error:
            outcome.append(error)

    with scripted(read) as address:
        Client(address).vanish()
    assert len(outcome) == 1


def test_every_error_is_an_echo_error_and_pythons_own():
    for error, own in (
        (NoReply, TimeoutError),
        (Refused, ConnectionRefusedError),
        (Reset, ConnectionResetError),
        (ServerClosed, ConnectionAbortedError),
    ):
        assert issubclass(error, EchoError)
        assert issubclass(error, own)
    assert issubclass(EchoError, OSError)


@pytest.mark.parametrize(
    ("address", "error", "says"),
    [
        ("127.0.0.1:8000", TypeError, r"an address like \('127.0.0.1', 8000\), not '127.0.0.1:8000'"),
        (8000, TypeError, "not 8000"),
        (None, TypeError, "not None"),
        (("127.0.0.1", "8000"), TypeError, "not "),
        (("127.0.0.1", 70000), EchoError, "a port is a number from 0 to 65535"),
        (("no-such-host.invalid", 8000), EchoError, "cannot connect to no-such-host.invalid:8000"),
    ],
)
def test_wrong_addresses(address, error, says):
    with pytest.raises(error, match=says):
        Client(address)


@pytest.mark.parametrize("message", [5, None, ["a"], 1.5])
def test_what_cannot_be_sent(server, message):
    with Client(server) as alice, pytest.raises(TypeError, match="send\\(\\) takes text or bytes"):
        alice.send(message)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_by_address_it_keeps_its_name_in_the_views(server, host):
    with Client((host, server.address[1]), name="alice") as alice:
        alice.send("x")
        assert alice.receive(timeout=LONG) == "x"
        assert [lane.name for lane in server.timeline().lanes] == ["alice"]
    with Client(server) as nameless:
        assert nameless.name.startswith("client ")


def test_ipv6_addresses():
    with start(serve_threaded, host="::1") as server:
        for address in (server, server.address, (*server.address, 0, 0)):
            with Client(address, name="alice") as alice:
                alice.send("x")
                assert alice.receive(timeout=LONG) == "x"
        assert [lane.name for lane in server.timeline().lanes] == ["alice", "alice (2)", "alice (3)"]


def test_every_wait_is_bounded():
    release = threading.Event()
    with scripted(lambda conn: release.wait(LONG)) as address, Client(address) as alice:
        alice.send("x")
        began = time.monotonic()
        for timeout in (0, -1, 0.1):
            with pytest.raises(NoReply):
                alice.receive(timeout=timeout)
        assert time.monotonic() - began < LONG / 2
        release.set()
    assert echo_kit.Client is Client


# -- finish() --------------------------------------------------------------------------------------------------------


def upper(conn):
    """Answers when it has all, as a server of HTTP 1.0 or `nc -N` do."""
    data = b""
    while more := conn.recv(4):
        data += more
    conn.sendall(data.upper())


def lines(conn):
    with conn.makefile("rw") as file:  # a last line without its end is a line, too
        for line in file:
            file.write(line[::-1])


@pytest.mark.parametrize(("talk", "answer"), [(upper, "HELLO"), (lines, "olleh")])
def test_a_server_that_reads_until_the_end_answers_after_finish(talk, answer):
    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            while True:
                conn, _ = listener.accept()
                with conn:
                    talk(conn)

    served = "connected · accepted · served by the server thread · "
    with start(serve) as server, Client(server, name="alice") as alice:
        alice.send("hello")
        with pytest.raises(NoReply, match="nothing came back"):
            alice.receive(timeout=0.05)
        assert server.timeline().story(server.timeline().lanes[0]) == served + '"hello" read, not answered'
        alice.finish()
        assert alice.receive(timeout=LONG) == answer
        with pytest.raises(ServerClosed, match="closed the connection"):
            alice.receive(timeout=LONG)
        told = served + f'sent "hello" · finished sending · got "{answer}" · closed by the server at line N of serve'
        assert re.sub(r"line \d+", "line N", str(server.timeline())) == f"serve: 1 connection\n  alice  {told}"


def test_after_finish_nothing_is_sent():
    with scripted(lambda conn: conn.recv(100) or conn.recv(1)) as address, Client(address, name="alice") as alice:
        alice.finish()
        alice.finish()
        says = r"alice has said by finish\(\) that it sends nothing more; make a new Client"
        with pytest.raises(ServerClosed, match=says):
            alice.send("more")
        with pytest.raises(ServerClosed, match=says):
            alice.offer(b"more")
        with pytest.raises(ServerClosed, match="closed the connection"):
            alice.receive(timeout=LONG)
        alice.close()
        alice.finish()


def test_finishing_is_not_leaving():
    """A server that has read the end of file may still send: its client is there."""

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                echo_once = conn.recv(100)
                conn.sendall(echo_once)
                assert conn.recv(100) == b""
                go_on.wait(LONG)

    go_on = threading.Event()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start(serve))
        alice, bob = (stack.enter_context(Client(server, name)) for name in ("alice", "bob"))
        alice.send("hello")
        alice.receive(timeout=LONG)
        alice.finish()
        bob.finish()
        stack.callback(go_on.set)
        told = str(server.timeline())
        assert told.endswith(
            '  alice  connected · accepted · served by the server thread · "hello" echoed · finished sending\n'
            "  bob    connected · waits in the backlog behind alice · finished sending"
        )
        assert "has closed its side" in str(server.backlog())
        alice.close()
        assert '"hello" echoed · finished sending · left' in str(server.timeline())


# -- what is kept ----------------------------------------------------------------------------------------------------


def known():
    """How many ends of connections there are in this process."""
    gc.collect()
    return sum(type(each) is Connection for each in gc.get_objects())


def come_and_go(server, count):
    for _ in range(count):
        with Client(server) as client:
            client.send("x")
            client.receive(timeout=LONG)


def vanish(server, count):
    for number in range(count):
        Client(server).vanish()
        if number % 20 == 0:
            server.settle()  # so that they are accepted


def come_and_go_unknown(server, count):
    for _ in range(count):
        with socket.create_connection(server.address) as sock:
            sock.sendall(b"x")
            sock.recv(1)


@pytest.mark.parametrize(
    "visit", [come_and_go, *(pytest.param(each, marks=pytest.mark.soak) for each in (vanish, come_and_go_unknown))]
)
def test_the_log_is_the_only_memory_of_clients_that_have_left(visit):
    def serve(host, port):
        with socket.create_server((host, port), backlog=128) as listener:
            while True:
                with contextlib.suppress(OSError):
                    echo(listener.accept()[0])

    before = known()
    with start(serve, most_events=40) as server, Client(server, "alice") as alice:
        alice.send("first")
        alice.receive(timeout=LONG)
        alice.close()
        visit(server, 2 * FEW)
        assert known() - before <= 2 * FEW, "twice as many ends came"
    assert known() - before <= 2 * 40, "a stopped server has only those of its log"
    del server, alice
    assert known() == before


def test_who_is_still_there_is_remembered_whatever_the_log_has_dropped():
    with start(threaded, most_events=40) as server, Client(server, "alice") as alice:
        alice.send("first")
        alice.receive(timeout=LONG)
        come_and_go(server, FEW)
        assert re.search(r"alice +connected · accepted", str(server.timeline()))
        assert "waits in recv for alice" in str(server.where())


def test_a_server_that_sends_without_end_costs_as_much_at_the_end_as_at_the_beginning():
    """`receive(size)` of a client that has much to take: what is left is not copied each time."""

    def pour(conn):
        with contextlib.suppress(OSError):
            while True:
                conn.sendall(bytes(65536))

    with scripted(pour) as address, Client(address) as client:
        client.receive(size=1, timeout=LONG)

        def seconds(kept):
            while len(client.receive(size=0) or client._kept) < kept:
                client.wait(time.monotonic() + LONG, to_write=False)
            began = time.thread_time()
            for _ in range(500):
                assert client.receive(size=1) == b"\0".decode()
            return time.thread_time() - began

        few = min(seconds(100_000) for _ in range(3))
        assert min(seconds(30_000_000) for _ in range(3)) < 10 * few + 0.01


def test_many_bytes_are_as_fast_as_a_plain_loop(server):
    data = bytes(40_000_000)

    def plain():
        with socket.create_connection(server.address) as sock:
            sender = threading.Thread(target=sock.sendall, args=(data,))
            sender.start()
            left = len(data)
            while left:
                left -= len(sock.recv(65536))
            sender.join()

    def ours():
        with Client(server) as alice:
            alice.send(data, timeout=LONG)
            assert alice.receive(timeout=LONG) == data

    def seconds(run):
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    assert min(seconds(ours) for _ in range(2)) < 8 * max(seconds(plain), 0.1)
