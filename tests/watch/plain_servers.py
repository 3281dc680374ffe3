"""Server programs as people write them. Each is one function that knows nothing of echo_kit, with what it needs in it.

`test_plain.py` runs each of them plain and watched, with the same clients. To run one by hand:
`python tests/watch/plain_servers.py threaded 8000`.
"""

import contextlib
import os
import select
import selectors
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
import weakref

# -- one client after the other, or a thread for each ----------------------------------------------------------------


def single(host, port):
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen()
    while True:
        conn, _ = listener.accept()
        while data := conn.recv(1024):
            conn.sendall(data)
        conn.close()


def without_reuse(host, port):
    with socket.socket() as listener:
        listener.bind((host, port))
        listener.listen(1)
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.send(data)


def threaded(host, port):
    def talk(conn):
        with conn:
            while data := conn.recv(1024):
                conn.sendall(data)

    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            threading.Thread(target=talk, args=(conn,)).start()


def thread_module(host, port):
    import _thread

    def talk(conn):
        while data := conn.recv(1024):
            conn.sendall(data)
        conn.close()

    listener = socket.create_server((host, port))
    while True:
        _thread.start_new_thread(talk, listener.accept()[:1])


def pool(host, port):
    from concurrent.futures import ThreadPoolExecutor

    def talk(conn):
        with conn:
            while data := conn.recv(1024):
                conn.sendall(data)

    with socket.create_server((host, port)) as listener, ThreadPoolExecutor(4) as workers:
        while True:
            workers.submit(talk, listener.accept()[0])


def queue_of_clients(host, port):
    import queue

    waiting = queue.Queue()

    def work():
        while conn := waiting.get():
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data)

    for _ in range(4):
        threading.Thread(target=work).start()
    try:
        with socket.create_server((host, port)) as listener:
            while True:
                waiting.put(listener.accept()[0])
    finally:
        for _ in range(4):
            waiting.put(None)


def several_accept(host, port):
    listener = socket.create_server((host, port))

    def work():
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data)

    for _ in range(3):
        threading.Thread(target=work).start()
    work()


class ClassBased:
    """As in many a tutorial: the server is an object, and a client is one, too."""

    def __init__(self, host, port):
        self.listener = socket.create_server((host, port))
        self.clients = {}

    def run(self):
        while True:
            conn, address = self.listener.accept()
            self.clients[address] = thread = threading.Thread(target=self.talk, args=(conn, address))
            thread.start()

    def talk(self, conn, address):
        try:
            while data := conn.recv(1024):
                conn.sendall(data)
        finally:
            del self.clients[address]
            conn.close()


def class_based(host, port):
    ClassBased(host, port).run()


def own_socket_class(host, port):
    class Loud(socket.socket):
        def accept(self):
            conn, address = super().accept()
            return Loud(fileno=conn.detach()), address

        def recv(self, size):
            return super().recv(size)

    def talk(conn):
        with conn:
            while data := conn.recv(1024):
                conn.sendall(data)

    listener = Loud(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen()
    while True:
        threading.Thread(target=talk, args=listener.accept()[:1]).start()


# -- socketserver ----------------------------------------------------------------------------------------------------


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1024):
            self.request.sendall(data)


class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())


class Reusing(socketserver.TCPServer):
    allow_reuse_address = True


class Mixed(socketserver.ThreadingMixIn, Reusing):
    daemon_threads = True


def tcp_server(host, port):
    with Reusing((host, port), Echo) as server:
        server.serve_forever()


def threading_tcp_server(host, port):
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer((host, port), Echo) as server:
        server.serve_forever(poll_interval=0.05)


def mixed_in(host, port):
    with Mixed((host, port), Echo) as server:
        server.serve_forever()


def stream_handler(host, port):
    with Mixed((host, port), Lines) as server:
        server.serve_forever()


