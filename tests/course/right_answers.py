"""Solutions of the exercises, each written in several ways: `RIGHT` lists them in the order of the exercises."""

# ruff: noqa: RUF059

import collections
import contextlib
import itertools
import os
import queue
import select
import selectors
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import echo_kit

RIGHT = []  # (number, function)

diary = queue.SimpleQueue()  # what a daemon of an answer waits for, until the test is over: then None comes
over = threading.Event()  # set then


def right(number):
    def note(function):
        RIGHT.append((number, function))
        return function

    return note


def handle_client(conn, addr):
    with conn:
        try:
            while data := conn.recv(1024):
                conn.sendall(data)
        except ConnectionError:
            print(f"Lost {addr}")


def lines_of(conn):
    rest = b""
    while data := conn.recv(1024):
        rest = rest + data
        while b"\n" in rest:
            line, rest = rest.split(b"\n", 1)
            yield line


def handle_and_save(conn, addr):
    handle_client(conn, addr)
    time.sleep(0.2)
    print(f"{addr} is saved")


# -- 1.1 ---------------------------------------------------------------------------------------------------------------


@right("1.1")
def from_memory(host, port):
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.bind((host, port))
    s.listen()
    while True:
        conn, addr = s.accept()
        while data := conn.recv(1024):
            conn.sendall(data)
        conn.close()


@right("1.1")
def with_send_and_break(host, port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((host, port))
        s.listen(5)
        while True:
            conn, addr = s.accept()
            with conn:
                while True:
                    data = conn.recv(64)
                    if not data:
                        break
                    while data:
                        data = data[conn.send(data) :]


@right("1.1")
def with_a_queue_and_a_daemon(host, port):
    def write_the_diary():
        while (line := diary.get()) is not None:
            print(line)

    threading.Thread(target=write_the_diary, daemon=True).start()
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            diary.put(f"{addr} is there")
            with conn, conn.makefile("rwb", buffering=0) as file:
                while data := file.read(1024):
                    while data:
                        data = data[file.write(data) :]


@right("1.1")
def accepts_ahead_and_serves_in_order(host, port):
    waiting = queue.Queue()

    def serve_one_after_the_other():
        while (conn := waiting.get()) is not None:
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data)

    worker = threading.Thread(target=serve_one_after_the_other, daemon=True)
    worker.start()
    with socket.create_server((host, port)) as s:
        try:
            while True:
                waiting.put(s.accept()[0])
        finally:
            waiting.put(None)


@right("1.1")
def with_a_limit_and_patience(host, port):
    socket.setdefaulttimeout(5)
    with socket.create_server((host, port)) as s:
        while True:
            try:
                conn, addr = s.accept()
            except TimeoutError:
                continue
            with conn:
                data = None
                while data != b"":
                    with contextlib.suppress(TimeoutError):
                        data = conn.recv(4096)
                        conn.sendall(data)


# -- 1.2 to 1.5 --------------------------------------------------------------------------------------------------------


@right("1.2")
def shout(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.upper())


@right("1.2")
def shout_into_a_buffer(conn, addr):
    buffer = bytearray(100)
    while size := conn.recv_into(buffer):
        for letter in buffer[:size].upper():
            conn.sendall(bytes([letter]))


@right("1.2")
def shout_with_a_table(conn, addr):
    table = bytes(each - 32 if ord("a") <= each <= ord("z") else each for each in range(256))
    for data in iter(lambda: conn.recv(7), b""):
        conn.sendall(data.translate(table))


@right("1.2")
def shout_past_the_socket(conn, addr):
    while data := os.read(conn.fileno(), 1024):
        left = data.upper()
        while left:
            left = left[os.write(conn.fileno(), left) :]


@right("1.2")
def shout_and_ask_again_and_again(conn, addr):
    conn.settimeout(0.05)
    while True:
        try:
            data = conn.recv(1024)
        except TimeoutError:
            continue
        if not data:
            return
        conn.sendall(data.upper())


@right("1.2")
def shout_with_a_long_limit(conn, addr):
    conn.settimeout(60)
    while True:
        try:
            data = conn.recv(1024)
        except TimeoutError:
            print(f"{addr} is still silent")
            continue
        if not data:
            return
        conn.sendall(data.upper())


@right("1.3")
def greet(conn, addr):
    conn.sendall(b"Welcome!\n")
    while data := conn.recv(1024):
        conn.sendall(data)


@right("1.3")
def greet_with_text(conn, addr):
    print("greets", addr, flush=True)
    conn.sendall("Welcome!".encode("ascii"))
    conn.sendall(b"\n")
    while True:
        data = conn.recv(1)
        if len(data) == 0:
            return
        conn.sendall(data)