def handler_that_raises(host, port):
    class Divides(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"%d\n" % (12 // int(self.rfile.readline())))

    with Mixed((host, port), Divides) as server:
        server.serve_forever()


def handle_request(host, port):
    with Reusing((host, port), Echo) as server:
        server.timeout = 0.05
        while True:
            server.handle_request()


def shut_down_by_its_handler(host, port):
    class Ends(socketserver.StreamRequestHandler):
        def handle(self):
            if self.rfile.readline() == b"end\n":
                self.server.shutdown()
            self.wfile.write(b"bye\n")

    class Server(socketserver.ThreadingMixIn, Reusing):
        daemon_threads = False  # at its end it waits for them

    with Server((host, port), Ends) as server:
        server.serve_forever(poll_interval=0.05)


def forking_tcp_server(host, port):
    class Server(socketserver.ForkingMixIn, Reusing):
        pass

    with Server((host, port), Echo) as server:
        server.serve_forever(poll_interval=0.05)


def web(host, port):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            page = f"you asked for {self.path}".encode()
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    ThreadingHTTPServer((host, port), Page).serve_forever()


# -- one thread for all ----------------------------------------------------------------------------------------------


def select_loop(host, port):
    listener = socket.create_server((host, port))
    open_ends = [listener]
    while True:
        for each in select.select(open_ends, [], [])[0]:
            if each is listener:
                open_ends.append(listener.accept()[0])
            elif data := each.recv(1024):
                each.sendall(data)
            else:
                open_ends.remove(each)
                each.close()


def poll_loop(host, port):
    listener = socket.create_server((host, port))
    poller, clients = select.poll(), {}
    poller.register(listener, select.POLLIN)
    while True:
        for number, _ in poller.poll():
            if number == listener.fileno():
                conn, _ = listener.accept()
                clients[conn.fileno()] = conn
                poller.register(conn, select.POLLIN)
            elif data := clients[number].recv(1024):
                clients[number].sendall(data)
            else:
                poller.unregister(number)
                clients.pop(number).close()


def epoll_loop(host, port):
    listener = socket.create_server((host, port))
    listener.setblocking(False)
    clients = {}
    with select.epoll() as poller:
        poller.register(listener, select.EPOLLIN)
        while True:
            for number, _ in poller.poll():
                if number == listener.fileno():
                    conn, _ = listener.accept()
                    conn.setblocking(False)
                    clients[conn.fileno()] = conn
                    poller.register(conn, select.EPOLLIN | select.EPOLLET)
                    continue
                conn = clients[number]
                try:
                    while data := conn.recv(1024):
                        conn.sendall(data)
                except BlockingIOError:  # edge triggered: read until there is nothing left
                    continue
                del clients[number]
                conn.close()


def selectors_loop(host, port):
    """Reads and writes only when the selector says so, and keeps what a client has not taken yet."""
    selector = selectors.DefaultSelector()
    listener = socket.create_server((host, port))
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, mask in selector.select():
            conn, left = key.fileobj, key.data
            if conn is listener:
                conn, _ = listener.accept()
                conn.setblocking(False)
                selector.register(conn, selectors.EVENT_READ, bytearray())
                continue
            if mask & selectors.EVENT_READ:
                data = conn.recv(1024)
                if not data and not left:
                    selector.unregister(conn)
                    conn.close()
                    continue
                left += data
            if mask & selectors.EVENT_WRITE:
                del left[: conn.send(left)]
            selector.modify(conn, selectors.EVENT_READ | (selectors.EVENT_WRITE if left else 0), left)


def busy_loop(host, port):
    listener = socket.create_server((host, port))
    listener.setblocking(False)
    clients = []
    while True:
        try:
            conn, _ = listener.accept()
            conn.setblocking(False)
            clients.append(conn)
        except BlockingIOError:
            pass
        for conn in clients[:]:
            try:
                data = conn.recv(1024)
            except BlockingIOError:
                continue
            if data:
                conn.sendall(data)
            else:
                clients.remove(conn)
                conn.close()
        time.sleep(0)


def with_timeouts(host, port):
    """Looks up from each wait again and again, as programs do that want to see Ctrl+C."""
    listener = socket.create_server((host, port))
    listener.settimeout(0.02)
    while True:
        try:
            conn, _ = listener.accept()
        except TimeoutError:
            continue
        conn.settimeout(0.02)
        asked = True
        while True:
            try:
                data = conn.recv(1024)
            except TimeoutError:
                if not asked:
                    conn.sendall(b"are you there?")
                    asked = True
                continue
            if not data:
                break
            conn.sendall(data)
            asked = False
        conn.close()


def gives_up_on_silence(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(conn.recv(1024))
                conn.settimeout(0.1)
                try:
                    conn.recv(1024)
                except TimeoutError as error:
                    conn.sendall(f"{type(error).__name__}: {error}".encode())


def times_out_by_the_system(host, port):
    """The timeout is the system's, not Python's: accept and recv raise BlockingIOError."""
    quarter = struct.pack("ll", 0, 50_000)
    with socket.create_server((host, port)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, quarter)
        conn, _ = None, None
        while True:
            try:
                conn, _ = listener.accept()
            except BlockingIOError:
                if conn is not None:
                    conn.sendall(b"nobody else came")
                    conn.close()
                    conn = None


def recv_times_out_by_the_system(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50_000))
            try:
                conn.recv(10)
            except OSError as error:
                conn.sendall(type(error).__name__.encode())
            conn.close()


def asyncio_streams(host, port):
    import asyncio

    async def talk(reader, writer):
        while data := await reader.read(1024):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(talk, host, port)
        await server.serve_forever()

    asyncio.run(main())


def asyncio_sockets(host, port):
    import asyncio

    async def talk(loop, conn):
        with conn:
            while data := await loop.sock_recv(conn, 1024):
                await loop.sock_sendall(conn, data)

    async def main():
        loop, tasks = asyncio.get_running_loop(), set()
        with socket.create_server((host, port)) as listener:
            listener.setblocking(False)
            while True:
                conn, _ = await loop.sock_accept(listener)
                tasks.add(loop.create_task(talk(loop, conn)))

    asyncio.run(main())


# -- other ways to read and to write ---------------------------------------------------------------------------------


def makefile(host, port):
    def talk(conn):
        with conn, conn.makefile(encoding="utf-8") as heard, conn.makefile("w", encoding="utf-8") as said:
            for line in heard:
                print(line.upper(), end="", file=said, flush=True)

    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=talk, args=listener.accept()[:1]).start()


def makefile_outlives_its_socket(host, port):
    listener = socket.create_server((host, port))
    while True:
        conn, _ = listener.accept()
        file = conn.makefile("rwb", buffering=0)
        conn.close()  # only the file holds the connection now
        while line := file.readline():
            file.write(line.upper())
        file.close()


def recv_into(host, port):
    def talk(conn):
        buffer = bytearray(1024)
        with conn, memoryview(buffer) as view:
            while size := conn.recv_into(view, 512):
                conn.sendall(view[:size])

    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=talk, args=listener.accept()[:1]).start()