@right("1.4")
def count_bytes(conn, addr):
    total = 0
    while data := conn.recv(1024):
        total = total + len(data)
        conn.sendall(f"{total}\n".encode())


@right("1.4")
def count_with_a_list(conn, addr):
    sizes = []
    while True:
        data = conn.recv(1024)
        sizes.append(len(data))
        if not data:
            break
        conn.sendall((str(sum(sizes)) + "\n").encode())


@right("1.4")
def count_and_ask_again_after_four_seconds(conn, addr):
    total = 0
    while True:
        conn.settimeout(4)
        with contextlib.suppress(TimeoutError):
            data = conn.recv(1024)
            if not data:
                return
            total += len(data)
            conn.sendall(f"{total}\n".encode())


@right("1.4")
def count_in_small_pieces(conn, addr):
    total = 0
    while piece := conn.recv(3):
        total += len(piece)
        conn.sendall(f"{total}\n".encode())


bytes_of = collections.Counter()


@right("1.4")
def count_by_address(conn, addr):
    try:
        while data := conn.recv(1024):
            bytes_of[addr] += len(data)
            conn.send(b"%d\n" % bytes_of[addr])
    finally:
        del bytes_of[addr]


@right("1.5")
def reverse_lines(conn, addr):
    rest = b""
    while data := conn.recv(1024):
        rest = rest + data
        while b"\n" in rest:
            line, rest = rest.split(b"\n", 1)
            conn.sendall(line[::-1] + b"\n")


@right("1.5")
def reverse_a_file(conn, addr):
    with conn.makefile("rwb") as file:
        for line in file:
            if line.endswith(b"\n"):
                file.write(line[:-1][::-1] + b"\n")
                file.flush()


@right("1.5")
def reverse_with_readline(conn, addr):
    with conn.makefile("rb") as file:
        while (line := file.readline()).endswith(b"\n"):
            conn.sendall(line.removesuffix(b"\n")[::-1] + b"\n")


@right("1.5")
def reverse_by_byte(conn, addr):
    line = collections.deque()
    while data := conn.recv(10):
        for byte in data:
            if byte == ord("\n"):
                conn.sendall(bytes(line) + b"\n")
                line.clear()
            else:
                line.appendleft(byte)


# -- 1.6 ---------------------------------------------------------------------------------------------------------------


@right("1.6")
def make_them_wait(server):
    alice = echo_kit.Client(server, name="alice")
    alice.send("hello")
    alice.receive()
    bob = echo_kit.Client(server, name="bob")
    bob.send("hello")
    carol = echo_kit.Client(server, name="carol")
    carol.send("hello")
    return [alice, bob, carol]


@right("1.6")
def they_say_something_else(server):
    clients = tuple(echo_kit.Client(server.address, name=name) for name in ("alice", "bob", "carol"))
    for client in clients[1:]:
        client.send("hi yo")
    return clients