def recvfrom(host, port):
    def talk(conn):
        buffer = bytearray(1024)
        while True:
            data, sender = conn.recvfrom(512)
            conn.sendall(data)
            size, _ = conn.recvfrom_into(buffer)
            conn.sendall(buffer[:size])
            if not data or not size:
                conn.sendall(repr(sender).encode())
                return conn.close()

    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=talk, args=listener.accept()[:1]).start()


def peeks(host, port):
    """Looks at what has come until a whole line is there, and only then takes it."""
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                while seen := conn.recv(1024, socket.MSG_PEEK):
                    end = seen.find(b"\n") + 1
                    if end:
                        conn.sendall(conn.recv(end).upper())
                    else:
                        conn.recv(len(seen) + 1, socket.MSG_PEEK | socket.MSG_WAITALL)  # until there is more


def waits_for_all(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                while head := conn.recv(4, socket.MSG_WAITALL):
                    if len(head) < 4:
                        conn.sendall(b"only %d of 4 bytes" % len(head))
                        break
                    (size,) = struct.unpack("!I", head)
                    conn.sendall(head + conn.recv(size, socket.MSG_WAITALL))


def messages(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                while True:
                    data, _, flags, sender = conn.recvmsg(1024)
                    if not data:
                        break
                    conn.sendmsg([data, b"|", str((flags, sender)).encode(), b"\n"])
                    first, second = bytearray(2), bytearray(1000)
                    size, *_ = conn.recvmsg_into([first, second])
                    conn.sendmsg([bytes(first), b"|", bytes(second[: max(0, size - 2)])])


def send_file(host, port):
    import tempfile

    with tempfile.TemporaryFile() as file, socket.create_server((host, port)) as listener:
        file.write(b"0123456789" * 10_000)
        while True:
            conn, _ = listener.accept()
            with conn:
                start, count = conn.recv(1024).split()
                conn.sendfile(file, int(start), int(count))


def all_kinds_of_bytes(host, port):
    import array

    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                numbers = array.array("I", [1, 2, 3])
                sizes = [conn.send(numbers), conn.send(memoryview(b"abcdef")[::1]), conn.send(bytearray(b"x"), 0)]
                sizes += [conn.sendall(numbers), conn.sendall(memoryview(b"abc")[1:]), conn.sendto(b"y", ("", 0))]
                try:
                    conn.send(memoryview(b"abcdef")[::2])
                except BufferError as error:
                    sizes.append(str(error))
                conn.sendall(repr(sizes).encode())


def parts(host, port):
    """A protocol with a head, whose loops read exactly what they want and no more."""

    def exactly(conn, size):
        data = b""
        while len(data) < size:
            more = conn.recv(min(7, size - len(data)))
            if not more:
                raise EOFError
            data += more
        return data

    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            try:
                while True:
                    (size,) = struct.unpack("!I", exactly(conn, 4))
                    data, left = exactly(conn, size), memoryview(struct.pack("!I", size))
                    while left:
                        left = left[conn.send(left[:3]) :]
                    conn.sendall(data)
            except EOFError:
                conn.shutdown(socket.SHUT_RDWR)
            finally:
                conn.close()


def tls(host, port):
    import ssl
    import tempfile

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        pem = os.path.join(folder, "server.pem")
        with open(pem, "w") as file:
            file.write(PEM)
        context.load_cert_chain(pem)

    def talk(raw):
        with context.wrap_socket(raw, server_side=True) as conn:
            while data := conn.recv(1024):
                conn.sendall(data)
            conn.unwrap().close()

    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=talk, args=listener.accept()[:1]).start()


def tls_listener(host, port):
    import ssl
    import tempfile

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        pem = os.path.join(folder, "server.pem")
        with open(pem, "w") as file:
            file.write(PEM)
        context.load_cert_chain(pem)
    with context.wrap_socket(socket.create_server((host, port)), server_side=True) as listener:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                continue
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data)
                conn.unwrap().close()