@right("1.6")
def they_connect_in_threads(server):
    clients, alice_is_there, bob_is_there = {}, threading.Event(), threading.Event()

    def connect(name, after, then):
        after.wait()
        clients[name] = echo_kit.Client(server, name=name)
        if name != "alice":
            clients[name].send(b"12345")
        then.set()

    waits = [threading.Event(), alice_is_there, bob_is_there, threading.Event()]
    waits[0].set()
    threads = [
        threading.Thread(target=connect, args=(name, *waits[number : number + 2]))
        for number, name in enumerate(("alice", "bob", "carol"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [*clients.values()]


# -- 1.7, 1.8 ----------------------------------------------------------------------------------------------------------


@right("1.7")
def be_patient(conn, addr):
    conn.settimeout(0.5)
    try:
        while data := conn.recv(1024):
            conn.sendall(data)
    except TimeoutError:
        print(f"{addr} was silent for too long")


@right("1.7")
def be_patient_with_select(conn, addr):
    while select.select([conn], [], [], 0.5)[0]:
        data = conn.recv(1024)
        if not data:
            break
        conn.sendall(data)


@right("1.7")
def be_patient_with_another_limit_for_sending(conn, addr):
    conn.settimeout(5)
    be_patient_with_select(conn, addr)


@right("1.7")
def be_patient_in_small_steps(conn, addr):
    heard = time.monotonic()
    conn.settimeout(0.1)
    while time.monotonic() - heard < 0.5:
        try:
            data = conn.recv(1024)
        except socket.timeout:  # noqa: UP041
            continue
        if not data:
            return
        conn.sendall(data)
        heard = time.monotonic()


@right("1.7")
def be_patient_anew(conn, addr):
    with contextlib.suppress(TimeoutError):
        while True:
            conn.settimeout(0.5)
            data = conn.recv(1024)
            conn.settimeout(None)
            if not data:
                break
            conn.sendall(data)


@right("1.7")
def be_patient_and_ask_again_and_again(conn, addr):
    conn.setblocking(False)
    heard = time.monotonic()
    while time.monotonic() - heard < 0.5:
        try:
            data = conn.recv(1024)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        if not data:
            break
        conn.sendall(data)
        heard = time.monotonic()


@right("1.7")
def be_patient_with_a_timer(conn, addr):
    while True:
        timer = threading.Timer(0.5, conn.shutdown, args=[socket.SHUT_RDWR])
        timer.start()
        data = conn.recv(1024)
        timer.cancel()
        if not data:
            break
        conn.sendall(data)


@right("1.7")
def be_patient_with_a_file_descriptor(conn, addr):
    with selectors.DefaultSelector() as selector:
        selector.register(conn, selectors.EVENT_READ)
        while selector.select(0.5) and (data := conn.recvmsg(1024)[0]):
            conn.sendmsg([data]) if len(data) < 50 else conn.sendall(data)


@right("1.8")
def serve_safely(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                try:
                    while data := conn.recv(1024):
                        print(f"Received data from {addr} : {data.decode(errors='backslashreplace')}")
                        conn.sendall(data)
                except ConnectionError:
                    print(f"Lost {addr}")


@right("1.8")
def serve_with_daemons(host, port):
    def write_the_diary():
        while (line := diary.get()) is not None:
            print(line)

    def tell_the_time():
        while not over.wait(60):  # as time.sleep(60), but a test can end it
            print(time.ctime())

    for each in (write_the_diary, tell_the_time):
        threading.Thread(target=each, daemon=True).start()
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                try:
                    while data := conn.recv(1024):
                        diary.put(f"{addr}: {data!r}")
                        conn.sendall(data)
                except OSError as error:
                    diary.put(f"{addr}: {error}")


@right("1.8")
def serve_with_exception(host, port):
    def serve_one(conn, addr):
        while data := conn.recv(1024):
            print(repr(data))
            conn.sendall(data)

    s = socket.create_server((host, port))
    try:
        while True:
            conn, addr = s.accept()
            try:
                serve_one(conn, addr)
            except Exception as error:
                print(addr, error)
            finally:
                conn.close()
    finally:
        s.close()


@right("1.8")
def serve_with_suppress(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            with contextlib.suppress(OSError), contextlib.closing(s.accept()[0]) as conn:
                while data := conn.recv(1024):
                    try:
                        print(data.decode())
                    except UnicodeDecodeError:
                        print("no text")
                    conn.sendall(data)


# -- 1.9 Write the client ----------------------------------------------------------------------------------------------


@right("1.9")
def client_program():
    host, port = sys.argv[1], int(sys.argv[2])
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.connect((host, port))
        try:
            while True:
                line = input("> ").encode()
                if not line:
                    continue
                s.sendall(line)
                echo = b""
                while len(echo) < len(line):
                    data = s.recv(1024)
                    if not data:
                        return
                    echo = echo + data
                print(f"Received  :  {echo.decode()}")
        except (KeyboardInterrupt, EOFError):
            print()


def receive(s, count):
    """A reply of `count` bytes."""
    data = b""
    while len(data) < count:
        piece = s.recv(count - len(data))
        if not piece:
            sys.exit("The server has left")
        data += piece
    return data


@right("1.9")
def client_that_exits():
    if len(sys.argv) == 1:
        print("Use ./client.py HOST PORT for non default args")
    try:
        host, port = sys.argv[1:] or ("127.0.0.1", 8000)
        with socket.create_connection((host, int(port))) as s:
            print("Connected")
            while True:
                line = input("> ").encode()
                if line:
                    s.sendall(line)
                    print(f"Received : {receive(s, len(line)).decode(errors='backslashreplace')}")
    except (KeyboardInterrupt, EOFError):
        print("Goodbye")
    except (OSError, ValueError) as error:
        sys.exit(f"Connection failed: {error}")


@right("1.9")
def client_with_finally():
    s = socket.socket()
    try:
        s.connect((sys.argv[1], int(sys.argv[2])))
        for text in iter(lambda: input("> "), None):
            sent, left = text.encode(), text.encode()
            while left:
                left = left[s.send(left) :]
            echo = bytearray()
            while len(echo) < len(sent) and (data := s.recv(100)):
                echo += data
            if len(echo) < len(sent):
                print("The server has left")
                break
            if echo:
                print("Received  :", echo.decode())
    except BaseException as error:
        print(type(error).__name__)
    finally:
        s.close()


# -- 2.1 ---------------------------------------------------------------------------------------------------------------


@right("2.1")
def serve_each(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            thread = threading.Thread(target=handle_client, args=(conn, addr))
            thread.start()


class Conversation(threading.Thread):
    def __init__(self, conn):
        super().__init__(daemon=True)
        self.conn = conn

    def run(self):
        handle_client(self.conn, self.conn.getpeername())


@right("2.1")
def serve_each_with_a_class(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            Conversation(s.accept()[0]).start()


@right("2.1")
def serve_each_and_keep_a_list(host, port):
    threads = []
    with socket.create_server((host, port)) as s:
        for number in itertools.count(1):
            conn, addr = s.accept()
            threads.append(
                threading.Thread(target=lambda conn=conn: handle_client(conn, None), name=f"helper {number}")
            )
            threads[-1].start()
            threads = [each for each in threads if each.is_alive()]


@right("2.1")
def serve_each_and_count_in_a_helper(host, port):
    came = queue.Queue()

    def count():
        for number in itertools.count(1):
            print(number, "clients; the newest is", came.get())

    threading.Thread(target=count, daemon=True).start()
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            came.put(addr)
            threading.Thread(target=handle_client, args=(conn, addr), name="client").start()


@right("2.1")
def serve_each_and_tell_the_time(host, port):
    def tell():
        while True:
            time.sleep(0.3)
            print("still here")

    threading.Thread(target=tell, daemon=True).start()
    serve_each(host, port)


# -- 2.2 ---------------------------------------------------------------------------------------------------------------


@right("2.2")
def say_who(conn, addr):
    for _ in lines_of(conn):
        name = threading.current_thread().name
        conn.sendall(f"{name}\n".encode())


@right("2.2")
def say_who_once_asked(conn, addr):
    me = threading.current_thread()
    with conn.makefile("rb") as lines, conn.makefile("w") as file:  # one for both would lose what it has read ahead
        for line in lines:
            if line.endswith(b"\n"):
                print(me.name, file=file, flush=True)


@right("2.2")
def say_who_by_ident(conn, addr):
    names = {each.ident: each.name for each in threading.enumerate()}
    rest = b""
    while data := conn.recv(3):
        *lines, rest = (rest + data).split(b"\n")
        for _ in lines:
            conn.sendall(names[threading.get_ident()].encode() + b"\n")


# -- 2.3 ---------------------------------------------------------------------------------------------------------------

total = 0
lock = threading.Lock()


@right("2.3")
def count_messages(conn, addr):
    global total
    for _ in lines_of(conn):
        with lock:
            total = total + 1
            number = total
        conn.sendall(f"{number}\n".encode())


@right("2.3")
def count_and_send_locked(conn, addr):
    global total
    while data := conn.recv(1024):
        for _ in range(data.count(b"\n")):
            lock.acquire()
            try:
                total += 1
                conn.sendall(f"{total}\n".encode())
            finally:
                lock.release()


numbers = itertools.count(1000)


@right("2.3")
def count_with_an_iterator(conn, addr):
    for _ in lines_of(conn):
        conn.sendall(f"{next(numbers)}\n".encode())


class Counter:
    def __init__(self):
        self.value, self.lock = 0, threading.RLock()

    def next(self):
        with self.lock:
            self.value += 1
            return self.value


counter = Counter()


@right("2.3")
def count_with_an_object(conn, addr):
    for _ in lines_of(conn):
        conn.sendall(f"{counter.next()}\n".encode())


# -- 2.4 ---------------------------------------------------------------------------------------------------------------

names = set()
names_lock = threading.Lock()


def list_names():
    with names_lock:
        return ", ".join(sorted(names))


@right("2.4")
def who(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with names_lock:
                    names.add(name)
                line = f"hello {name}".encode()
            elif line == b"/who":
                line = list_names().encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print(f"Lost {name}")
    finally:
        with names_lock:
            names.discard(name)


people = {}


@contextlib.contextmanager
def present(name, addr):
    with names_lock:
        people[addr] = name
    try:
        yield
    finally:
        with names_lock:
            del people[addr]


@right("2.4")
def who_with_a_context(conn, addr):
    with contextlib.suppress(ConnectionError), conn.makefile("rb") as file:
        name = file.readline()
        if not name.endswith(b"\n"):
            return
        with present(name[:-1].decode(), addr):
            conn.sendall(b"hello " + name)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                if line == b"/who\n":
                    with names_lock:
                        line = (", ".join(sorted(people.values())) + "\n").encode()
                conn.sendall(line)


members = set()


@right("2.4")
def who_greets_first_and_removes(conn, addr):
    lines = lines_of(conn)
    try:
        name = next(lines).decode()
        conn.sendall(f"hello {name}\n".encode())
    except (ConnectionError, StopIteration):
        return
    with names_lock:
        members.add(name)
    try:
        for line in lines:
            if line == b"/who":
                with names_lock:
                    line = ", ".join(sorted(members)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print(f"Lost {name}")
    finally:
        with names_lock:
            members.remove(name)


in_order = []


@right("2.4")
def who_sorted_while_locked(conn, addr):
    name, rest = None, b""
    while True:
        try:
            data = conn.recv(5)
        except ConnectionResetError:
            data = b""
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if name is None:
                name = line.decode()
                with names_lock:
                    in_order.append(name)
                    in_order.sort()
                conn.sendall(f"hello {name}\n".encode())
            elif line == b"/who":
                with names_lock:
                    conn.sendall((", ".join(in_order) + "\n").encode())
            else:
                conn.sendall(line + b"\n")
    if name is not None:
        with names_lock:
            in_order.remove(name)


class Presence:
    def __init__(self):
        self.names, self.change = [], threading.Condition()

    def become(self, name, there):
        with self.change:
            (self.names.append if there else self.names.remove)(name)

    def __str__(self):
        with self.change:
            return ", ".join(sorted(self.names))


@right("2.4")
def who_with_an_object(conn, addr, presence=Presence()):  # noqa: B008
    name = None
    with contextlib.suppress(ConnectionError):
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                presence.become(name, True)
                line = b"hello " + line
            conn.sendall((str(presence).encode() if line == b"/who" else line) + b"\n")
    if name is not None:
        presence.become(name, False)


one_at_a_time = threading.Semaphore(1)
guests = {"names": ()}


@right("2.4")
def who_with_a_semaphore_and_a_tuple(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            answer = line
            with one_at_a_time:
                if name is None:
                    name = line.decode()
                    guests["names"] = (*guests["names"], name)
                    answer = b"hello " + line
                elif line == b"/who":
                    answer = ", ".join(sorted(guests["names"])).encode()
            conn.sendall(answer + b"\n")
    except ConnectionError:
        print(f"Lost {name}")
    finally:
        with one_at_a_time:
            guests["names"] = tuple(each for each in guests["names"] if each != name)


visitors, visits_lock, print_lock = set(), threading.Lock(), threading.Lock()
visits = 0
count_lock = threading.RLock()


def say(*words):
    with print_lock:
        print(*words)


@right("2.4")
def who_with_other_locks_for_other_things(conn, addr):
    global visits
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                with count_lock:
                    visits += 1
                with visits_lock:
                    name = line.decode()
                    visitors.add(name)
                    say(name, "is there")
                line = b"hello " + line
            elif line == b"/who":
                say("somebody asks")
                with visits_lock:
                    line = ", ".join(sorted(visitors)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        say(f"Lost {name}")
    finally:
        with visits_lock:
            visitors.discard(name)
        with count_lock:
            say(name, "was one of", visits)


# -- 2.5 ---------------------------------------------------------------------------------------------------------------


@right("2.5")
def serve_three(host, port):
    places = threading.Semaphore(3)

    def handle_and_leave(conn, addr):
        try:
            handle_client(conn, addr)
        finally:
            places.release()

    with socket.create_server((host, port)) as s:
        while True:
            places.acquire()
            conn, addr = s.accept()
            threading.Thread(target=handle_and_leave, args=(conn, addr)).start()


@right("2.5")
def serve_three_who_accept(host, port):
    def accept():
        while True:
            conn, addr = s.accept()
            handle_client(conn, addr)

    with socket.create_server((host, port)) as s:
        threads = [threading.Thread(target=accept) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@right("2.5")
def serve_three_with_a_queue(host, port):
    places = queue.Queue()
    for number in range(3):
        places.put(number)

    def handle(conn, addr, place):
        handle_client(conn, addr)
        places.put(place)

    with socket.create_server((host, port)) as s:
        while True:
            place = places.get()
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr, place)).start()


@right("2.5")
def serve_three_with_a_condition(host, port):
    there, changed = set(), threading.Condition()

    def handle(conn, addr):
        handle_client(conn, addr)
        with changed:
            there.remove(addr)
            changed.notify()

    with socket.create_server((host, port)) as s:
        while True:
            with changed:
                changed.wait_for(lambda: len(there) < 3)
            conn, addr = s.accept()
            with changed:
                there.add(addr)
            threading.Thread(target=handle, args=(conn, addr)).start()


@right("2.5")
def serve_three_and_look_again(host, port):
    threads = []
    with socket.create_server((host, port)) as s:
        while True:
            threads = [each for each in threads if each.is_alive()]
            if len(threads) == 3:
                time.sleep(0.02)
                continue
            conn, addr = s.accept()
            threads.append(threading.Thread(target=handle_client, args=(conn, addr), name="one of three"))
            threads[-1].start()


@right("2.5")
def serve_three_and_ask_again(host, port):
    places, left = threading.BoundedSemaphore(3), queue.Queue()

    def give_back():
        while left.get():
            places.release()

    def handle(conn, addr):
        handle_client(conn, addr)
        left.put(addr)

    threading.Thread(target=give_back, daemon=True).start()
    with socket.create_server((host, port)) as s:
        while True:
            while not places.acquire(timeout=0.2):
                pass
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr)).start()


@right("2.5")
def serve_three_and_look_again_twice_a_second(host, port):
    threads = []
    with socket.create_server((host, port)) as s:
        while True:
            while sum(each.is_alive() for each in threads) == 3:
                time.sleep(0.5)
            threads.append(threading.Thread(target=handle_client, args=s.accept()))
            threads[-1].start()


# -- 2.6 ---------------------------------------------------------------------------------------------------------------


@right("2.6")
def serve_pool(host, port):
    with socket.create_server((host, port)) as s:
        with ThreadPoolExecutor(max_workers=3) as pool:
            while True:
                conn, addr = s.accept()
                pool.submit(handle_client, conn, addr)


@right("2.6")
def serve_pool_without_with(host, port):
    pool = ThreadPoolExecutor(3, thread_name_prefix="worker")
    futures = []
    try:
        with socket.create_server((host, port)) as s:
            while True:
                futures.append(pool.submit(handle_client, *s.accept()))
    finally:
        pool.shutdown()


@right("2.6")
def serve_pool_with_map(host, port):
    def clients():
        with socket.create_server((host, port)) as s:
            while True:
                yield s.accept()

    with ThreadPoolExecutor(max_workers=3) as pool:
        for conn, addr in clients():
            pool.submit(lambda conn=conn, addr=addr: handle_client(conn, addr))


@right("2.6")
def serve_with_a_pool_of_my_own(host, port):
    clients = queue.Queue()

    def work():
        while True:
            handle_client(*clients.get())

    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    with socket.create_server((host, port)) as s:
        while True:
            clients.put(s.accept())


# -- 2.7 ---------------------------------------------------------------------------------------------------------------


@right("2.7")
def serve_until_ctrl_c(host, port):
    clients = {}
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients[thread] = conn
                thread.start()
        except KeyboardInterrupt:
            for conn in clients.values():
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            for thread in clients:
                thread.join()


@right("2.7")
def serve_until_ctrl_c_finally(host, port):
    def hang_up(conn):
        if conn.fileno() != -1:
            conn.shutdown(socket.SHUT_RD)

    with contextlib.ExitStack() as stack, socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            thread = threading.Thread(target=handle_and_save, args=(conn, addr))
            thread.start()
            stack.callback(thread.join)
            stack.callback(hang_up, conn)


@right("2.7")
def serve_until_ctrl_c_with_a_flag(host, port):
    stopping = threading.Event()

    def handle(conn, addr):
        conn.settimeout(0.05)
        with conn:
            while not stopping.is_set():
                try:
                    data = conn.recv(1024)
                except TimeoutError:
                    continue
                if not data:
                    break
                conn.sendall(data)
        time.sleep(0.2)
        print(f"{addr} is saved")

    threads = []
    with selectors.DefaultSelector(), socket.create_server((host, port)) as s:
        try:
            while True:
                threads.append(threading.Thread(target=handle, args=s.accept()))
                threads[-1].start()
        finally:
            stopping.set()
            for thread in threads:
                thread.join()


@right("2.7")
def serve_until_ctrl_c_and_look_again(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                clients.append((threading.Thread(target=handle_and_save, args=(conn, addr), daemon=True), conn))
                clients[-1][0].start()
        except KeyboardInterrupt:
            for _, conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            while any(thread.is_alive() for thread, _ in clients):
                time.sleep(0.01)


@right("2.7")
def serve_until_ctrl_c_and_join_again(host, port):
    clients = {}
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients[thread] = conn
                thread.start()
        except KeyboardInterrupt:
            for conn in clients.values():
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            for thread in clients:
                while thread.is_alive():
                    thread.join(1)


# -- 3.1 An echo with selectors ----------------------------------------------------------------------------------------


def read_or_send(selector, conn, rest):
    if rest:
        rest = rest[conn.send(rest) :]
    elif not (rest := conn.recv(1024)):
        return False
    selector.modify(conn, selectors.EVENT_WRITE if rest else selectors.EVENT_READ, rest)
    return True


@right("3.1")
def serve_with_selectors(host, port):
    with socket.create_server((host, port)) as s, selectors.DefaultSelector() as selector:
        s.setblocking(False)
        selector.register(s, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                conn, is_there = key.fileobj, True
                try:
                    if conn is s:
                        conn, addr = s.accept()
                        conn.setblocking(False)
                        selector.register(conn, selectors.EVENT_READ)
                    else:
                        is_there = read_or_send(selector, conn, key.data)
                except BlockingIOError:
                    pass
                except ConnectionError:
                    is_there = False
                if not is_there:
                    selector.unregister(conn)
                    conn.close()


@right("3.1")
def serve_with_select_and_reads_on(host, port):
    """It reads while an echo waits for room: the rest grows, and is sent also after the end of file."""
    rests, ended = {}, set()
    with socket.create_server((host, port)) as s:
        s.setblocking(False)
        while True:
            readers = [conn for conn in rests if conn not in ended]
            writers = [conn for conn, rest in rests.items() if rest]
            readable, writable, _ = select.select([s, *readers], writers, [], 5)
            for conn in readable:
                if conn is s:
                    new, addr = s.accept()
                    new.setblocking(False)
                    rests[new] = bytearray()
                    continue
                try:
                    data = conn.recv(65536)
                except OSError:
                    ended.add(conn)
                    rests[conn].clear()
                    continue
                rests[conn] += data
                if not data:
                    ended.add(conn)
            for conn in writable:
                try:
                    del rests[conn][: conn.send(rests[conn][:65536])]
                except OSError:
                    ended.add(conn)
                    rests[conn].clear()
            for conn in [each for each in ended if not rests[each]]:
                ended.discard(conn)
                del rests[conn]
                conn.close()


@right("3.1")
def serve_with_callbacks(host, port):
    """It sends at once, and asks for room only when not all was taken."""
    selector = selectors.DefaultSelector()

    def leave(conn):
        selector.unregister(conn)
        conn.close()

    def read(conn):
        data = conn.recv(4096)
        if data:
            write(conn, data)
        else:
            leave(conn)

    def write(conn, data):
        try:
            size = conn.send(data)
        except BlockingIOError:
            size = 0
        rest = data[size:]
        if rest:
            selector.modify(conn, selectors.EVENT_WRITE, lambda conn: write(conn, rest))
        else:
            selector.modify(conn, selectors.EVENT_READ, read)

    def accept(s):
        conn, addr = s.accept()
        conn.setblocking(False)
        selector.register(conn, selectors.EVENT_READ, read)

    with selector, socket.create_server((host, port)) as s:
        s.setblocking(False)
        selector.register(s, selectors.EVENT_READ, accept)
        while True:
            for key, _ in selector.select(timeout=0.5):
                try:
                    key.data(key.fileobj)
                except ConnectionError:
                    leave(key.fileobj)


# -- 3.2 Say no politely -----------------------------------------------------------------------------------------------


def refuse(conn):
    with conn:
        try:
            conn.settimeout(2)
            conn.sendall(b"full\n")
            conn.shutdown(socket.SHUT_WR)
            while conn.recv(1024):
                pass
        except OSError:
            pass


def handle_and_release(conn, addr, places):
    try:
        handle_client(conn, addr)
    finally:
        places.release()


@right("3.2")
def serve_politely(host, port):
    places = threading.Semaphore(3)
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            if places.acquire(blocking=False):
                threading.Thread(target=handle_and_release, args=(conn, addr, places)).start()
            else:
                threading.Thread(target=refuse, args=(conn,)).start()


@right("3.2")
def serve_politely_and_count_threads(host, port):
    served = []
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            served = [each for each in served if each.is_alive()]
            if len(served) < 3:
                served.append(threading.Thread(target=handle_client, args=(conn, addr)))
                served[-1].start()
            else:
                threading.Thread(target=refuse, args=(conn,)).start()


@right("3.2")
def serve_politely_with_a_deadline(host, port):
    """Each thread decides for its own client; and however much a refused client sends, two seconds are all."""
    lock, served = threading.Lock(), set()

    def talk(conn, addr):
        with conn:
            with lock:
                if len(served) < 3:
                    served.add(conn)
            try:
                if conn in served:
                    while data := conn.recv(1024):
                        conn.sendall(data)
                    return
                conn.sendall(b"full\n")
                conn.shutdown(socket.SHUT_WR)
                deadline = time.monotonic() + 2
                while (left := deadline - time.monotonic()) > 0 and select.select([conn], [], [], left)[0]:
                    if not conn.recv(1024):
                        break
            except OSError:
                print(f"Lost {addr}")
            finally:
                with lock:
                    served.discard(conn)

    with socket.create_server((host, port)) as s:
        while True:
            threading.Thread(target=talk, args=s.accept(), daemon=True).start()


# -- 3.3 Who makes everybody wait? -------------------------------------------------------------------------------------


@right("3.3")
def find_culprit(calls):
    mine = [row for row in calls if row["thread"] == "server thread"]
    name, longest = None, 0.0
    for row, after in itertools.pairwise(mine):
        began, over = row["seconds"] + row["took"], after["seconds"]
        others = [each for each in calls if each["call"] == "client send" and each["client"] != row["client"]]
        waited = any(began < each["seconds"] < over for each in others)
        if row["call"] == "recv" and waited and over - began > longest:
            name, longest = row["client"], over - began
    return name, longest


@right("3.3")
def find_culprit_by_answers(calls):
    """From the recv to the send of the same client, both with the time of their calls."""
    held, read = [], None
    for row in calls:
        if row["thread"] == "server thread" and row["call"] == "recv" and row["bytes"]:
            read = row
        elif row["thread"] == "server thread" and row["call"] == "send" and read is not None:
            held.append(
                (row["seconds"] + row["took"] - read["seconds"], read["seconds"], row["seconds"], row["client"])
            )
            read = None
    for seconds, began, over, name in sorted(held, reverse=True):
        for row in calls:
            if row["call"] == "client send" and row["client"] != name and began < row["seconds"] < over:
                return name, seconds


# -- S.1 A clean goodbye -----------------------------------------------------------------------------------------------


@right("S.1")
def goodbye_with_a_time_limit(conn, addr):
    conn.sendall(conn.recv(2))
    conn.shutdown(socket.SHUT_WR)
    conn.settimeout(5)
    with contextlib.suppress(TimeoutError):
        while conn.recv(65536):
            pass


@right("S.1")
def goodbye_by_file(conn, addr):
    with conn.makefile("rb", buffering=0) as file:
        conn.sendall(file.read(2))
        conn.shutdown(socket.SHUT_WR)
        file.readall()


@right("S.1")
def goodbye_by_messages(conn, addr):
    conn.sendmsg([conn.recvmsg(2)[0]])
    conn.shutdown(socket.SHUT_WR)
    while conn.recvmsg(4096)[0]:
        pass


@right("S.1")
def goodbye_past_the_socket(conn, addr):
    os.write(conn.fileno(), os.read(conn.fileno(), 2))
    conn.shutdown(socket.SHUT_WR)
    while os.read(conn.fileno(), 4096):
        pass


@right("S.1")
def goodbye_into_a_buffer(conn, addr):
    buffer = bytearray(1000)
    conn.sendall(conn.recvfrom(2)[0])
    conn.shutdown(socket.SHUT_WR)
    while select.select([conn], [], [])[0] and conn.recvmsg_into([buffer])[0]:
        pass


# -- S.2 Much at once --------------------------------------------------------------------------------------------------


@right("S.2")
def sends_in_a_thread(sock, data):
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    came = bytearray()
    while len(came) < len(data):
        came += sock.recv(65536)
    sender.join()
    return came


@right("S.2")
def a_piece_by_turns(sock, data):
    came = b""
    for at in range(0, len(data), 20_000):
        sock.sendall(data[at : at + 20_000])
        while len(came) < min(len(data), at + 20_000):
            came += sock.recv(20_000)
    return came


@right("S.2")
def a_small_piece_by_turns(sock, data):
    came = b""
    for at in range(0, len(data), 1000):
        piece = data[at : at + 1000]
        sock.sendall(piece)
        while len(came) < at + len(piece):
            came += sock.recv(1024)
    return came


@right("S.2")
def one_thread_for_both(sock, data):
    sock.setblocking(False)
    left, came = memoryview(data), b""
    while len(came) < len(data):
        readable, writable, _ = select.select([sock], [sock] if left else [], [])
        if readable:
            came += sock.recv(65536)
        if writable:
            left = left[sock.send(left) :]
    return came


@right("S.2")
def says_that_it_is_all_and_reads_to_the_end(sock, data):
    def send():
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    threading.Thread(target=send).start()
    return b"".join(iter(lambda: sock.recv(65536), b""))


@right("S.2")
def reads_in_a_thread(sock, data):
    came = bytearray(len(data))

    def read():
        view = memoryview(came)
        while view:
            view = view[sock.recv_into(view) :]

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    left = memoryview(data)
    while left:
        left = left[sock.send(left) :]
    reader.join()
    return bytes(came)


@right("S.2")
def reads_with_a_file(sock, data):
    with ThreadPoolExecutor() as pool, sock.makefile("rb") as file:
        came = pool.submit(file.read, len(data))
        sock.sendall(data)
        return came.result()