# -- handed on -------------------------------------------------------------------------------------------------------


def detached(host, port):
    """The connection goes on under another socket object, twice."""

    def talk(number):
        first = socket.socket(fileno=number)
        second = socket.fromfd(first.fileno(), first.family, first.type)
        first.close()
        third = second.dup()
        second.close()
        with third:
            while data := third.recv(1024):
                third.sendall(data)

    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            threading.Thread(target=talk, args=(conn.detach(),)).start()


def descriptors_passed(host, port):
    """One thread accepts, another gets the descriptors through a pair of sockets."""
    ours, theirs = socket.socketpair()

    def work():
        while True:
            _, numbers, *_ = socket.recv_fds(theirs, 1, 1)
            with socket.socket(fileno=numbers[0]) as conn:
                while data := conn.recv(1024):
                    conn.sendall(data)

    threading.Thread(target=work).start()
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            socket.send_fds(ours, [b"c"], [conn.fileno()])
            conn.close()


def os_read_and_write(host, port):
    def talk(conn):
        with conn:
            while data := os.read(conn.fileno(), 1024):
                os.write(conn.fileno(), data)

    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=talk, args=listener.accept()[:1]).start()


def forks(host, port):
    with socket.create_server((host, port)) as listener:
        children = []
        while True:
            conn, _ = listener.accept()
            child = os.fork()
            if not child:
                listener.close()
                with conn:
                    while data := conn.recv(1024):
                        conn.sendall(data)
                os._exit(0)
            conn.close()
            children = [each for each in children if not os.waitpid(each, os.WNOHANG)[0]] + [child]


def processes(host, port):
    import multiprocessing

    def talk(conn):
        with conn:
            while data := conn.recv(1024):
                conn.sendall(data)

    fork = multiprocessing.get_context("fork")
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            child = fork.Process(target=talk, args=(conn,), daemon=True)
            child.start()
            conn.close()
            child.join()


def processes_that_fail(host, port):
    import multiprocessing

    def fail():
        raise ValueError("the child does not know what to do")

    fork = multiprocessing.get_context("fork")
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            child = fork.Process(target=fail)
            child.start()
            child.join()
            conn.sendall(f"exit code {child.exitcode}\n".encode())
            conn.close()


def child_that_exits(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            child = os.fork()
            if not child:
                try:
                    conn.sendall(b"hello from a child\n")
                    sys.exit(3)
                except SystemExit as error:
                    os._exit(error.code)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            conn.sendall(f"and it ended with {code}\n".encode())
            conn.close()


def process_pool(host, port):
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as workers, socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(workers.submit(bytes.upper, data).result())


def children_accept(host, port):
    """As Apache once did: each child waits in accept at the same listening socket."""
    children = []
    with socket.create_server((host, port)) as listener:
        for _ in range(2):
            child = os.fork()
            if not child:
                while True:
                    conn, _ = listener.accept()
                    with conn:
                        while data := conn.recv(1024):
                            conn.sendall(data)
            children.append(child)
        conn, _ = socket.create_server((host, port + 1)).accept()
        conn.recv(1)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        conn.close()


def a_child_accepts_beside_a_thread(host, port):
    """A thread waits in accept when the child is forked, and another client has it busy when the child is to serve."""
    listener = socket.create_server((host, port))

    def work():
        while True:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(b"the thread")
                if conn.recv(1) == b"x":
                    break

    worker = threading.Thread(target=work)
    worker.start()
    wait_until_it_waits(worker)
    child = os.fork()
    if not child:
        conn, _ = socket.create_server((host, port + 1)).accept()
        conn.recv(1)
        for _ in range(2):
            conn, _ = listener.accept()
            conn.sendall(b"the child")
            conn.close()
        os._exit(0)
    os.waitpid(child, 0)
    worker.join()
    listener.close()


def inetd(host, port):
    """A program of any language serves, with the connection as its keyboard and its screen."""
    import subprocess

    with socket.create_server((host, port)) as listener:
        children = []
        while True:
            conn, _ = listener.accept()
            children.append(subprocess.Popen(["cat"], stdin=conn, stdout=conn))
            conn.close()
            children = [each for each in children if each.poll() is None]


def proxy(host, port):
    """Passes on what comes, to a server of its own behind it."""
    behind = socket.create_server((host, 0))

    def echo():
        while True:
            conn, _ = behind.accept()
            threading.Thread(target=copy, args=(conn, conn)).start()

    def copy(source, target):
        while data := source.recv(1024):
            target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    threading.Thread(target=echo).start()
    with socket.create_server((host, port)) as listener:
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(behind.getsockname())
            for pair in (near, far), (far, near):
                threading.Thread(target=copy, args=pair).start()


# -- how it ends -----------------------------------------------------------------------------------------------------


def half_close(host, port):
    """Answers when the client has said all."""
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                data = b""
                while more := conn.recv(1024):
                    data += more
                conn.sendall(data[::-1])


def says_it_is_done(host, port):
    """Ends its own side first, and goes on reading."""
    told = []
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(b"%d\n" % sum(told))
                conn.shutdown(socket.SHUT_WR)
                size = 0
                while data := conn.recv(1024):
                    size += len(data)
                told.append(size)


def closes_first(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, address = listener.accept()
            conn.sendall(b"hello " + address[0].encode())
            conn.close()


def resets(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            conn.sendall(conn.recv(1024))
            conn.recv(1024)
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            conn.close()


def closes_with_bytes_unread(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            conn.recv(10, socket.MSG_PEEK | socket.MSG_WAITALL)  # all ten are there
            conn.sendall(conn.recv(4))
            conn.recv(1)  # a sixth is never read
            conn.close()


def forgets_to_close(host, port):
    """No name is left for the connection: the garbage collector closes it."""
    with socket.create_server((host, port)) as listener:
        while True:
            listener.accept()[0].sendall(b"hello")


def keeps_until_the_next(host, port):
    """The name `conn` lets go of one client when accept has returned the next one."""
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            conn.sendall(b"hello")


def knows_who_is_there(host, port):
    """Lets go of a connection, and asks a weak reference whether it is gone: nobody else may hold it."""
    with socket.create_server((host, port)) as listener:
        gone = "nobody was here"
        while True:
            conn, _ = listener.accept()
            conn.sendall(gone.encode() + conn.recv(10))
            reference = weakref.ref(conn)
            number = conn.fileno()
            del conn
            try:
                os.fstat(number)
                closed = False
            except OSError:
                closed = True
            gone = f"gone: {reference() is None}, closed: {closed}"


def thread_dies(host, port):
    def talk(conn):
        while True:
            conn.sendall(b"%d\n" % (12 // int(conn.recv(1024))))

    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=talk, args=listener.accept()[:1]).start()


def dies(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(str(12 // int(data)).encode())


def exits(host, port):
    listener = socket.create_server((host, port))
    while True:
        conn, _ = listener.accept()
        if conn.recv(1024) == b"exit":
            sys.exit("bye")
        conn.sendall(b"no")
        conn.close()


def dies_of_a_reset(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(b"hello")
                while data := conn.recv(1024):
                    conn.sendall(data)


def says_which_error(host, port):
    """Tells the next client what the last one's connection raised."""
    last = "nothing"
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(f"{last}\n".encode())
                try:
                    last = repr(conn.recv(1024))
                    conn.settimeout(0.05)
                    conn.recv(1024)
                except OSError as error:
                    last = f"{type(error).__name__} {error.errno} {error}"


def wrong_calls(host, port):
    """What each wrong call raises, told to the client."""
    listener = socket.create_server((host, port))

    def told(call, *arguments):
        try:
            return f"{call.__name__} returns {call(*arguments)!r}"
        except (TypeError, ValueError) as error:  # whose words are not the same in every Python
            return f"{call.__name__} {type(error).__name__}"
        except OSError as error:
            return f"{call.__name__} {type(error).__name__}: {error}"

    while True:
        conn, _ = listener.accept()
        conn.recv(1)
        said = [told(conn.send, "text"), told(conn.sendall, None), told(conn.recv), told(conn.recv, -1)]
        said += [told(conn.recv, "1"), told(conn.recv_into, b"fixed"), told(conn.recv_into, bytearray(0))]
        said += [told(conn.accept), told(conn.listen, "x"), told(listener.recv, 1), told(listener.send, b"x")]
        said += [told(listener.sendall, b"x"), told(conn.shutdown, 7), told(conn.connect, (host, port))]
        said += [told(conn.bind, (host, port)), told(conn.recv, 10, 1, 1), told(conn.send, b"", 0, 0)]
        said += [told(conn.send, b""), told(conn.sendall, b"", 0), told(conn.recv, 0)]
        conn.settimeout(0.01)
        said += [told(conn.recv, 1)]
        conn.setblocking(False)
        said += [told(conn.recv, 1), told(conn.recv_into, bytearray(1)), told(conn.recvmsg, 1)]
        dead = conn.dup()
        dead.close()
        said += [told(dead.recv, 1), told(dead.send, b"x"), told(dead.accept), told(dead.close), told(dead.fileno)]
        conn.setblocking(True)
        conn.sendall("\n".join(said).encode())
        conn.close()


# -- from another thread ---------------------------------------------------------------------------------------------


def closes_the_listener_elsewhere(host, port):
    """On Linux a thread that waits in accept goes on waiting, and serves one more client."""
    listener = socket.create_server((host, port))

    def welcome():
        while True:
            conn, _ = listener.accept()
            conn.sendall(b"welcome")
            conn.close()

    def close(conn):
        conn.sendall(b"wait\n")
        wait_until_it_waits(waiter)
        listener.close()
        conn.sendall(b"closed\n")
        conn.recv(1)
        conn.close()

    first, _ = listener.accept()
    waiter = threading.Thread(target=welcome)
    waiter.start()
    close(first)
    waiter.join()


def shuts_the_listener_down_elsewhere(host, port):
    listener = socket.create_server((host, port))
    said = []

    def wait():
        try:
            listener.accept()
        except OSError as error:
            said.append(f"{type(error).__name__} {error.errno}")

    conn, _ = listener.accept()
    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until_it_waits(waiter)
    listener.shutdown(socket.SHUT_RDWR)
    waiter.join()
    conn.sendall(repr(said).encode())
    conn.close()
    listener.close()


def closes_a_connection_elsewhere(host, port):
    """Whoever waits in its recv goes on waiting, reads what comes, and can no longer answer."""
    with socket.create_server((host, port)) as listener:
        said = b"nothing\n"
        while True:
            conn, _ = listener.accept()
            told = []

            def read(conn=conn, told=told):
                try:
                    told.append(conn.recv(1024))
                    conn.sendall(b"you said it")
                except OSError as error:
                    told.append(f"{type(error).__name__} {error.errno}")

            conn.sendall(said)
            reader = threading.Thread(target=read)
            reader.start()
            wait_until_it_waits(reader)
            conn.sendall(b"close\n")
            conn.close()
            reader.join()
            said = f"{told}\n".encode()


def shuts_a_connection_down_elsewhere(host, port):
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            told = []

            def read(conn=conn, told=told):
                told.append(conn.recv(1024))
                conn.sendall(f"{told}".encode())

            reader = threading.Thread(target=read)
            reader.start()
            wait_until_it_waits(reader)
            conn.shutdown(socket.SHUT_RD)
            reader.join()
            conn.close()


def threads_of_its_own_kind(host, port):
    """Subclasses of Thread, timers, and a thread that outlives the one that started it."""

    class Talk(threading.Thread):
        def __init__(self, conn):
            super().__init__(daemon=False)
            self.conn = conn

        def start(self):
            super().start()
            return self

        def run(self):
            with self.conn:
                data = self.conn.recv(1024)
                timer = threading.Timer(0.01, self.conn.sendall, [data])
                timer.start()
                timer.join()
                data = self.conn.recv(1024)
                try:
                    self.start()
                except RuntimeError as error:
                    self.conn.sendall(str(error).encode())

    with socket.create_server((host, port)) as listener:
        while True:
            Talk(listener.accept()[0]).start()


def hangs_up_on_others(host, port):
    """Each newcomer ends the one before, whose thread waits in recv."""

    def talk(conn):
        with conn:
            conn.sendall(b"hello\n")
            while data := conn.recv(1024):
                conn.sendall(data)

    with socket.create_server((host, port)) as listener:
        before = None
        while True:
            conn, _ = listener.accept()
            if before is not None:
                before.shutdown(socket.SHUT_RDWR)
            threading.Thread(target=talk, args=(conn,)).start()
            before = conn


def wait_until_it_waits(thread):
    """Until the system says that the thread waits in a call that is not for Python's lock."""
    for_a_lock = {"x86_64": "202", "aarch64": "98"}[os.uname().machine]  # futex
    call = for_a_lock
    while call in (for_a_lock, "running", "-1"):
        time.sleep(0.001)
        with open(f"/proc/self/task/{thread.native_id}/syscall") as file:
            call = file.read().split()[0]


# -- several listeners, many clients ---------------------------------------------------------------------------------


def two_listeners(host, port):
    def serve(listener, answer):
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(answer + data)

    first, second = socket.create_server((host, port)), socket.create_server((host, port + 1))
    threading.Thread(target=serve, args=(second, b"second: ")).start()
    serve(first, b"first: ")


def two_listeners_in_select(host, port):
    listeners = [socket.create_server((host, port)), socket.create_server((host, port + 1))]
    while True:
        for listener in select.select(listeners, [], [])[0]:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(b"%d: " % listeners.index(listener) + conn.recv(1024))


def udp_beside(host, port):
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((host, port))

    def answer():
        with datagrams:
            data = b""
            while data != b"end":
                data, sender = datagrams.recvfrom(1024)
                datagrams.sendto(data.upper(), sender)

    with socket.create_server((host, port)) as listener:
        threading.Thread(target=answer).start()
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data)


def chat(host, port):
    """Whatever one says, all get."""
    clients, lock = [], threading.Lock()

    def talk(conn, name):
        with conn, conn.makefile("r") as lines:
            with lock:
                clients.append(conn)
                conn.sendall(f"hello {name}\n".encode())
            for line in lines:
                with lock:
                    for each in clients:
                        each.sendall(f"{name}: {line}".encode())
            with lock:
                clients.remove(conn)
                for each in clients:
                    each.sendall(f"{name} left\n".encode())

    with socket.create_server((host, port)) as listener:
        for number in range(1, 100):
            conn, _ = listener.accept()
            threading.Thread(target=talk, args=(conn, f"client {number}")).start()


def waits_for_three(host, port):
    meeting = threading.Barrier(3)

    def talk(conn):
        with conn:
            meeting.wait()
            conn.sendall(b"all are here")

    with socket.create_server((host, port)) as listener:
        while True:
            threading.Thread(target=talk, args=listener.accept()[:1]).start()


def five_hundred_threads(host, port):
    over, started, threads = threading.Event(), threading.Semaphore(0), []

    def wait():
        started.release()
        over.wait()

    with socket.create_server((host, port)) as listener:
        for _ in range(500):
            threads.append(threading.Thread(target=wait, daemon=True))
            threads[-1].start()
        for _ in range(500):
            started.acquire()
        while not over.is_set():
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data + b" and %d" % sum(each.is_alive() for each in threads))
                    if data == b"end":
                        over.set()


def thread_per_message(host, port):
    def answer(conn, data):
        conn.sendall(data)

    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            while data := conn.recv(1024):
                helper = threading.Thread(target=answer, args=(conn, data))
                helper.start()
                helper.join()
            conn.close()


def prints_a_lot(host, port):
    """As many lines as the client asks for."""
    with socket.create_server((host, port)) as listener:
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(1024):
                    for number in range(int(data)):
                        print("this is line", number, "of many")
                    print("without an end", end="")
                    sys.stderr.write("to the other stream\n")
                    conn.sendall(data)


def ignores_ctrl_c(host, port):
    clients = []

    def talk(conn):
        with conn:
            while data := conn.recv(1024):
                conn.sendall(data)

    with socket.create_server((host, port)) as listener:
        while True:
            try:
                conn, _ = listener.accept()
                clients.append(conn)
                threading.Thread(target=talk, args=(conn,), daemon=True).start()
            except KeyboardInterrupt:
                for conn in clients:
                    conn.sendall(b"no!")


def says_goodbye(host, port):
    """Ends in good order on Ctrl+C."""
    clients = []
    with socket.create_server((host, port)) as listener:
        try:
            while True:
                conn, _ = listener.accept()
                clients.append(conn)
                conn.sendall(b"hello")
        except KeyboardInterrupt:
            pass
        finally:
            for conn in clients:
                conn.sendall(b" and goodbye")
                conn.close()


PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgr9tYED2jCF7UMd17
Q67Z5QuGXEcxoYHcp1b3/Yc7kq6hRANCAAQVDoOU3Eu5ECu01Y0SHorEmsVId60/
17afFMII2uOxlFT3214K/ypb2xKOiMwNnYlw/IQcsXw6GDAi3Y6l0wZn
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIUO2bCiTlKQmQBhy25kozRDpl1yi0wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNzE0NDIwM1oYDzIxMjYxMTAz
MTQ0MjAzWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQVDoOU3Eu5ECu01Y0SHorEmsVId60/17afFMII2uOxlFT3214K/ypb
2xKOiMwNnYlw/IQcsXw6GDAi3Y6l0wZno1MwUTAdBgNVHQ4EFgQUuiyUluKDEWhU
1F+MK4HqoFA/d/wwHwYDVR0jBBgwFoAUuiyUluKDEWhU1F+MK4HqoFA/d/wwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAjm01guRK/JrRaXGplojY
miZw4nyf9Nt397T7EqiliLECICuIJhuHHIFeJNtpLfBzZAHTfjTuIpKZoRpVZtLG
M5LZ
-----END CERTIFICATE-----
"""  # made for these tests, and known to everybody

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore Ctrl+C
    globals()[sys.argv[1]]("127.0.0.1", int(sys.argv[2]))
