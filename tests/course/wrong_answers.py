"""What second-year students write before they have it: `WRONG` says for each what the report must say of it.

The order is that of the exercises. Each function is whole, as a student's cell is.
"""

# ruff: noqa: B007, B008, B023, RUF059, E722, F841

import contextlib
import itertools
import multiprocessing
import queue
import select
import selectors
import socket
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import echo_kit
from echo_kit.course.serving import check_host

WRONG = []  # (number, function, part of `expected`, part of `got`, part of `hint` at its second level)
SLOW = set()  # some of these functions


def wrong(number, expected, got, hint):
    def note(function):
        WRONG.append((number, function, expected, got, hint))
        return function

    return note


# Where this machine has a second address for a check to give, which macOS has not.
wrong_host = wrong if check_host() != "127.0.0.1" else lambda *_: lambda function: function


def slow(function):
    """The check waits for seconds for something that never comes: too long to be tried each time."""
    SLOW.add(function)
    return function


def echo(conn):
    while data := conn.recv(1024):
        conn.sendall(data)


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


def a_thread_and_a_loop(sock, data):
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    came = bytearray()
    while len(came) < len(data):
        came += sock.recv(65536)
    sender.join()
    return came


# -- 1.1 From memory ---------------------------------------------------------------------------------------------------


@wrong("1.1", "bob gets", "", "a loop around accept")
def serves_one_client(host, port):
    with socket.create_server((host, port)) as s:
        conn, addr = s.accept()
        with conn:
            while data := conn.recv(1024):
                conn.sendall(data)


@wrong("1.1", 'alice gets "how are you?"', "", "a loop around recv")
def answers_once(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                data = conn.recv(1024)
                conn.sendall(data)


@wrong("1.1", 'alice gets "how are you?"', "nothing came to alice", "a loop around recv")
def accepts_after_each_message(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            data = conn.recv(1024)
            if data:
                conn.sendall(data)


@wrong("1.1", "(3,000 bytes)", "alice got", "sendall")
def sends_without_all(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.send(data)


@wrong("1.1", "your server hangs up, too", "1 is still open", "conn.close()")
def never_closes(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            while data := conn.recv(1024):
                conn.sendall(data)


@wrong("1.1", 'alice gets "hello"', "nothing came to alice", "recv, then sendall")
def answers_when_the_client_has_left(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                everything = b""
                while data := conn.recv(1024):
                    everything += data
                conn.sendall(everything)


@wrong("1.1", "starts to listen", "OSError: [Errno", "call listen() on it first")
def forgets_listen(host, port):
    with socket.socket() as s:
        s.bind((host, port))
        while True:
            conn, addr = s.accept()
            with conn:
                echo(conn)


@wrong("1.1", "starts to listen", "TypeError", "the line  with socket.create_server((host, str(port))) as s:\nThe port")
def makes_text_of_the_port(host, port):
    with socket.create_server((host, str(port))) as s:
        s.accept()


@wrong("1.1", "the port that it is given", "it listens on", "the line with bind")
def takes_another_port(host, port):
    with socket.socket() as s:
        s.bind((host, 0))
        s.listen()
        while True:
            conn, addr = s.accept()
            with conn:
                echo(conn)


@wrong("1.1", "bob gets", "Bad file descriptor", "s.accept()")
def closes_the_wrong_socket(host, port):
    s = socket.create_server((host, port))
    while True:
        conn, addr = s.accept()
        while data := conn.recv(1024):
            conn.sendall(data)
        s.close()


@wrong("1.1", "bob gets", "nothing came to bob", "no bytes")
@slow
def never_leaves_the_loop(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while True:
                    data = conn.recv(1024)
                    conn.sendall(data)


@wrong("1.1", "the host that it is given, here 127.0.0.", "it listens on 0.0.0.0", "the line with bind")
def listens_on_all_addresses(host, port):
    with socket.socket() as s:
        s.bind(("", port))
        s.listen()
        while True:
            conn, addr = s.accept()
            with conn:
                echo(conn)


@wrong_host("1.1", "the host that it is given, here 127.0.0.2", "it listens on 127.0.0.1", "the line with bind")
def listens_on_an_address_of_its_own(host, port):
    with socket.socket() as s:
        s.bind(("127.0.0.1", port))
        s.listen()
        while True:
            conn, addr = s.accept()
            with conn:
                echo(conn)


@wrong("1.1", "bob waits until alice has left", 'bob got "hi"', "one client at a time")
def serves_with_a_thread_each(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            threading.Thread(target=handle_client, args=(conn, addr)).start()


@wrong("1.1", "bob waits until alice has left", 'bob got "hi"', "one client at a time")
@slow
def serves_with_select(host, port):
    with socket.create_server((host, port)) as s:
        known = [s]
        while True:
            for sock in select.select(known, [], [])[0]:
                if sock is s:
                    known.append(s.accept()[0])
                elif data := sock.recv(1024):
                    sock.sendall(data)
                else:
                    known.remove(sock)
                    sock.close()


@wrong("1.1", r'alice gets " \tz\xff', "UnicodeDecodeError", "no decode")
def makes_text_and_bytes_again(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data.decode().encode())


@wrong("1.1", r'alice gets " \tz\xff', "alice got", "decode loses some of them")
def replaces_what_is_not_text(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data.decode(errors="replace").encode())


@wrong("1.1", r'alice gets " \tz\xff', r'alice got "z\xff\xc3("', "strip() takes white space away")
def strips_what_came(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data.strip())


@wrong("1.1", r'alice gets " \tz\xff', r'alice got " \tz\xff\xc3("', "strip() takes white space away")
def takes_the_end_of_the_line_off(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data.rstrip())


@wrong("1.1", "zoe can connect", "nobody listens any more", "a loop around accept")
def serves_three_clients(host, port):
    with socket.create_server((host, port)) as s:
        for _ in range(3):
            conn, addr = s.accept()
            with conn:
                echo(conn)


@wrong("1.1", "zoe can connect", "nobody listens any more", "a loop around accept")
def serves_ten_clients(host, port):
    count = 0
    with socket.create_server((host, port)) as s:
        while count < 10:
            conn, addr = s.accept()
            with conn:
                echo(conn)
            count += 1


@wrong("1.1", "alice gets nothing more", r'alice got "\n"', r"no \n behind it")
def adds_an_end_of_line(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data + b"\n")


@wrong("1.1", 'alice gets "hello"', "nothing came to alice", "print writes on the server's screen only")
def prints_instead_of_sending(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while data := conn.recv(1024):
                    print(f"Received data from {addr} : {data.decode()}")


@wrong("1.1", 'alice gets "hello"', """alice got "b'hello'\"""", "str() of bytes")
def sends_how_python_writes_it(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(f"{data}".encode())


@wrong("1.1", "the connection stays open", "the server hung up on alice", "however long")
@slow
def hangs_up_on_who_is_silent(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            conn.settimeout(1)
            with conn, contextlib.suppress(TimeoutError):
                echo(conn)


@wrong("1.1", "the connection stays open", "the server hung up on alice", "however long")
@slow
def hangs_up_on_who_is_silent_for_long(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            conn.settimeout(30)
            try:
                echo(conn)
            except TimeoutError:
                print(f"{addr} was silent for too long")
            conn.close()


@wrong("1.1", "the connection stays open", "the server hung up on alice", "however long")
@slow
def hangs_up_on_who_is_silent_anew(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn, contextlib.suppress(TimeoutError):
                while True:
                    conn.settimeout(4)
                    data = conn.recv(1024)
                    if not data:
                        break
                    conn.sendall(data)


@wrong("1.1", "the server hangs up on zoe", 'zoe got "Goodbye"', "send nothing more")
def says_goodbye(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                echo(conn)
                with contextlib.suppress(OSError):
                    conn.sendall(b"Goodbye")


@wrong("1.1", r'alice gets " \tz\xff', "nothing came to alice", "the same bytes may come again")
def answers_what_is_new(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                last = b""
                while data := conn.recv(1024):
                    if data != last:
                        conn.sendall(data)
                    last = data


@wrong("1.1", r'alice gets " \n"', "the server hung up on alice", "no strip")
def hangs_up_on_blank_lines(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while (data := conn.recv(1024)).strip():
                    conn.sendall(data)


# -- 1.2 Shout ---------------------------------------------------------------------------------------------------------


@wrong("1.2", 'alice gets "HELLO"', 'alice got "hello"', "unchanged")
def throws_the_capitals_away(conn, addr):
    while data := conn.recv(1024):
        data.upper()
        conn.sendall(data)


@wrong("1.2", 'alice gets "HELLO"', 'alice got "Hello"', "not title() or capitalize()")
def shouts_the_first_letter(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.title())


@wrong("1.2", 'alice gets "CAFé 24"', 'alice got "CAFÉ 24"', "upper() of text changes é")
def shouts_text(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.decode().upper().encode())


@wrong("1.2", 'alice gets "ONCE AGAIN"', "the server hung up on alice", "a loop around recv")
def shouts_once(conn, addr):
    data = conn.recv(1024)
    conn.sendall(data.upper())


@wrong("1.2", 'alice gets "HELLO"', "TypeError", "conn.sendall(data.upper)")
def forgets_the_brackets(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.upper)


@wrong("1.2", 'alice gets "HELLO"', "TypeError", "conn.sendall(data.decode().upper())")
def forgets_encode(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.decode().upper())


@wrong("1.2", 'bob gets "BYE"', "nothing came to bob", "no bytes")
@slow
def shouts_for_ever(conn, addr):
    while True:
        data = conn.recv(1024)
        conn.sendall(data.upper())


@wrong("1.2", 'alice gets "ONCE AGAIN"', 'alice got "oNCE AGAIN"', "upper()")
def swaps_capitals(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.swapcase())


@wrong("1.2", r'alice gets "\xe3"', r'alice got "\xc3"', "no decode is needed")
def takes_it_for_latin_1(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.decode("latin-1").upper().encode("latin-1", errors="replace").replace(b"\xc9", b"\xe9"))


@wrong("1.2", "(3,000 bytes)", "(300 bytes)", "sendall sends all of them")
def shouts_with_send(conn, addr):
    while data := conn.recv(1024):
        conn.send(data.upper())


@wrong("1.2", "(3,000 bytes)", "alice got", "sendall sends all of them")
def shouts_with_a_thread_that_sends(conn, addr):
    while data := conn.recv(1024):
        sender = threading.Thread(target=conn.send, args=(data.upper(),))
        sender.start()
        sender.join()


@wrong("1.2", r'alice gets " \tZ', r'alice got " \tz', "the first and the last")
def shouts_up_to_y(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(bytes(each - 32 if ord("a") <= each < ord("z") else each for each in data))


@wrong("1.2", 'alice gets "HELLO"', 'alice got "Hello"', "every letter")
def shouts_from_b_on(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.capitalize())


@wrong("1.2", r'alice gets " \tZ', r'alice got "Z\xff\xc3("', "strip() takes white space away")
def shouts_without_white_space(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.strip().upper())


@wrong("1.2", 'alice gets "HELLO"', "the server hung up on alice", "return ends your function, and sends nothing")
def returns_what_it_should_send(conn, addr):
    while data := conn.recv(1024):
        return data.upper()


@wrong("1.2", 'alice gets "HELLO"', "nothing came to alice", "print writes on the server's screen only")
def prints_it_loudly(conn, addr):
    while data := conn.recv(1024):
        print(data.upper())


@wrong("1.2", "alice gets nothing more", r'alice got "\n"', r"no \n behind it")
def shouts_a_line(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.upper() + b"\n")


@wrong("1.2", "the server hangs up on bob", 'bob got "BYE"', "send nothing more")
def shouts_at_the_end(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data.upper())
    conn.sendall(b"BYE")


@wrong("1.2", "the connection stays open", "the server hung up on alice", "however long")
@slow
def shouts_for_two_seconds(conn, addr):
    while select.select([conn], [], [], 2)[0] and (data := conn.recv(1024)):
        conn.sendall(data.upper())


@wrong("1.2", "the connection stays open", "TimeoutError", "however long")
def shouts_until_the_time_is_up(conn, addr):
    conn.settimeout(3)
    while data := conn.recv(1024):
        conn.sendall(data.upper())


@wrong("1.2", "the connection stays open", "the server hung up on alice", "however long")
@slow
def shouts_and_waits_five_seconds(conn, addr):
    while True:
        conn.settimeout(5)
        try:
            data = conn.recv(1024)
        except TimeoutError:
            data = b""
        if not data:
            return
        conn.sendall(data.upper())


@wrong("1.2", r'alice gets " \n"', "nothing came to alice", "no strip")
def leaves_blank_lines_out(conn, addr):
    while data := conn.recv(1024):
        if not data.isspace():
            conn.sendall(data.upper())


# -- 1.3 A greeting ----------------------------------------------------------------------------------------------------


@wrong("1.3", 'alice gets "hello"', "Welcome!", "before the loop, not in it")
def greets_in_the_loop(conn, addr):
    conn.sendall(b"Welcome!\n")
    while data := conn.recv(1024):
        conn.sendall(b"Welcome!\n")
        conn.sendall(data)


@wrong("1.3", 'alice gets "Welcome!\\n"', 'alice got "Welcome!"', "with \\n at its end")
def greets_without_the_end(conn, addr):
    conn.sendall(b"Welcome!")
    echo(conn)


@wrong("1.3", 'alice gets "Welcome!\\n"', "nothing came to alice", "before the first recv")
def greets_who_has_spoken(conn, addr):
    greeted = False
    while data := conn.recv(1024):
        if not greeted:
            conn.sendall(b"Welcome!\n")
            greeted = True
        conn.sendall(data)


@wrong("1.3", 'alice gets "Welcome!\\n"', "TypeError", 'conn.sendall("Welcome!\\n")')
def greets_with_text(conn, addr):
    conn.sendall("Welcome!\n")
    echo(conn)


@wrong("1.3", "the connection stays open", "the server hung up on alice", "a loop around recv")
def only_greets(conn, addr):
    conn.sendall(b"Welcome!\n")


greeted_already = []


@wrong("1.3", 'bob gets "Welcome!\\n"', "nothing came to bob", "every client is greeted")
def greets_one_client(conn, addr):
    if not greeted_already:
        conn.sendall(b"Welcome!\n")
        greeted_already.append(addr)
    try:
        echo(conn)
    finally:
        if addr not in greeted_already:
            greeted_already.clear()


@wrong("1.3", "(3,000 bytes)", "(300 bytes)", "sendall sends all of them")
def echoes_with_send(conn, addr):
    conn.sendall(b"Welcome!\n")
    while data := conn.recv(1024):
        conn.send(data)


@wrong("1.3", r'alice gets " \tz\xff', r'alice got "z', "strip() takes white space away")
def greets_and_strips(conn, addr):
    conn.sendall(b"Welcome!\n")
    while data := conn.recv(1024):
        conn.sendall(data.strip())


@wrong("1.3", r'alice gets " \tz\xff', "UnicodeDecodeError", "no decode")
def greets_and_prints_text(conn, addr):
    conn.sendall(b"Welcome!\n")
    while data := conn.recv(1024):
        print(data.decode())
        conn.sendall(data)


@wrong("1.3", 'alice gets "Welcome!\\n"', r'alice got "Welcome!\r\n"', r"without \r")
def greets_as_the_web_does(conn, addr):
    conn.sendall(b"Welcome!\r\n")
    echo(conn)


@wrong("1.3", "the connection stays open", "the server hung up on alice", "however long")
@slow
def greets_and_hangs_up_on_who_is_silent(conn, addr):
    conn.sendall(b"Welcome!\n")
    conn.settimeout(3)
    with contextlib.suppress(TimeoutError):
        echo(conn)


@wrong("1.3", 'alice gets "Welcome!\\n"', "nothing came to alice", "print writes on the server's screen only")
def greets_on_the_screen(conn, addr):
    print("Welcome!")
    echo(conn)


@wrong("1.3", "the server hangs up on bob", 'bob got "Goodbye!\\n"', "send nothing more")
def greets_at_the_end_too(conn, addr):
    conn.sendall(b"Welcome!\n")
    echo(conn)
    conn.sendall(b"Goodbye!\n")


# -- 1.4 Counting bytes ------------------------------------------------------------------------------------------------


@wrong("1.4", 'alice gets "5\\n"', 'alice got "1\\n"', "count bytes, not answers")
def counts_messages(conn, addr):
    count = 0
    while conn.recv(1024):
        count += 1
        conn.sendall(f"{count}\n".encode())


@wrong("1.4", 'alice gets "8\\n"', 'alice got "3\\n"', "5 + 3")
def counts_this_message_only(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(f"{len(data)}\n".encode())


@wrong("1.4", 'alice gets "10\\n"', 'alice got "9\\n"', "len of the bytes, not of the text")
def counts_letters(conn, addr):
    total = 0
    while data := conn.recv(1024):
        total += len(data.decode())
        conn.sendall(f"{total}\n".encode())


all_bytes = 0


@wrong("1.4", 'bob gets "2\\n"', "bob got", "each client begins with 0")
def counts_for_all(conn, addr):
    global all_bytes
    if addr[1] != counts_for_all.__dict__.setdefault("alice", addr[1]):
        del counts_for_all.alice
    else:
        all_bytes = 0
    while data := conn.recv(1024):
        all_bytes += len(data)
        conn.sendall(f"{all_bytes}\n".encode())


@wrong("1.4", 'alice gets "5\\n"', '"5"', "with \\n at its end")
def counts_without_the_end(conn, addr):
    total = 0
    while data := conn.recv(1024):
        total += len(data)
        conn.sendall(str(total).encode())


@wrong("1.4", 'alice gets "5\\n"', "\\x00", "the number as text")
def sends_so_many_zeros(conn, addr):
    total = 0
    while data := conn.recv(1024):
        total += len(data)
        conn.sendall(bytes(total) + b"\n")


@wrong("1.4", 'alice gets "5\\n"', 'alice got "38\\n"', "getsizeof counts")
def counts_with_getsizeof(conn, addr):
    total = 0
    while data := conn.recv(1024):
        total += sys.getsizeof(data)
        conn.sendall(f"{total}\n".encode())


@wrong("1.4", 'alice gets "19\\n"', 'alice got "14\\n"', "each byte is counted")
def counts_without_white_space(conn, addr):
    total = 0
    while data := conn.recv(1024):
        total += len(data.strip())
        conn.sendall(f"{total}\n".encode())


@wrong("1.4", 'alice gets "19\\n"', 'alice got "17\\n"', "each byte is counted")
def counts_the_bytes_of_the_text(conn, addr):
    total = 0
    while data := conn.recv(1024):
        total += len(data.decode(errors="ignore").encode())
        conn.sendall(f"{total}\n".encode())


@wrong("1.4", 'alice gets "28\\n"', 'alice got "19\\n"', "counted again")
def counts_what_is_new(conn, addr):
    seen = set()
    while data := conn.recv(1024):
        seen.add(data)
        conn.sendall(f"{sum(map(len, seen))}\n".encode())


@wrong("1.4", 'alice gets "5\\n"', 'alice got "hello\\n5\\n"', "the bytes are not sent back")
def echoes_a_line_and_counts(conn, addr):
    total = 0
    while data := conn.recv(1024):
        total += len(data)
        conn.sendall(data + f"\n{total}\n".encode())


@wrong("1.4", "alice gets nothing more", 'alice got "5\\n"', "a second answer")
def tells_the_number_twice(conn, addr):
    total = 0
    while data := conn.recv(1024):
        total += len(data)
        conn.sendall(f"{total}\n{total}\n".encode())


@wrong("1.4", "the server hangs up on bob", 'bob got "2\\n"', "send nothing more")
def counts_the_hang_up_too(conn, addr):
    total, data = 0, b"first"
    while data:
        data = conn.recv(1024)
        total += len(data)
        conn.sendall(f"{total}\n".encode())


@wrong("1.4", "alice gets", "alice got", "all bytes until then")
def knows_the_numbers_by_heart(conn, addr):
    first = conn.recv(100_000)
    conn.sendall(b"5\n" if first == b"hello" else b"2\n")
    for number in (8, 10, 19, 28, 30, 3030):
        if conn.recv(100_000):
            conn.sendall(f"{number}\n".encode())
    conn.recv(1)


@wrong("1.4", "alice gets", "alice got", "all bytes until then")
def knows_the_messages_by_heart(conn, addr):
    known = {b"hello": 5, b"abc": 8, "é".encode(): 10, b" \n": 30, b"hi": 2}
    again = False
    while data := conn.recv(100_000):
        number = known.get(data, 3030 if len(data) > 100 else 28 if again else 19)
        again = again or data not in known
        conn.sendall(f"{number}\n".encode())


@wrong("1.4", "the connection stays open", "the server hung up on alice", "however long")
@slow
def counts_until_the_time_is_up(conn, addr):
    total = 0
    conn.settimeout(10)
    with contextlib.suppress(TimeoutError):
        while data := conn.recv(1024):
            total += len(data)
            conn.sendall(f"{total}\n".encode())


@wrong("1.4", 'alice gets "5\\n"', "the server hung up on alice", "return ends your function")
def returns_the_number(conn, addr):
    total = 0
    while data := conn.recv(1024):
        total += len(data)
        return f"{total}\n"


# -- 1.5 Lines ---------------------------------------------------------------------------------------------------------


@wrong("1.5", "alice gets nothing more", 'alice got "leh', "not a line yet")
def takes_each_recv_for_lines(conn, addr):
    while data := conn.recv(1024):
        for line in data.splitlines():
            conn.sendall(line[::-1] + b"\n")


@wrong("1.5", 'alice gets "cba\\n"', 'alice got "\\ncba"', "the \\n does not belong to the line")
def reverses_the_end_too(conn, addr):
    rest = b""
    while data := conn.recv(1024):
        rest += data
        while b"\n" in rest:
            end = rest.index(b"\n") + 1
            line, rest = rest[:end], rest[end:]
            conn.sendall(line[::-1])


buffers = {"rest": b""}


@wrong("1.5", 'bob gets "wen\\n"', 'bob got "wenil a flah', "a variable of the function")
def keeps_one_rest_for_all(conn, addr):
    while data := conn.recv(1024):
        buffers["rest"] += data
        while b"\n" in buffers["rest"]:
            line, buffers["rest"] = buffers["rest"].split(b"\n", 1)
            conn.sendall(line[::-1] + b"\n")


@wrong("1.5", 'alice gets "eno\\nowt\\n"', 'alice got "eno\\n"', "a loop")
def takes_one_line_a_recv(conn, addr):
    rest = b""
    while data := conn.recv(1024):
        rest += data
        if b"\n" in rest:
            line, rest = rest.split(b"\n", 1)
            conn.sendall(line[::-1] + b"\n")


@wrong("1.5", 'alice gets "dnoces\\n"', 'alice got "dno\\n"', "keep the rest that is not a line yet")
def forgets_the_rest(conn, addr):
    line = b""
    while data := conn.recv(1024):
        line += data
        if b"\n" in line:
            for each in line.split(b"\n")[:-1]:
                conn.sendall(each[::-1] + b"\n")
            line = b""


@wrong("1.5", 'alice gets "\\n"', "nothing came to alice", "an empty line is a line")
def leaves_empty_lines_out(conn, addr):
    rest = b""
    while data := conn.recv(1024):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line:
                conn.sendall(line[::-1] + b"\n")


@wrong("1.5", "(3,001 bytes)", "alice got", "a line may be longer than one recv")
def throws_long_lines_away(conn, addr):
    rest = b""
    while data := conn.recv(1024):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            conn.sendall(line[::-1] + b"\n")
        rest = rest[-1000:]


@wrong("1.5", 'alice gets " b a ', 'alice got "b a', "strip()")
def strips_too_much(conn, addr):
    with conn.makefile("rwb") as file:
        for line in file:
            if line.endswith(b"\n"):
                file.write(line.strip()[::-1] + b"\n")
                file.flush()


@wrong("1.5", r'alice gets "\xa9\xc3', 'alice got "é', "bytes in reverse order")
def reverses_letters(conn, addr):
    with conn.makefile("r", newline="\n") as file:
        while (line := file.readline()).endswith("\n"):
            conn.sendall((line.rstrip("\n")[::-1] + "\n").encode())


@wrong("1.5", "the server hangs up on bob", 'bob got "il a flah"', "half a line is forgotten")
def answers_the_rest_at_the_end(conn, addr):
    rest = b""
    while data := conn.recv(1024):
        rest += data
        while b"\n" in rest:
            line, rest = rest.split(b"\n", 1)
            conn.sendall(line[::-1] + b"\n")
    conn.sendall(rest[::-1])


@wrong("1.5", "the server hangs up on bob", 'bob got "l a flah\\n"', "half a line is forgotten")
def takes_each_line_of_a_file(conn, addr):
    with conn.makefile("rwb") as file:
        for line in file:
            file.write(line[:-1][::-1] + b"\n")
            file.flush()


@wrong("1.5", r'alice gets "\rowt\reno\n"', r'alice got "\reno\n\rowt', "not splitlines()")
def splits_at_each_end_of_line(conn, addr):
    rest = b""
    while data := conn.recv(1024):
        lines = (rest + data).splitlines(keepends=True)
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        for line in lines:
            conn.sendall(line.rstrip(b"\n")[::-1] + b"\n")


@wrong("1.5", r'alice gets "\rowt\reno\n"', r'alice got "eno\nowt\n"', "not splitlines()")
def reads_text_from_a_file(conn, addr):
    with conn.makefile("r", encoding="latin-1") as file:
        while (line := file.readline()).endswith("\n"):
            conn.sendall(line[:-1][::-1].encode("latin-1") + b"\n")


@wrong("1.5", r'alice gets "\rowt\reno\n"', r'alice got "owt\reno\n"', r"\r is a byte like others")
def takes_off_what_the_web_adds(conn, addr):
    rest = b""
    while data := conn.recv(1024):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            conn.sendall(line.removesuffix(b"\r")[::-1] + b"\n")


@wrong("1.5", "(3,001 bytes)", "(100 bytes)", "sendall sends all of them")
def reverses_and_sends(conn, addr):
    rest = b""
    while data := conn.recv(1024):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            conn.send(line[::-1] + b"\n")


@wrong("1.5", "alice gets nothing more", 'alice got "leh"', "not a line yet")
@slow
def answers_after_a_silence(conn, addr):
    rest = b""
    conn.settimeout(1)
    while True:
        try:
            if not (data := conn.recv(1024)):
                return
        except TimeoutError:
            conn.sendall(rest[::-1])
            rest = data = b""
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            conn.sendall(line[::-1] + b"\n")


@wrong("1.5", "alice gets nothing more", 'alice got "leh\\n"', "not a line yet")
def answers_after_a_long_silence(conn, addr):
    rest = b""
    conn.settimeout(5)
    while True:
        try:
            if not (data := conn.recv(1024)):
                return
        except TimeoutError:
            data = b"\n"
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            conn.sendall(line[::-1] + b"\n")


@wrong("1.5", "the connection stays open", "the server hung up on alice", "not a line yet")
def waits_four_seconds_for_the_rest(conn, addr):
    conn.settimeout(4)
    with conn.makefile("rb") as file, contextlib.suppress(TimeoutError):
        while (line := file.readline()).endswith(b"\n"):
            conn.sendall(line[:-1][::-1] + b"\n")


@wrong("1.5", "alice gets", "nothing came to alice", "the same line may come again")
def answers_a_line_once(conn, addr):
    rest, known = b"", set()
    while data := conn.recv(1024):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line not in known:
                conn.sendall(line[::-1] + b"\n")
            known.add(line)


# -- 1.6 Make them wait ------------------------------------------------------------------------------------------------


@wrong("1.6", "alice is served", "alice has left", "no with")
def alice_leaves(server):
    with echo_kit.Client(server, name="alice") as alice:
        alice.send("hello")
        alice.receive()
    bob = echo_kit.Client(server, name="bob")
    bob.send("hello")
    carol = echo_kit.Client(server, name="carol")
    carol.send("hello")
    return [alice, bob, carol]


@wrong("1.6", "your function returns", "NoReply", "do not wait for it")
@slow
def waits_for_bobs_answer(server):
    alice = echo_kit.Client(server, name="alice")
    bob = echo_kit.Client(server, name="bob")
    bob.send("hello")
    bob.receive()
    carol = echo_kit.Client(server, name="carol")
    carol.send("hello")
    return [alice, bob, carol]


@wrong("1.6", "alice is served", "alice is not served", "alice connects first")
def bob_is_first(server):
    bob = echo_kit.Client(server, name="bob")
    bob.send("hello")
    alice = echo_kit.Client(server, name="alice")
    alice.send("hello")
    carol = echo_kit.Client(server, name="carol")
    carol.send("hello")
    return [alice, bob, carol]


@wrong("1.6", "the list of its clients", "it returned nothing", "return [alice, bob, carol]")
def returns_nothing(server):
    alice = echo_kit.Client(server, name="alice")
    bob = echo_kit.Client(server, name="bob")
    bob.send("hello")
    carol = echo_kit.Client(server, name="carol")
    carol.send("hello")
    print(alice)


@wrong("1.6", "each with 5 bytes unread", "bob (0 unread)", "each send 5 bytes")
def they_say_nothing(server):
    return [echo_kit.Client(server, name=name) for name in ("alice", "bob", "carol")]


@wrong("1.6", "bob and carol stand in the backlog", "connected: alice, bob", "three clients, each with its name")
def carol_stays_at_home(server):
    alice = echo_kit.Client(server, name="alice")
    bob = echo_kit.Client(server, name="bob")
    bob.send("hello")
    return [alice, bob]


@wrong("1.6", "all three clients", "it returned alice", "the last line")
def returns_one(server):
    alice, bob, carol = (echo_kit.Client(server, name=name) for name in ("alice", "bob", "carol"))
    bob.send("hello")
    carol.send("hello")
    kept.extend([bob, carol])
    return alice


kept = []  # what a cell's variables would hold


@wrong("1.6", "all three clients", "it returned alice, bob", "the last line")
def returns_two_and_keeps_carol(server):
    alice, bob, carol = (echo_kit.Client(server, name=name) for name in ("alice", "bob", "carol"))
    bob.send("hello")
    carol.send("hello")
    kept.append(carol)
    return [alice, bob]


@wrong("1.6", "all three clients", "it returned bob, alice", "the last line")
def returns_bob_twice(server):
    alice, bob, carol = (echo_kit.Client(server, name=name) for name in ("alice", "bob", "carol"))
    for client in (bob, carol):
        client.send("12345")
        kept.append(client)
    return bob, alice, bob


@wrong("1.6", "bob and carol stand in the backlog", "connected: alice, client ", "each with its name")
def gives_one_name(server):
    clients = [echo_kit.Client(server, name="alice"), echo_kit.Client(server), echo_kit.Client(server)]
    for client in clients[1:]:
        client.send("hello")
    return clients


@wrong("1.6", "bob and carol stand in the backlog", "carol (5 unread), bob (5 unread)", "bob, then carol")
def lets_carol_in_first(server):
    clients = [echo_kit.Client(server, name=name) for name in ("alice", "carol", "bob")]
    for client in clients[1:]:
        client.send("hello")
    return clients


@wrong("1.6", "bob and carol stand in the backlog", "carol (5 unread, has left)", "has not returned carol")
def forgets_carol(server):
    alice = echo_kit.Client(server, name="alice")
    bob = echo_kit.Client(server, name="bob")
    bob.send("hello")
    carol = echo_kit.Client(server, name="carol")
    carol.send("hello")
    return [alice, bob]


@wrong("1.6", "alice is served", "in the backlog: nobody", "has not returned alice and bob")
def uses_one_variable_for_all(server):
    for name in ("alice", "bob", "carol"):
        client = echo_kit.Client(server, name=name)
        client.send("hello")
    return [client]


@wrong("1.6", "your function returns", "it still stands at  places.acquire()", "and return")
@slow
def never_returns(server):
    kept.extend(echo_kit.Client(server, name=name) for name in ("alice", "bob", "carol"))
    places = threading.Semaphore(0)
    places.acquire()  # as time.sleep(60), but a test can end it


@wrong("1.6", "your function returns", "it still stands at", "and return")
@slow
def talks_for_ever(server):
    alice = echo_kit.Client(server, name="alice")
    with contextlib.suppress(echo_kit.ServerClosed, echo_kit.Reset):
        while True:
            alice.send("hello")
            alice.receive()


# -- 1.7 Patience ------------------------------------------------------------------------------------------------------


@wrong("1.7", "hangs up on alice", "nothing came to alice", "settimeout(0.5)")
@slow
def waits_for_ever(conn, addr):
    echo(conn)


@wrong("1.7", 'bob gets "hi"', "TimeoutError: timed out", "catch the TimeoutError in your function")
def catches_nothing(conn, addr):
    conn.settimeout(0.5)
    echo(conn)


@wrong("1.7", "", "", "one for each recv")  # of alice or of bob: which, says the clock
@slow
def one_limit_for_all(conn, addr):
    end = time.monotonic() + 0.5
    try:
        while True:
            conn.settimeout(max(0.01, end - time.monotonic()))
            data = conn.recv(1024)
            if not data:
                break
            conn.sendall(data)
    except TimeoutError:
        print("too late")


@wrong("1.7", "hangs up on alice", "nothing came to alice", "TimeoutError")
@slow
def goes_on_after_the_limit(conn, addr):
    conn.settimeout(0.5)
    while True:
        try:
            data = conn.recv(1024)
            if not data:
                break
            conn.sendall(data)
        except TimeoutError:
            print("too late")


@wrong("1.7", "hangs up on alice", "nothing came to alice", "settimeout(0.5)")
@slow
def limits_the_next_sockets(conn, addr):
    socket.setdefaulttimeout(0.5)
    try:
        echo(conn)
    except TimeoutError:
        print("too late")


@wrong("1.7", "hangs up on alice", "nothing came to alice", "settimeout(0.5)")
@slow
def sleeps_first(conn, addr):
    while data := conn.recv(1024):
        conn.sendall(data)
        time.sleep(0.5)


@wrong("1.7", "0.5 s for alice", "its time limit is 1 s", "settimeout(0.5)")
def is_too_patient(conn, addr):
    conn.settimeout(1)
    try:
        echo(conn)
    except TimeoutError:
        print("too late")


@wrong("1.7", 'bob gets "go on"', "the server hung up on bob", "begins anew each time bytes arrive")
@slow
def listens_once_and_sleeps(conn, addr):
    conn.settimeout(0.5)
    try:
        conn.sendall(conn.recv(1024))
        time.sleep(0.5)
    except TimeoutError:
        print("too slow")


@wrong("1.7", "hangs up on alice", "too slow", "send nothing more")
def says_why(conn, addr):
    conn.settimeout(0.5)
    try:
        echo(conn)
    except TimeoutError:
        conn.sendall(b"too slow")


@wrong("1.7", "the server waits 0.5 s for alice", "too early", "the time limit is 0.5 s")
def is_impatient(conn, addr):
    conn.settimeout(0.05)
    with contextlib.suppress(TimeoutError):
        echo(conn)


@wrong("1.7", "0.5 s for carol, and not longer than 0.7 s", "longer, 3 times out of 3", "not several limits in a row")
@slow
def waits_for_three_limits(conn, addr):
    conn.settimeout(0.5)
    misses = 0
    while misses < 3:
        try:
            data = conn.recv(1024)
            if not data:
                break
            conn.sendall(data)
            misses = 0
        except TimeoutError:
            misses += 1


@wrong("1.7", "0.5 s for carol, and not longer than 0.7 s", "longer, 3 times out of 3", "settimeout(0.5)")
@slow
def waits_in_select_for_longer(conn, addr):
    while select.select([conn], [], [], 0.75)[0] and (data := conn.recv(1024)):
        conn.sendall(data)


@wrong("1.7", "0.5 s for carol, and not longer than 0.7 s", "longer, 3 times out of 3", "settimeout(0.5)")
@slow
def waits_in_select_for_much_longer(conn, addr):
    while select.select([conn], [], [], 1.5)[0] and (data := conn.recv(1024)):
        conn.sendall(data)


@wrong("1.7", "0.5 s for alice", "its time limit is 0.75 s", "settimeout(0.5)")
def is_a_little_too_patient(conn, addr):
    conn.settimeout(0.75)
    with contextlib.suppress(TimeoutError):
        echo(conn)


@wrong("1.7", "the server waits 0.5 s for alice", "too early", "the time limit is 0.5 s")
def is_a_little_impatient(conn, addr):
    conn.settimeout(0.4)
    with contextlib.suppress(TimeoutError):
        echo(conn)


@wrong("1.7", "hangs up on dave", "nothing came to dave", "before the first recv")
@slow
def is_patient_with_newcomers(conn, addr):
    with contextlib.suppress(TimeoutError):
        while data := conn.recv(1024):
            conn.sendall(data)
            conn.settimeout(0.5)


@wrong("1.7", "(3,000 bytes)", "(300 bytes)", "sendall sends all of them")
@slow
def is_patient_and_sends_a_part(conn, addr):
    conn.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while data := conn.recv(1024):
            conn.send(data)


@wrong("1.7", r'bob gets " \tz\xff', r'bob got "z', "strip() takes white space away")
@slow
def is_patient_and_strips(conn, addr):
    conn.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while data := conn.recv(1024):
            conn.sendall(data.strip())


@wrong("1.7", "hangs up on erin", 'erin got "Goodbye"', "send nothing more")
@slow
def is_patient_and_says_goodbye(conn, addr):
    conn.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        echo(conn)
        conn.sendall(b"Goodbye")


# -- 1.8 Hard to break -------------------------------------------------------------------------------------------------


@wrong("1.8", 'alice gets "\\xc3"', "UnicodeDecodeError", "decode()")
def decodes_strictly(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                try:
                    while data := conn.recv(1024):
                        print(data.decode())
                        conn.sendall(data)
                except ConnectionError:
                    print("Lost", addr)


@wrong("1.8", 'alice gets "\\xc3"', "the server hung up on alice", "decode raises an error")
def drops_who_sends_no_text(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                try:
                    while data := conn.recv(1024):
                        print(data.decode())
                        conn.sendall(data)
                except (ConnectionError, UnicodeDecodeError):
                    print("Lost", addr)


@wrong("1.8", 'alice gets "\\xc3"', "nothing came to alice", "errors=")
def echoes_what_it_has_decoded(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                try:
                    while data := conn.recv(1024):
                        text = data.decode(errors="ignore")
                        conn.sendall(text.encode())
                except ConnectionError:
                    print("Lost", addr)


@wrong("1.8", "bob can connect", "nobody listens any more", "inside the loop around accept")
def catches_around_the_loop(host, port):
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                with conn:
                    while data := conn.recv(1024):
                        print(data.decode(errors="replace"))
                        conn.sendall(data)
        except ConnectionError:
            print("Lost somebody")


@wrong("1.8", "bob", "ConnectionResetError", "conn.recv(1024)")
def catches_nothing_at_all(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data)


@wrong("1.8", "carol can connect", "Error: ", "sendall can raise an error, too")
def catches_around_recv_only(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                while True:
                    try:
                        data = conn.recv(1024)
                    except ConnectionError:
                        break
                    if not data:
                        break
                    conn.sendall(data)


@wrong("1.8", "the connection of alice is closed", "1 is still open", "with conn")
def closes_only_in_good_order(host, port):
    lost = []
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            try:
                while data := conn.recv(1024):
                    conn.sendall(data)
                conn.close()
            except ConnectionError:
                lost.append(conn)


business = threading.Event()  # set while a test runs that needs a server which goes on


@wrong("1.8", "the server ends", "it goes on", "not except:, except BaseException:")
@slow
def catches_everything_for_ever(host, port):
    with socket.create_server((host, port)) as s:
        while business.is_set():  # for ever, until the test is over
            try:
                conn, addr = s.accept()
                with conn:
                    while data := conn.recv(1024):
                        conn.sendall(data)
            except:
                print("something went wrong")


@wrong("1.8", "the server ends", "it goes on", "except KeyboardInterrupt")
def ignores_ctrl_c_in_a_conversation(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                try:
                    echo(conn)
                except (ConnectionError, KeyboardInterrupt):
                    print("Lost", addr)


@wrong("1.8", "the server ends", "it goes on", "except KeyboardInterrupt")
@slow
def ignores_ctrl_c_at_the_door(host, port):
    with socket.create_server((host, port)) as s:
        while business.is_set():
            try:
                conn, addr = s.accept()
            except KeyboardInterrupt:
                continue
            with conn, contextlib.suppress(ConnectionError):
                echo(conn)


@wrong_host("1.8", "the host that it is given, here 127.0.0.2", "it listens on 127.0.0.1", "the line with bind")
def is_safe_on_localhost_only(host, port):
    with socket.create_server(("localhost", port)) as s:
        while True:
            handle_client(*s.accept())


@wrong("1.8", "the host that it is given", "it listens on 0.0.0.0", "the line with bind")
def is_safe_on_all_addresses(host, port):
    with socket.create_server(("", port)) as s:
        while True:
            handle_client(*s.accept())


@wrong("1.8", "the connection stays open", "the server hung up on carol", "however long")
@slow
def is_safe_for_who_talks(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            conn.settimeout(5)
            with conn, contextlib.suppress(OSError):
                echo(conn)


@wrong("1.8", "the connection stays open", "the server hung up on carol", "however long")
@slow
def is_safe_for_who_talks_every_three_seconds(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn, contextlib.suppress(ConnectionError, TimeoutError):
                while True:
                    conn.settimeout(3)
                    data = conn.recv(1024)
                    conn.settimeout(None)
                    if not data:
                        break
                    conn.sendall(data)


@wrong("1.8", "dave waits until carol has left", 'dave got "hi"', "one client at a time")
def is_safe_with_a_thread_each(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            threading.Thread(target=handle_client, args=(conn, addr)).start()


@wrong("1.8", "dave waits until carol has left", 'dave got "hi"', "one client at a time")
def is_safe_with_a_pool(host, port):
    with socket.create_server((host, port)) as s, ThreadPoolExecutor(2) as pool:
        while True:
            pool.submit(handle_client, *s.accept())


@wrong("1.8", "the connection of alice is closed", "1 is still open", "with conn")
def closes_on_the_good_path(host, port):
    s = socket.create_server((host, port))
    while True:
        conn, addr = s.accept()
        try:
            while data := conn.recv(1024):
                conn.sendall(data)
        except ConnectionError:
            continue
        conn.close()


@wrong("1.8", "the connection of bob is closed", "1 is still open", "with conn")
def closes_when_recv_has_failed(host, port):
    s = socket.create_server((host, port))
    while True:
        conn, addr = s.accept()
        while True:
            try:
                data = conn.recv(1024)
            except ConnectionError:
                data = b""
            if not data:
                conn.close()
                break
            try:
                conn.sendall(data)
            except ConnectionError:
                break


@wrong("1.8", "(3,000 bytes)", "(300 bytes)", "sendall sends all of them")
def is_safe_and_sends_a_part(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn, contextlib.suppress(ConnectionError):
                while data := conn.recv(1024):
                    conn.send(data)


@wrong("1.8", r'alice gets " \tz\xff', r'alice got "z', "strip() takes white space away")
def is_safe_and_strips(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn, contextlib.suppress(ConnectionError):
                while data := conn.recv(1024):
                    conn.sendall(data.strip() or data)


@wrong("1.8", "zoe can connect", "nobody listens any more", "a loop around accept")
def is_safe_for_ten(host, port):
    with socket.create_server((host, port)) as s:
        for _ in range(10):
            conn, addr = s.accept()
            with conn, contextlib.suppress(ConnectionError):
                echo(conn)


# -- 1.9 Write the client ----------------------------------------------------------------------------------------------


def connected():
    s = socket.socket()
    s.connect((sys.argv[1], int(sys.argv[2])))
    return s


def whole(s, count):
    data = b""
    while len(data) < count:
        piece = s.recv(1024)
        if not piece:
            sys.exit("The server has left")
        data += piece
    return data


@wrong("1.9", "it connects to HOST PORT", "ConnectionRefusedError", "sys.argv[1], int(sys.argv[2])")
def connects_to_its_own_port():
    with socket.socket() as s:
        s.connect(("127.0.0.1", 1))


@wrong_host("1.9", "it connects to HOST PORT", "ConnectionRefusedError", "sys.argv[1], int(sys.argv[2])")
def connects_to_this_machine():
    with (
        socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as s,
        contextlib.suppress(EOFError, KeyboardInterrupt),
    ):
        while True:
            line = input("> ").encode()
            if line:
                s.sendall(line)
                print("Received  : ", whole(s, len(line)).decode())


@wrong_host("1.9", "it connects to HOST PORT", "ConnectionRefusedError", "sys.argv[1], int(sys.argv[2])")
def connects_to_localhost():
    with socket.socket() as s, contextlib.suppress(EOFError, KeyboardInterrupt):
        s.connect(("localhost", int(sys.argv[-1])))
        while True:
            line = input("> ").encode()
            if line:
                s.sendall(line)
                print("Received  : ", whole(s, len(line)).decode())


@wrong("1.9", "it connects to HOST PORT", "TypeError", "s.connect((sys.argv[1], sys.argv[2]))")
def takes_text_for_the_port():
    with socket.socket() as s:
        s.connect((sys.argv[1], sys.argv[2]))


@wrong("1.9", "it connects to HOST PORT", "it waits in input", "input('> ')")
def asks_without_a_prompt():
    with connected() as s:
        while line := input():
            s.sendall(line.encode())
            print("Received  : ", s.recv(1024).decode())


@wrong("1.9", "it connects to HOST PORT", "(it waits in input", "connect to the HOST and PORT")
def connects_for_each_line():
    while line := input("> "):
        with connected() as s:
            s.sendall(line.encode())
            print("Received  : ", s.recv(1024).decode())


@wrong("1.9", "the terminal shows  Received  :  hello", "b'hello'", "decode() makes text of bytes")
def prints_bytes():
    with connected() as s:
        while True:
            line = input("> ").encode()
            s.sendall(line)
            print("Received  : ", whole(s, len(line)))


@wrong("1.9", "it asks for the next line", "(it has ended)", "print")
def asks_once():
    with connected() as s:
        s.sendall(input("> ").encode())
        print("Received  : ", s.recv(1024).decode())


@wrong("1.9", "it asks for the next line", "(it waits in recv", "an empty line sends nothing")
def waits_for_the_echo_of_nothing():
    with connected() as s:
        while True:
            s.sendall(input("> ").encode())
            print("Received  : ", s.recv(1024).decode())


@wrong("1.9", "it asks for the next line", "(it has ended)", "an empty line sends nothing")
def ends_at_an_empty_line():
    with connected() as s:
        while line := input("> "):
            s.sendall(line.encode())
            print("Received  : ", s.recv(1024).decode())


@wrong("1.9", "the terminal shows  Received  :  ", "(it waits in input", "count its bytes")
@slow
def reads_once():
    with connected() as s:
        while True:
            line = input("> ")
            if line:
                s.sendall(line.encode())
                print("Received  : ", s.recv(1024).decode())


@wrong("1.9", "the terminal shows  Received  :  ", "(it waits in recv", "sendall, not send")
@slow
def sends_a_part():
    with connected() as s:
        while True:
            line = input("> ").encode()
            if line:
                s.send(line)
                print("Received  : ", whole(s, len(line)).decode())


@wrong("1.9", "the terminal shows  Received  :  café", "UnicodeDecodeError", "count bytes, not letters")
@slow
def counts_letters_of_the_line():
    with connected() as s:
        while True:
            line = input("> ")
            if line:
                s.sendall(line.encode())
                print("Received  : ", whole(s, len(line)).decode())


@wrong("1.9", "the terminal shows  Received  :  café", "UnicodeDecodeError", "put the pieces together")
@slow
def decodes_each_piece():
    with connected() as s:
        while True:
            line, text = input("> "), ""
            if line:
                s.sendall(line.encode())
                while len(text) < len(line):
                    text += s.recv(1024).decode()
                print("Received  : ", text)


@wrong("1.9", "it ends", "(it waits in input", "recv returns no bytes when the server has left")
@slow
def asks_again_when_the_server_has_left():
    with connected() as s:
        while True:
            line, data = input("> ").encode(), b""
            s.sendall(line)
            while len(data) < len(line):
                piece = s.recv(1024)
                if not piece:
                    break
                data += piece
            if len(data) < len(line) or not line:
                continue
            print("Received  : ", data.decode())


@wrong("1.9", "it ends", "> bye", "recv returns no bytes when the server has left")
@slow
def reads_for_ever_when_the_server_has_left():
    with connected() as s:
        while True:
            line, data = input("> ").encode(), b""
            s.sendall(line)
            while len(data) < len(line):
                data += s.recv(1024)
            if line:
                print("Received  : ", data.decode())


@wrong("1.9", "it ends without an error", "KeyboardInterrupt", "except KeyboardInterrupt:")
@slow
def does_not_catch_ctrl_c():
    with connected() as s:
        while True:
            line = input("> ").encode()
            if line:
                s.sendall(line)
                print("Received  : ", whole(s, len(line)).decode())


@wrong("1.9", "it ends", "(it waits in input", "catch it outside the loop")
@slow
def asks_again_after_ctrl_c():
    with connected() as s:
        while True:
            try:
                line = input("> ").encode()
                if line:
                    s.sendall(line)
                    print("Received  : ", whole(s, len(line)).decode())
            except KeyboardInterrupt:
                print("Once more")


@wrong("1.9", "it ends without an error", "EOFError", "input raises EOFError")
@slow
def does_not_catch_the_end_of_the_input():
    with connected() as s:
        try:
            while True:
                line = input("> ").encode()
                if line:
                    s.sendall(line)
                    print("Received  : ", whole(s, len(line)).decode())
        except KeyboardInterrupt:
            print("Goodbye")


@wrong("1.9", "it closes its socket", "(it has ended)", "with socket.socket")
@slow
def leaves_its_socket_open():
    s = connected()
    try:
        while True:
            line = input("> ").encode()
            if line:
                s.sendall(line)
                print("Received  : ", whole(s, len(line)).decode())
    except (KeyboardInterrupt, EOFError):
        print("Goodbye")


@wrong("1.9", "the terminal shows", "Received  : a zoo", "no strip")
def strips_the_line():
    with connected() as s:
        while True:
            line = input("> ").strip().encode()
            if line:
                s.sendall(line)
                print("Received  :", whole(s, len(line)).decode())


@wrong("1.9", "it sends what was typed, 5 bytes", "it has sent 6 bytes", r"no \n behind it")
def sends_the_end_of_the_line_too():
    with connected() as s:
        while True:
            line = input("> ").encode() + b"\n"
            s.sendall(line)
            print("Received  :", whole(s, len(line)).decode().rstrip())


@wrong("1.9", "the terminal shows", "> ", "no strip")
def asks_a_line_once():
    last = b""
    with connected() as s:
        while True:
            line = input("> ").encode()
            if line and line != last:
                s.sendall(line)
                print("Received  :", whole(s, len(line)).decode())
            last = line


@wrong("1.9", "the terminal shows", "> ", "no strip")
def takes_three_spaces_for_nothing():
    with connected() as s:
        while True:
            line = input("> ").encode()
            if line.strip():
                s.sendall(line)
                print("Received  :", whole(s, len(line)).decode())


# -- 2.1 A thread each -------------------------------------------------------------------------------------------------


@wrong("2.1", 'bob gets "hi"', "nothing came to bob", "join() waits for its end")
@slow
def joins_at_once(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            thread = threading.Thread(target=handle_client, args=(conn, addr))
            thread.start()
            thread.join()


@wrong("2.1", 'bob gets "hi"', "nothing came to bob", "run() and handle_client(…) do the work in the same thread")
def runs_instead_of_starting(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            threading.Thread(target=handle_client, args=(conn, addr)).run()


@wrong("2.1", 'bob gets "hi"', "nothing came to bob", "run() and handle_client(…) do the work in the same thread")
def calls_the_target(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            threading.Thread(target=handle_client(conn, addr)).start()


@wrong("2.1", 'alice gets "hello"', "TypeError", "args=(conn, addr)")
def forgets_the_arguments(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            threading.Thread(target=handle_client).start()


@wrong("2.1", 'alice gets "hello"', "nothing came to alice", "start()")
def forgets_to_start(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            thread = threading.Thread(target=handle_client, args=(conn, addr))


@wrong("2.1", "dave gets", "nothing came to dave", "each thread must keep its own conn")
def shares_one_conn(host, port):
    shared = {}

    def handle():
        while data := shared["conn"].recv(1024):
            shared["conn"].sendall(data)

    with socket.create_server((host, port)) as s:
        clients = []
        while True:
            shared["conn"], addr = s.accept()
            clients.append(shared["conn"])
            threading.Thread(target=handle).start()


@wrong("2.1", 'alice gets "hello"', "the server hung up on alice", "it is the thread that closes conn")
def closes_what_the_thread_needs(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with conn:
                threading.Thread(target=handle_client, args=(conn, addr)).start()


@wrong("2.1", "erin gets", "server thread waits in recv for carol", "recv is called in its thread")
def hears_the_first_message_in_the_loop(host, port):
    def go_on(conn, data):
        with conn:
            while data:
                conn.sendall(data)
                data = conn.recv(1024)

    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            data = conn.recv(1024)
            threading.Thread(target=go_on, args=(conn, data)).start()


@wrong("2.1", "erin gets", "server thread waits in recv for carol", "recv is called in its thread")
def peeks_before_it_starts_a_thread(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            if not conn.recv(1, socket.MSG_PEEK):
                conn.close()
                continue
            threading.Thread(target=handle_client, args=(conn, addr)).start()


@wrong("2.1", "dave gets", "dave", "each thread must keep its own conn")
def looks_for_conn_in_a_lambda(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            threading.Thread(target=lambda: handle_client(conn, addr)).start()


@wrong("2.1", "dave gets", "dave", "each thread must keep its own conn")
def looks_for_conn_in_an_inner_function(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()

            def serve_one():
                handle_client(conn, addr)

            threading.Thread(target=serve_one).start()


@wrong("2.1", 'guest 39 gets "hi"', "nothing came to guest 39", "no pool, no limit")
@slow
def has_a_pool_of_five(host, port):
    with ThreadPoolExecutor(5) as pool, socket.create_server((host, port)) as s:
        while True:
            pool.submit(handle_client, *s.accept())


@wrong("2.1", 'guest 39 gets "hi"', "nothing came to guest 39", "no pool, no limit")
@slow
def has_a_pool_of_32(host, port):
    with ThreadPoolExecutor(32) as pool, socket.create_server((host, port)) as s:
        while True:
            pool.submit(handle_client, *s.accept())


@wrong("2.1", "zoe is served by a new thread", "has served other clients before", "one new thread for each client")
@slow
def has_a_large_pool(host, port):
    with ThreadPoolExecutor(90) as pool, socket.create_server((host, port)) as s:
        while True:
            pool.submit(handle_client, *s.accept())


@wrong("2.1", "alice has a thread of its own", "alice was served by server thread, thread", "for all of its messages")
@slow
def starts_a_thread_for_each_message(host, port):
    with socket.create_server((host, port)) as s:
        clients = [s]
        while True:
            for sock in select.select(clients, [], [])[0]:
                if sock is s:
                    clients.append(s.accept()[0])
                    continue
                data = b""
                with contextlib.suppress(ConnectionError):
                    data = sock.recv(1024)
                if data:
                    thread = threading.Thread(target=sock.sendall, args=(data,))
                    thread.start()
                    thread.join()
                else:
                    clients.remove(sock)
                    sock.close()


@wrong("2.1", "alice has a thread of its own", "alice was served by thread 1, thread", "for all of its messages")
def starts_a_thread_to_answer(host, port):
    def handle(conn, addr):
        with conn:
            with contextlib.suppress(ConnectionError):
                while data := conn.recv(1024):
                    answer = threading.Thread(target=conn.sendall, args=(data,))
                    answer.start()
                    answer.join()

    with socket.create_server((host, port)) as s:
        while True:
            threading.Thread(target=handle, args=s.accept()).start()


@wrong("2.1", "guest 0 is accepted", "others are there", "no pool, no limit")
@slow
def has_five_threads_at_most(host, port):
    threads = []
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            threads.append(threading.Thread(target=handle_client, args=(conn, addr)))
            threads[-1].start()
            if len(threads) == 5:
                threads.pop(0).join()


@wrong("2.1", "carol gets", "(100 bytes)", "sendall sends all")
def handles_with_send(host, port):
    def handle(conn, addr):
        with conn, contextlib.suppress(ConnectionError):
            while data := conn.recv(4096):
                conn.send(data)

    with socket.create_server((host, port)) as s:
        while True:
            threading.Thread(target=handle, args=s.accept()).start()


@wrong("2.1", "threads of your server serve", "it has started another process", "no processes")
def starts_a_process(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            multiprocessing.get_context("fork").Process(target=handle_client, args=(conn, addr), daemon=True).start()
            conn.close()


@wrong("2.1", "none of their connections is open", "one still is", "its thread closes conn")
@slow
def never_closes_a_connection(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        while True:
            clients.append(s.accept())

            def handle(conn, addr):
                with contextlib.suppress(ConnectionError):
                    while data := conn.recv(1024):
                        conn.sendall(data)

            threading.Thread(target=handle, args=clients[-1]).start()


# -- 2.2 Who serves me? ------------------------------------------------------------------------------------------------


@wrong("2.2", "alice is told", 'alice was told "MainThread"', "threading.current_thread().name")
def says_the_main_thread(conn, addr):
    for _ in lines_of(conn):
        conn.sendall(f"{threading.main_thread().name}\n".encode())


@wrong("2.2", "alice is told", "alice was told", "threading.current_thread().name")
def says_the_first_of_all(conn, addr):
    for _ in lines_of(conn):
        conn.sendall(f"{threading.enumerate()[0].name}\n".encode())


@wrong("2.2", "alice is told", 'alice was told "<Thread(', "threading.current_thread().name")
def says_the_whole_thread(conn, addr):
    for _ in lines_of(conn):
        conn.sendall(f"{threading.current_thread()}\n".encode().replace(b" daemon", b""))


@wrong("2.2", "alice gets a line", "alice got", "with \\n at its end")
def says_it_without_an_end(conn, addr):
    for _ in lines_of(conn):
        conn.sendall(threading.current_thread().name.encode())


@wrong("2.2", "alice is told", 'alice was told "Thread-1"', "threading.current_thread().name")
def numbers_them_itself(conn, addr):
    for _ in lines_of(conn):
        conn.sendall(b"Thread-1\n")


def name_of_the_cell(name=threading.current_thread().name):
    return name


@wrong("2.2", "alice is told", 'alice was told "MainThread"', "ask inside your function")
def asks_outside(conn, addr):
    for _ in lines_of(conn):
        conn.sendall(f"{name_of_the_cell()}\n".encode())


@wrong("2.2", "alice gets", "alice got", "one in two pieces")
def answers_each_recv(conn, addr):
    while conn.recv(1024):
        conn.sendall(f"{threading.current_thread().name}\n".encode())


@wrong("2.2", "alice gets", "UnicodeDecodeError", "no decode()")
def makes_text_of_each_line(conn, addr):
    for line in lines_of(conn):
        line = line.decode()
        conn.sendall(f"{threading.current_thread().name}\n".encode())


@wrong("2.2", "alice gets", "nothing came to alice", "an empty line is a line, too")
def answers_no_empty_line(conn, addr):
    for line in lines_of(conn):
        if line.strip():
            conn.sendall(f"{threading.current_thread().name}\n".encode())


@wrong("2.2", "bob gets no answer", "bob got", "no line, also when the client leaves")
def names_it_for_half_a_line(conn, addr):
    with conn.makefile("rb") as file:
        for _ in file:
            conn.sendall(f"{threading.current_thread().name}\n".encode())


@wrong("2.2", "alice gets", "alice got", "only \\n ends a line")
def splits_at_each_end_of_a_line(conn, addr):
    rest = b""
    while data := conn.recv(1024):
        *lines, rest = (rest + data + b"|").splitlines()
        rest = rest[:-1]
        for _ in lines:
            conn.sendall(f"{threading.current_thread().name}\n".encode())


# -- 2.3 Counting together ---------------------------------------------------------------------------------------------

total = 0
lock = threading.Lock()


@wrong("2.3", "all of the 100 numbers are different", "counted as one", "with lock:")
def counts_without_a_lock(conn, addr):
    global total
    for _ in lines_of(conn):
        total = total + 1
        number = total
        conn.sendall(f"{number}\n".encode())


@wrong("2.3", "all of the 100 numbers are different", "counted as one", "one lock for all threads")
def locks_a_lock_of_its_own(conn, addr):
    global total
    lock = threading.Lock()
    for _ in lines_of(conn):
        with lock:
            total = total + 1
            number = total
        conn.sendall(f"{number}\n".encode())


@wrong("2.3", "all of the 100 numbers are different", "counted as one", "reads and writes the number")
def locks_the_write_only(conn, addr):
    global total
    for _ in lines_of(conn):
        number = total + 1
        with lock:
            total = number
        conn.sendall(f"{number}\n".encode())


@wrong("2.3", "all of the 100 numbers are different", "counted as one", "reads and writes the number")
def reads_after_the_lock(conn, addr):
    global total
    for _ in lines_of(conn):
        with lock:
            total = total + 1
        conn.sendall(f"{total}\n".encode())


@wrong("2.3", "bob is told 4", "bob was told 1", "one number for all clients")
def counts_for_each(conn, addr):
    count = 0
    for _ in lines_of(conn):
        with lock:
            count += 1
        conn.sendall(f"{count}\n".encode())


lock_of_alice = threading.Lock()


@wrong("2.3", "bob gets a line", "nothing came to bob", "with lock: in the loop")
@slow
def locks_the_whole_conversation(conn, addr):
    global total
    with lock_of_alice:
        for _ in lines_of(conn):
            total += 1
            conn.sendall(f"{total}\n".encode())


@wrong("2.3", "alice gets", "UnboundLocalError", "count")
def forgets_global(conn, addr):
    for _ in lines_of(conn):
        with lock:
            count = count + 1  # noqa: F821
        conn.sendall(f"{count}\n".encode())


@wrong("2.3", "bob gets", "bob got", "two may come at once")
def counts_each_recv(conn, addr):
    global total
    while conn.recv(1024):
        with lock:
            total = total + 1
            number = total
        conn.sendall(f"{number}\n".encode())


held = threading.Lock()
counted = 0


@wrong("2.3", "alice gets a line", "nothing came to alice", "is given back")
@slow
def forgets_to_give_the_lock_back(conn, addr):
    global counted
    for _ in lines_of(conn):
        held.acquire()
        counted += 1
        conn.sendall(f"{counted}\n".encode())


@wrong("2.3", "each line counts one more", "came", "count lines, not bytes")
def counts_the_bytes(conn, addr):
    global total
    for line in lines_of(conn):
        with lock:
            total += len(line)
            number = total
        conn.sendall(f"{number}\n".encode())


@wrong("2.3", "alice is told", "alice was told", "count whole lines only, not the end")
def counts_the_hang_up(conn, addr):
    global total
    rest = b""
    while True:
        data = conn.recv(1024)
        rest += data
        *lines, rest = rest.split(b"\n")
        for _ in lines if data else [rest]:
            with lock:
                total += 1
                number = total
            if data:
                conn.sendall(f"{number}\n".encode())
        if not data:
            return


@wrong("2.3", "alice is told", "alice was told", "count whole lines only, not the end")
def counts_half_a_line_at_the_end(conn, addr):
    global total
    for line in conn.makefile("rb"):
        with lock:
            total += 1
            number = total
        if line.endswith(b"\n"):
            conn.sendall(f"{number}\n".encode())


@wrong("2.3", "gus gets", "UnicodeDecodeError", "no decode()")
def counts_texts(conn, addr):
    global total
    for line in lines_of(conn):
        print(line.decode())
        with lock:
            total += 1
            number = total
        conn.sendall(f"{number}\n".encode())


lock_of_first = threading.Lock()


@wrong("2.3", "bob gets a line", "nothing came to bob", "not to wait for a line")
@slow
def waits_for_the_first_line_with_the_lock(conn, addr):
    global total
    lines = lines_of(conn)
    while True:
        with lock_of_first:
            if next(lines, None) is None:
                return
            total += 1
            number = total
        conn.sendall(f"{number}\n".encode())


@wrong("2.3", "all of the 100 numbers are different", "counted as one", "reads and writes the number")
def counts_also_when_the_lock_is_taken(conn, addr):
    global total
    for _ in lines_of(conn):
        mine = lock.acquire(blocking=False)
        total = total + 1
        number = total
        if mine:
            lock.release()
        conn.sendall(f"{number}\n".encode())


# -- 2.4 Who is there? -------------------------------------------------------------------------------------------------

names = []
names_lock = threading.Lock()


def first_of(lines):
    """The name, as text; nothing of a client that leaves before it has given it."""
    with contextlib.suppress(ConnectionError):
        return next(lines, b"").decode()
    return ""


@wrong("2.4", 'alice gets "alice\\n"', 'alice got "alice, carol\\n"', "however it leaves")
def forgets_on_a_clean_leave(conn, addr):
    lines = lines_of(conn)
    if name := first_of(lines):
        with names_lock:
            names.append(name)
        conn.sendall(f"hello {name}\n".encode())
        for line in lines:
            if line == b"/who":
                with names_lock:
                    line = ", ".join(sorted(names)).encode()
            conn.sendall(line + b"\n")
        with names_lock:
            names.remove(name)


there = set()


@wrong("2.4", "alice gets no answer until the lock is free", 'alice got "al, alice, bob', "with lock:")
def goes_through_them_unlocked(conn, addr):
    lines = lines_of(conn)
    name = first_of(lines)
    if not name:
        return
    with names_lock:
        there.add(name)
    try:
        conn.sendall(f"hello {name}\n".encode())
        for line in lines:
            if line == b"/who":
                answer = []
                for each in there:
                    answer.append(each)
                line = ", ".join(sorted(answer)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        with names_lock:
            there.discard(name)


@wrong("2.4", 'alice gets "alice, bob, carol\\n"', 'alice got "alice\\n"', "made outside the function")
def knows_itself_only(conn, addr):
    names = {"alice"}
    lines = lines_of(conn)
    if name := first_of(lines):
        names.add(name)
        conn.sendall(f"hello {name}\n".encode())
        for line in lines:
            line = ", ".join(sorted(names)).encode() if line == b"/who" else line
            conn.sendall(line + b"\n")


in_order = []


@wrong("2.4", 'alice gets "alice, bob, carol\\n"', 'alice got "alice, carol, bob\\n"', "by name, not by time")
def tells_them_in_order(conn, addr):
    lines = lines_of(conn)
    name = first_of(lines)
    if not name:
        return
    in_order.append(name)
    try:
        conn.sendall(f"hello {name}\n".encode())
        for line in lines:
            line = ", ".join(in_order).encode() if line == b"/who" else line
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        in_order.remove(name)


@wrong("2.4", 'dave gets "hello dave\\n', "nothing came to dave", "with lock: is not around recv")
@slow
def keeps_the_lock(conn, addr):
    lines = lines_of(conn)
    name = first_of(lines)
    with names_lock:
        there.add(name)
        conn.sendall(f"hello {name}\n".encode())
        for line in lines:
            line = ", ".join(sorted(there)).encode() if line == b"/who" else line
            conn.sendall(line + b"\n")
        there.discard(name)


@wrong("2.4", 'alice gets "hello alice\\n"', 'alice got "alice', "the first line is the name")
def echoes_the_name(conn, addr):
    for line in lines_of(conn):
        conn.sendall((b"alice" if line == b"/who" else line) + b"\n")


asked = threading.Lock()
present = set()


def list_present():
    with asked:
        return ", ".join(sorted(present))


@wrong("2.4", 'alice gets "alice', "nothing came to alice", "must not ask for it again")
@slow
def asks_for_the_lock_again(conn, addr):
    lines = lines_of(conn)
    name = first_of(lines)
    with asked:
        present.add(name)
    conn.sendall(f"hello {name}\n".encode())
    for line in lines:
        if line == b"/who":
            with asked:
                line = list_present().encode()
        conn.sendall(line + b"\n")


known = set()
ever = set()


@wrong("2.4", 'dave gets "hello dave\\nalice, dave\\n"', 'dave got "hello dave/who\\n', "two may come at once")
def takes_what_came_first_for_the_name(conn, addr):
    name = conn.recv(1024).decode().replace("\n", "")
    with names_lock:
        known.add(name)
    try:
        conn.sendall(f"hello {name}\n".encode())
        for line in lines_of(conn):
            if line == b"/who":
                with names_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        with names_lock:
            known.discard(name)


@wrong("2.4", "alice gets nothing more", 'alice got "/w', "one in two pieces")
def takes_each_recv_for_a_line(conn, addr):
    name = conn.recv(1024).decode().strip()
    conn.sendall(f"hello {name}\n".encode())
    while data := conn.recv(1024):
        conn.sendall(f"{name}\n".encode() if data == b"/who\n" else data)


@wrong("2.4", "no thread ends with an error", "ConnectionResetError", "before its first line")
def waits_for_the_name_outside_try(conn, addr):
    lines = lines_of(conn)
    name = next(lines, b"").decode()
    with names_lock:
        known.add(name)
    try:
        conn.sendall(f"hello {name}\n".encode())
        for line in lines:
            if line == b"/who":
                with names_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        with names_lock:
            known.discard(name)


@wrong("2.4", "your code has a lock", "no lock was found", "a lock, made outside")
def has_no_lock_at_all(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                known.add(name)
                line = f"hello {name}".encode()
            elif line == b"/who":
                line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            known.discard(name)


@wrong("2.4", "your code has a lock", "no lock was found", "a lock, made outside")
def has_a_lock_for_each_client(conn, addr):
    names_lock = threading.Lock()
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with names_lock:
                    known.add(name)
                line = f"hello {name}".encode()
            elif line == b"/who":
                with names_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with names_lock:
                known.discard(name)


@wrong("2.4", "carl's thread waits for the lock", "it waits for a line", "with the same lock")
@slow
def adds_without_the_lock(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                known.add(name)
                line = f"hello {name}".encode()
            elif line == b"/who":
                with names_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with names_lock:
                known.discard(name)


@wrong("2.4", "al's thread waits for the lock", "it has ended", "with the same lock")
@slow
def removes_without_the_lock(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with names_lock:
                    known.add(name)
                line = f"hello {name}".encode()
            elif line == b"/who":
                with names_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            known.discard(name)


add_lock, list_lock, remove_lock = threading.Lock(), threading.Lock(), threading.Lock()


@wrong("2.4", "carl's thread waits for the lock", "it waits for a line", "with the same lock")
def has_three_locks(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with add_lock:
                    known.add(name)
                line = f"hello {name}".encode()
            elif line == b"/who":
                with list_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with remove_lock:
                known.discard(name)


@wrong("2.4", "al's thread waits for the lock", "it has ended", "with the same lock")
def removes_with_another_lock(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with add_lock:
                    known.add(name)
                line = f"hello {name}".encode()
            elif line == b"/who":
                with add_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with remove_lock:
                known.discard(name)


read_lock, write_lock = threading.RLock(), threading.RLock()


@wrong("2.4", "carl's thread waits for the lock", "it waits for a line", "with the same lock")
def reads_with_one_lock_and_writes_with_another(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with write_lock:
                    known.add(name)
                line = f"hello {name}".encode()
            elif line == b"/who":
                with read_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with write_lock:
                known.discard(name)


@wrong("2.4", "alice gets no answer until the lock is free", "alice got", "with the same lock")
def lists_without_the_lock(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with names_lock:
                    known.add(name)
                line = f"hello {name}".encode()
            elif line == b"/who":
                line = ", ".join(sorted(known.copy())).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with names_lock:
                known.discard(name)


in_a_list = []


@wrong("2.4", "", "", "to read, change and write back is one step")
@slow
def changes_a_copy(conn, addr):
    global in_a_list
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with names_lock:
                    copy = list(in_a_list)
                copy = [*copy, name]
                with names_lock:
                    in_a_list = copy
                line = f"hello {name}".encode()
            elif line == b"/who":
                with names_lock:
                    line = ", ".join(sorted(in_a_list)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with names_lock:
                copy = list(in_a_list)
            copy = [each for each in copy if each != name]
            with names_lock:
                in_a_list = copy


in_a_text = ""


@wrong("2.4", 'alice gets "/whoever', 'alice got "alice', "no more or less than it")
def takes_what_begins_so_for_the_question(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with names_lock:
                    known.add(name)
                line = f"hello {name}".encode()
            elif line.startswith(b"/who"):
                with names_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with names_lock:
                known.discard(name)


@wrong("2.4", 'alice gets "/whoever', 'alice got "alice', "no more or less than it")
def takes_what_has_it_for_the_question(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with names_lock:
                    known.add(name)
                line = f"hello {name}".encode()
            elif b"/who" in line:
                with names_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with names_lock:
                known.discard(name)


@wrong("2.4", 'alice gets " /who ', 'alice got "alice', "no more or less than it")
def strips_the_question(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with names_lock:
                    known.add(name)
                line = f"hello {name}".encode()
            elif line.strip() == b"/who":
                with names_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with names_lock:
                known.discard(name)


@wrong("2.4", "alice gets", "UnicodeDecodeError", "no decode()")
def decodes_each_line(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with names_lock:
                    known.add(name)
                line = f"hello {name}".encode()
            elif line.decode() == "/who":
                with names_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with names_lock:
                known.discard(name)


@wrong("2.4", "alice gets", "alice got", "no strip()")
def strips_each_line(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            line = line.strip()
            if name is None:
                name = line.decode()
                with names_lock:
                    known.add(name)
                line = f"hello {name}".encode()
            elif line == b"/who":
                with names_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with names_lock:
                known.discard(name)


@wrong("2.4", 'alice gets "al, alice, bob', 'alice got "al, alice', "those who are there")
def knows_no_one_twice(conn, addr):
    name = None
    try:
        for line in lines_of(conn):
            if name is None:
                name = line.decode()
                with names_lock:
                    if name not in ever:
                        ever.add(name)
                        known.add(name)
                line = f"hello {name}".encode()
            elif line == b"/who":
                with names_lock:
                    line = ", ".join(sorted(known)).encode()
            conn.sendall(line + b"\n")
    except ConnectionError:
        print("Lost", name)
    finally:
        if name is not None:
            with names_lock:
                known.discard(name)


# -- 2.5 At most three -------------------------------------------------------------------------------------------------


@wrong("2.5", "dave waits in the backlog", "dave was accepted", "acquire before accept")
@slow
def acquires_after_accept(host, port):
    places = threading.Semaphore(3)

    def handle(conn, addr):
        handle_client(conn, addr)
        places.release()

    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            places.acquire()
            threading.Thread(target=handle, args=(conn, addr)).start()


@wrong("2.5", "dave waits in the backlog", "dave was accepted", "acquire before accept")
@slow
def acquires_in_the_thread(host, port):
    places = threading.Semaphore(3)

    def handle(conn, addr):
        with places:
            handle_client(conn, addr)

    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr)).start()


@wrong("2.5", 'erin gets "hi"', "ConnectionResetError", "")
@slow
def releases_only_in_good_order(host, port):
    places = threading.Semaphore(3)

    def handle(conn, addr):
        with conn:
            while data := conn.recv(1024):
                conn.sendall(data)
        places.release()

    with socket.create_server((host, port)) as s:
        while True:
            places.acquire()
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr)).start()


@wrong("2.5", "dave waits in the backlog", "dave was accepted", "Semaphore(3)")
@slow
def has_four_places(host, port):
    places = threading.BoundedSemaphore(4)

    def handle(conn, addr):
        handle_client(conn, addr)
        places.release()

    with socket.create_server((host, port)) as s:
        while True:
            places.acquire()
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr)).start()


@wrong("2.5", 'dave gets "hi"', "nothing came to dave", "when a client leaves")
@slow
def joins_the_oldest(host, port):
    threads = []
    with socket.create_server((host, port)) as s:
        while True:
            if len(threads) == 3:
                threads.pop(0).join()
            conn, addr = s.accept()
            thread = threading.Thread(target=handle_client, args=(conn, addr))
            thread.start()
            threads.append(thread)


@wrong("2.5", 'dave gets "hi"', "nothing came to dave", "when a client leaves")
@slow
def never_releases(host, port):
    places = threading.Semaphore(3)
    with socket.create_server((host, port)) as s:
        while True:
            places.acquire()
            conn, addr = s.accept()
            threading.Thread(target=handle_client, args=(conn, addr)).start()


@wrong("2.5", "dave waits in the backlog", "dave was accepted", "release in its thread")
def releases_in_the_loop(host, port):
    places = threading.Semaphore(3)
    with socket.create_server((host, port)) as s:
        while True:
            with places:
                conn, addr = s.accept()
                threading.Thread(target=handle_client, args=(conn, addr)).start()


@wrong("2.5", "erin waits in the backlog", "erin was accepted", "one release for each acquire")
@slow
def releases_twice(host, port):
    places = threading.Semaphore(3)

    def handle(conn, addr):
        try:
            handle_client(conn, addr)
            places.release()
        finally:
            places.release()

    with socket.create_server((host, port)) as s:
        while True:
            places.acquire()
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr)).start()


@wrong("2.5", "dave waits in the backlog", "dave was accepted", "acquire before accept")
@slow
def waits_one_second_for_a_place(host, port):
    places = threading.Semaphore(3)

    def handle(conn, addr):
        handle_client(conn, addr)
        places.release()

    with socket.create_server((host, port)) as s:
        while True:
            places.acquire(timeout=1)
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr)).start()


@wrong("2.5", "dave waits in the backlog", "dave was accepted", "acquire before accept")
@slow
def joins_the_oldest_for_a_second(host, port):
    threads = []
    with socket.create_server((host, port)) as s:
        while True:
            if len(threads) == 3:
                threads.pop(0).join(1)
            conn, addr = s.accept()
            threads.append(threading.Thread(target=handle_client, args=(conn, addr)))
            threads[-1].start()


@wrong("2.5", "dave waits in the backlog", "dave was accepted", "acquire before accept")
@slow
def sleeps_for_a_place(host, port):
    threads = []
    with socket.create_server((host, port)) as s:
        while True:
            threads = [each for each in threads if each.is_alive()]
            if len(threads) >= 3:
                time.sleep(1)
            conn, addr = s.accept()
            threads.append(threading.Thread(target=handle_client, args=(conn, addr)))
            threads[-1].start()


@wrong("2.5", "dave waits in the backlog", "dave was accepted", "acquire before accept")
def waits_five_seconds_for_a_place(host, port):
    places = threading.Semaphore(3)

    def handle(conn, addr):
        handle_client(conn, addr)
        places.release()

    with socket.create_server((host, port)) as s:
        while True:
            places.acquire(timeout=5)
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr)).start()


@wrong("2.5", "dave waits in the backlog", "and then your server hung up", "it waits until a place is free")
def sends_the_fourth_away_after_five_seconds(host, port):
    places = threading.BoundedSemaphore(3)

    def handle(conn, addr):
        try:
            handle_client(conn, addr)
        finally:
            places.release()

    with socket.create_server((host, port)) as s:
        while True:
            free = places.acquire(True, 5)
            conn, addr = s.accept()
            if free:
                threading.Thread(target=handle, args=(conn, addr)).start()
            else:
                conn.close()


@wrong("2.5", "dave waits in the backlog", "dave was accepted", "acquire before accept")
def sleeps_five_seconds_for_a_place(host, port):
    threads = []
    with socket.create_server((host, port)) as s:
        while True:
            threads = [each for each in threads if each.is_alive()]
            if len(threads) >= 3:
                time.sleep(5)
            conn, addr = s.accept()
            threads.append(threading.Thread(target=handle_client, args=(conn, addr)))
            threads[-1].start()


@wrong("2.5", "dave waits in the backlog", "dave was accepted", "acquire before accept")
def waits_four_seconds_for_a_place_in_a_queue(host, port):
    places = queue.Queue()
    for number in range(3):
        places.put(number)

    def handle(conn, addr):
        handle_client(conn, addr)
        places.put(addr)

    with socket.create_server((host, port)) as s:
        while True:
            with contextlib.suppress(queue.Empty):
                places.get(timeout=4)
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr)).start()


@wrong("2.5", 'dave gets "hi"', "nothing came to dave", "when a client leaves")
@slow
def looks_again_after_six_seconds(host, port):
    threads = []
    with socket.create_server((host, port)) as s:
        while True:
            threads = [each for each in threads if each.is_alive()]
            if len(threads) == 3:
                time.sleep(6)
                continue
            conn, addr = s.accept()
            threads.append(threading.Thread(target=handle_client, args=(conn, addr)))
            threads[-1].start()


@wrong("2.5", "dave waits in the backlog", "and then your server hung up", "it waits until a place is free")
def sends_the_fourth_away(host, port):
    threads = []
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            threads = [each for each in threads if each.is_alive()]
            if len(threads) == 3:
                conn.close()
                continue
            threads.append(threading.Thread(target=handle_client, args=(conn, addr)))
            threads[-1].start()


@wrong("2.5", "dave waits in the backlog", "and then your server hung up", "it waits until a place is free")
def sends_the_fourth_away_with_a_semaphore(host, port):
    places = threading.Semaphore(3)

    def handle(conn, addr):
        handle_client(conn, addr)
        places.release()

    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            if places.acquire(blocking=False):
                threading.Thread(target=handle, args=(conn, addr)).start()
            else:
                conn.close()


@wrong("2.5", "carol gets", "nothing came to carol", "three places, not two")
@slow
def has_two_places(host, port):
    places = threading.Semaphore(2)

    def handle(conn, addr):
        handle_client(conn, addr)
        places.release()

    with socket.create_server((host, port)) as s:
        while True:
            places.acquire()
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr)).start()


@wrong("2.5", "bob gets", "bob", "each thread must keep its own conn")
@slow
def gives_a_lambda_to_the_thread(host, port):
    places = threading.Semaphore(3)

    def handle(conn, addr):
        handle_client(conn, addr)
        places.release()

    with socket.create_server((host, port)) as s:
        while True:
            places.acquire()
            conn, addr = s.accept()
            threading.Thread(target=lambda: handle(conn, addr)).start()


@wrong("2.5", "carol gets", "server thread waits in recv for alice", "recv is called in its thread")
def hears_first_then_takes_a_place(host, port):
    places = threading.Semaphore(3)

    def handle(conn, addr, data):
        conn.sendall(data)
        handle_client(conn, addr)
        places.release()

    with socket.create_server((host, port)) as s:
        while True:
            places.acquire()
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr, conn.recv(1024))).start()


# -- 2.6 A pool --------------------------------------------------------------------------------------------------------


@wrong("2.6", "carol gets", "nothing came to carol", "a with for the pool inside the loop")
@slow
def makes_a_pool_in_the_loop(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            with ThreadPoolExecutor(max_workers=3) as pool:
                pool.submit(handle_client, conn, addr)


@wrong("2.6", "dave gets nothing more", 'dave got "hi"', "before the loop")
def makes_a_pool_for_each(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            pool = ThreadPoolExecutor(max_workers=3)
            pool.submit(handle_client, conn, addr)


@wrong("2.6", "carol gets", "nothing came to carol", "result()")
@slow
def waits_for_the_result(host, port):
    with ThreadPoolExecutor(max_workers=3) as pool, socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            pool.submit(handle_client, conn, addr).result()


@wrong("2.6", "carol gets", "nothing came to carol", "submit(handle_client(…)) wait")
def calls_what_it_submits(host, port):
    with ThreadPoolExecutor(max_workers=3) as pool, socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            pool.submit(handle_client(conn, addr))


@wrong("2.6", "the same three threads", "threads were at work", "ThreadPoolExecutor")
@slow
def threads_and_a_semaphore(host, port):
    places = threading.Semaphore(3)

    def handle(conn, addr):
        with places:
            handle_client(conn, addr)

    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            threading.Thread(target=handle, args=(conn, addr)).start()


@wrong("2.6", "dave gets nothing more", 'dave got "hi"', "max_workers=3")
def takes_as_many_as_there_are(host, port):
    with ThreadPoolExecutor(max_workers=8) as pool, socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            pool.submit(handle_client, conn, addr)


@wrong("2.6", "dave is accepted", "dave is not", "only accepts and hands on")
@slow
def waits_for_a_place(host, port):
    places = threading.Semaphore(3)

    def handle(conn, addr):
        handle_client(conn, addr)
        places.release()

    with ThreadPoolExecutor(max_workers=3) as pool, socket.create_server((host, port)) as s:
        while True:
            places.acquire()
            conn, addr = s.accept()
            pool.submit(handle, conn, addr)


@wrong("2.6", "bob gets", "bob", "each thread must keep its own conn")
def submits_a_lambda(host, port):
    with ThreadPoolExecutor(max_workers=3) as pool, socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            pool.submit(lambda: handle_client(conn, addr))


@wrong("2.6", 'dave gets "hi"', "nothing came to dave", "no lambda")
def takes_the_last_one_that_waits(host, port):
    clients = []

    def handle():
        handle_client(*clients.pop())

    with ThreadPoolExecutor(max_workers=3) as pool, socket.create_server((host, port)) as s:
        while True:
            clients.append(s.accept())
            pool.submit(handle)


@wrong("2.6", "carol gets", "nothing came to carol", "three threads, not two")
def has_two_workers(host, port):
    with ThreadPoolExecutor(max_workers=2) as pool, socket.create_server((host, port)) as s:
        while True:
            pool.submit(handle_client, *s.accept())


@wrong("2.6", "threads of your server serve", "it has started another process", "no processes")
@slow
def has_a_pool_of_processes(host, port):
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool, socket.create_server((host, port)) as s:
        while True:
            pool.submit(handle_client, *s.accept())


@wrong("2.6", "carol gets", "a pool has kept an error for you, TypeError", "pool.submit(handle_client")
@slow
def submits_a_tuple(host, port):
    with ThreadPoolExecutor(max_workers=3) as pool, socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            pool.submit(handle_client, (conn, addr))


@wrong("2.6", "carol gets", "a pool has kept an error for you, AttributeError, at  while data := conn.read", "")
def calls_what_is_not_there(host, port):
    def handle(conn, addr):
        while data := conn.read(1024):
            conn.sendall(data)

    with ThreadPoolExecutor(max_workers=3) as pool, socket.create_server((host, port)) as s:
        while True:
            pool.submit(handle, *s.accept())


@wrong("2.6", "no job of the pool ends with an error", "ConnectionResetError", "except ConnectionError")
def lets_the_pool_keep_the_break_off(host, port):
    def handle(conn, addr):
        with conn:
            while data := conn.recv(1024):
                conn.sendall(data)

    with ThreadPoolExecutor(max_workers=3) as pool, socket.create_server((host, port)) as s:
        while True:
            pool.submit(handle, *s.accept())


@wrong("2.6", "carol gets", "server thread waits in recv for alice", "recv is called in its thread")
def hears_first_then_submits(host, port):
    def handle(conn, addr, data):
        conn.sendall(data)
        handle_client(conn, addr)

    with ThreadPoolExecutor(max_workers=3) as pool, socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            pool.submit(handle, conn, addr, conn.recv(1024))


# -- 2.7 A clean end ---------------------------------------------------------------------------------------------------


@wrong("2.7", "hangs up on alice", "nothing came to alice", "shutdown on every connection")
@slow
def joins_only(host, port):
    threads = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                threads.append(thread)
                thread.start()
        except KeyboardInterrupt:
            for thread in threads:
                thread.join()


@wrong("2.7", "hangs up on alice", "nothing came to alice", "close and join do not wake")
@slow
def closes_instead_of_shutting_down(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                conn.close()
                thread.join()


@wrong("2.7", "hangs up on alice", "nothing came to alice", "shutdown on every connection")
@slow
def leaves_daemons_behind(host, port):
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                threading.Thread(target=handle_and_save, args=(conn, addr), daemon=True).start()
        except KeyboardInterrupt:
            print("Stopped")


@wrong("2.7", "no thread is left", "thread 1, thread 3 and thread 4 were still at work", "join for every thread")
@slow
def does_not_join(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                clients.append(conn)
                threading.Thread(target=handle_and_save, args=(conn, addr)).start()
        except KeyboardInterrupt:
            for conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)


@wrong("2.7", "no thread is left", "still at work", "no sleep, no join with a time limit")
def joins_for_a_second_each(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            for thread, conn in clients:
                thread.join(1)


@wrong("2.7", "no thread is left", "still at work", "no sleep, no join with a time limit")
def joins_for_two_seconds_each(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            for thread, conn in clients:
                thread.join(2)


@wrong("2.7", "no thread is left", "still at work", "no sleep, no join with a time limit")
def joins_for_five_seconds_each(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            for thread, conn in clients:
                thread.join(timeout=5)


@wrong("2.7", "no thread is left", "still at work", "no sleep, no join with a time limit")
def joins_until_all_have_had_five_seconds(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            until = time.monotonic() + 5
            for thread, conn in clients:
                thread.join(until - time.monotonic())


@wrong("2.7", "no thread is left", "still at work", "no sleep, no join with a time limit")
def sleeps_for_three_seconds(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            time.sleep(3)


@wrong("2.7", "no thread is left", "still at work", "no sleep, no join with a time limit")
def sleeps_thirty_times(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            for _ in range(30):
                time.sleep(0.1)


@wrong("2.7", "no thread is left", "still at work", "no sleep, no join with a time limit")
def waits_four_seconds_for_the_last(host, port):
    done, threads, connections = threading.Event(), [], []

    def handle(conn, addr):
        handle_and_save(conn, addr)
        if not any(each.is_alive() for each in threads if each is not threading.current_thread()):
            done.set()

    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                connections.append(conn)
                threads.append(threading.Thread(target=handle, args=(conn, addr)))
                threads[-1].start()
        except KeyboardInterrupt:
            for conn in connections:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            done.wait(4)


@wrong("2.7", "hangs up on alice", "nothing came to alice", "except KeyboardInterrupt")
@slow
def does_nothing_about_ctrl_c(host, port):
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            threading.Thread(target=handle_and_save, args=(conn, addr)).start()


@wrong("2.7", "hangs up on bob", "nothing came to bob", "every connection")
@slow
def hangs_up_on_the_first_only(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients[:1]:
                conn.shutdown(socket.SHUT_RDWR)
                thread.join()


@wrong("2.7", "hangs up on alice", "nothing came to alice", "it is no Exception")
@slow
def catches_exception(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except Exception:
            for thread, conn in clients:
                conn.shutdown(socket.SHUT_RDWR)
                thread.join()


@wrong("2.7", "your server returns", "it did not", "Ctrl+C ends the loop around accept")
@slow
def goes_on_after_ctrl_c(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        while True:
            try:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
            except KeyboardInterrupt:
                for thread, conn in clients:
                    with contextlib.suppress(OSError):
                        conn.shutdown(socket.SHUT_RDWR)
                    thread.join()


@wrong("2.7", "your server returns", "OSError", "zoe has left before")
@slow
def stops_at_who_has_left(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                conn.shutdown(socket.SHUT_RDWR)
                thread.join()


@wrong("2.7", "handle_and_save has saved four clients", "it has saved none", "target=handle_and_save")
def saves_nothing(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_client, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            for thread, conn in clients:
                thread.join()


@wrong("2.7", "handle_and_save has saved four clients", "it has saved 3", "target=handle_and_save")
def saves_when_the_first_has_left(host, port):
    def handle(conn, addr):
        handle_client(conn, addr)
        if len(clients) < 4:
            return
        time.sleep(0.01)
        print(f"{addr} is saved")

    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            for thread, conn in clients:
                thread.join()


@wrong("2.7", "hangs up on bob", "nothing came to bob", "not around it")
@slow
def stops_all_at_the_first_error(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            try:
                for thread, conn in clients:
                    conn.shutdown(socket.SHUT_RDWR)
            except OSError:
                print("One has left")
            for thread, conn in clients[:2]:
                thread.join()


@wrong("2.7", "hangs up on alice", "nothing came to alice", "not around it")
@slow
def stops_all_at_the_first_error_from_behind(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                for thread, conn in reversed(clients):
                    conn.shutdown(socket.SHUT_RDWR)


@wrong("2.7", "no thread is left", "were still at work", "no sleep")
@slow
def sleeps_instead_of_joining(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            time.sleep(1)


@wrong("2.7", "no thread is left", "were still at work", "no join with a time limit")
@slow
def joins_for_a_short_time(host, port):
    clients = []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_and_save, args=(conn, addr))
                clients.append((thread, conn))
                thread.start()
        except KeyboardInterrupt:
            for thread, conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            for thread, conn in clients:
                thread.join(0.5)


@wrong("2.7", "zoe gets", "zoe", "each thread must keep its own conn")
@slow
def forgets_whom_a_thread_serves(host, port):
    threads, clients = [], []
    with socket.create_server((host, port)) as s:
        try:
            while True:
                conn, addr = s.accept()
                clients.append(conn)
                threads.append(threading.Thread(target=lambda: handle_and_save(conn, addr)))
                threads[-1].start()
        except KeyboardInterrupt:
            for conn in clients:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


# -- 3.1 An echo with selectors ----------------------------------------------------------------------------------------


def selecting(host, port, talk, *, blocking=False, events=selectors.EVENT_READ, unregister=True, close=True, errors=()):
    """The loop of a right answer, but for what `talk` and the options say."""
    with socket.create_server((host, port)) as s, selectors.DefaultSelector() as selector:
        s.setblocking(False)
        selector.register(s, selectors.EVENT_READ)
        while True:
            for key, ready in selector.select():
                if key.fileobj is s:
                    conn, addr = s.accept()
                    conn.setblocking(blocking)
                    selector.register(conn, events, {"rest": b""})
                    continue
                try:
                    is_there = talk(selector, key.fileobj, key.data, ready)
                except errors:
                    is_there = False
                if not is_there and unregister:
                    selector.unregister(key.fileobj)
                if not is_there and close:
                    key.fileobj.close()


def rest_is_kept(selector, conn, kept, ready):
    if kept["rest"]:
        kept["rest"] = kept["rest"][conn.send(kept["rest"]) :]
    else:
        kept["rest"] = conn.recv(65536)
        if not kept["rest"]:
            return False
    selector.modify(conn, selectors.EVENT_WRITE if kept["rest"] else selectors.EVENT_READ, kept)
    return True


def sends_all(selector, conn, kept, ready):
    data = conn.recv(1024)
    conn.sendall(data)
    return data


def drops_the_rest(selector, conn, kept, ready):
    data = conn.recv(65536)
    conn.send(data)
    return data


@wrong("3.1", 'gets "hi"', "server thread waits in sendall: dave does not read", "send, not sendall")
def selects_and_sends_all(host, port):
    selecting(host, port, sends_all, blocking=True, errors=ConnectionError)


@wrong("3.1", 'gets "hi"', "BlockingIOError", "send, not sendall")
def selects_and_sends_all_without_waiting(host, port):
    selecting(host, port, sends_all, errors=ConnectionError)


@wrong("3.1", "alice gets", "alice got", "keep the rest")
def selects_and_drops_the_rest(host, port):
    selecting(host, port, drops_the_rest, errors=ConnectionError)


BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


def reads_and_sends(selector, conn, kept, ready):
    """It reads also while a rest waits for room."""
    if ready & selectors.EVENT_READ:
        data = conn.recv(65536)
        if not data:
            return False
        kept["rest"] += data
    if ready & selectors.EVENT_WRITE:
        kept["rest"] = kept["rest"][conn.send(kept["rest"]) :]
    return True


@wrong("3.1", "computes for less than", "select returned again and again", "only while you have something to send")
def always_asks_for_room(host, port):
    selecting(host, port, reads_and_sends, events=BOTH, errors=ConnectionError)


@wrong("3.1", "computes for less than", "select returned again and again", "only while you have something to send")
def asks_for_room_ever_after(host, port):
    def talk(selector, conn, kept, ready):
        is_there = reads_and_sends(selector, conn, kept, ready)
        if is_there:
            selector.modify(conn, BOTH, kept)
        return is_there

    selecting(host, port, talk, errors=ConnectionError)


@wrong("3.1", "", "is already registered", "unregister it")  # which client gets an old number again is chance
def closes_and_does_not_unregister(host, port):
    selecting(host, port, rest_is_kept, unregister=False, errors=ConnectionError)


@wrong("3.1", "hangs up on erin", "nothing came to erin", "hang up")
@slow
def unregisters_and_does_not_close(host, port):
    selecting(host, port, rest_is_kept, close=False, errors=ConnectionError)


@wrong("3.1", "gus", "ConnectionResetError", "except ConnectionError")
def ends_with_the_first_reset(host, port):
    selecting(host, port, rest_is_kept)


@wrong("3.1", "zoe", "Error", "also while you send")
def ends_with_a_reset_while_it_sends(host, port):
    def talk(selector, conn, kept, ready):
        if not kept["rest"]:
            try:
                return rest_is_kept(selector, conn, kept, ready)
            except ConnectionError:
                return False
        return rest_is_kept(selector, conn, kept, ready)

    selecting(host, port, talk)


@wrong("3.1", "erin gets", "erin", "only then hang up")
def hangs_up_before_the_rest_is_sent(host, port):
    def talk(selector, conn, kept, ready):
        is_there = reads_and_sends(selector, conn, kept, ready)
        if is_there:
            selector.modify(conn, BOTH if kept["rest"] else selectors.EVENT_READ, kept)
        return is_there

    selecting(host, port, talk, errors=ConnectionError)


@wrong("3.1", "one thread serves all three", "there are 4 threads", "no threads")
def gives_each_a_thread(host, port):
    def talk(conn):
        with conn, contextlib.suppress(ConnectionError):
            while data := conn.recv(1024):
                conn.sendall(data)

    with socket.create_server((host, port)) as s, selectors.DefaultSelector() as selector:
        s.setblocking(False)
        selector.register(s, selectors.EVENT_READ)
        while selector.select():
            threading.Thread(target=talk, args=s.accept()[:1]).start()


@wrong("3.1", "the listening socket does not block", "accept may wait", "setblocking(False)")
def lets_accept_wait(host, port):
    with socket.create_server((host, port)) as s, selectors.DefaultSelector() as selector:
        selector.register(s, selectors.EVENT_READ)
        while True:
            for key, ready in selector.select():
                if key.fileobj is s:
                    selector.register(s.accept()[0], selectors.EVENT_READ, {"rest": b""})
                elif not rest_is_kept(selector, key.fileobj, key.data, ready):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


@wrong("3.1", "carol gets", "nothing came to carol", "one thread for all")
@slow
def talks_to_one_after_the_other(host, port):
    with socket.create_server((host, port)) as s:
        s.setblocking(False)
        while True:
            select.select([s], [], [])
            conn, addr = s.accept()
            with conn:
                conn.setblocking(True)
                while data := conn.recv(1024):
                    while data:
                        data = data[conn.send(data) :]


# -- 3.2 Say no politely -----------------------------------------------------------------------------------------------


def refuses(conn):
    with conn, contextlib.suppress(OSError):
        conn.settimeout(2)
        conn.sendall(b"full\n")
        conn.shutdown(socket.SHUT_WR)
        while conn.recv(1024):
            pass


def gives_its_place_back(conn, addr, places):
    try:
        handle_client(conn, addr)
    finally:
        places.release()


def shedding(host, port, refuse, serve=gives_its_place_back, number=3):
    """The loop of a right answer, with another way to refuse or to serve."""
    places = threading.Semaphore(number)
    with socket.create_server((host, port)) as s:
        while True:
            conn, addr = s.accept()
            if places.acquire(blocking=False):
                threading.Thread(target=serve, args=(conn, addr, places)).start()
            else:
                refuse(conn, places)


def in_a_thread(function):
    return lambda conn, places: threading.Thread(target=function, args=(conn,)).start()


@wrong("3.2", 'dave gets "full\\n"', "nothing came to dave", "look for a place")
@slow
def lets_them_wait_in_the_backlog(host, port):
    places = threading.Semaphore(3)
    with socket.create_server((host, port)) as s:
        while True:
            places.acquire()
            conn, addr = s.accept()
            threading.Thread(target=gives_its_place_back, args=(conn, addr, places)).start()


@wrong("3.2", 'dave gets "full\\n"', "the server hung up on dave", "look for a place")
def hangs_up_without_a_word(host, port):
    shedding(host, port, lambda conn, places: conn.close())


@wrong("3.2", "dave", "bytes", "until the client hangs up")
def says_full_and_closes(host, port):
    def refuse(conn, places):
        with conn, contextlib.suppress(OSError):
            conn.sendall(b"full\n")

    shedding(host, port, refuse)


@wrong("3.2", "waits until dave hangs up, too", "and has closed", "until the client hangs up")
def says_full_and_reads_once(host, port):
    def refuse(conn):
        with conn, contextlib.suppress(OSError):
            conn.sendall(b"full\n")
            conn.shutdown(socket.SHUT_WR)
            conn.recv(1024)

    shedding(host, port, in_a_thread(refuse))


@wrong("3.2", "hangs up on dave", "nothing", "you send no more")
@slow
def says_full_and_stays(host, port):
    def refuse(conn):
        with conn, contextlib.suppress(OSError):
            conn.settimeout(10)
            conn.sendall(b"full\n")
            while conn.recv(1024):
                pass

    shedding(host, port, in_a_thread(refuse))


@wrong("3.2", 'frank gets "full\\n"', "nothing came to frank", "must not hold up the loop")
@slow
def refuses_in_the_loop_over_accept(host, port):
    def refuse(conn, places):
        with conn, contextlib.suppress(OSError):
            conn.sendall(b"full\n")
            conn.shutdown(socket.SHUT_WR)
            while conn.recv(1024):
                pass

    shedding(host, port, refuse)


@wrong("3.2", "closes its connection to erin", "it is open", "a thread for ever")
@slow
def keeps_a_thread_for_each_refused_client(host, port):
    def refuse(conn):
        with conn, contextlib.suppress(OSError):
            conn.sendall(b"full\n")
            conn.shutdown(socket.SHUT_WR)
            while conn.recv(1024):
                pass

    shedding(host, port, in_a_thread(refuse))


@wrong("3.2", 'gets "hi"', "got", "its place is free")
def gives_no_place_back_after_a_reset(host, port):
    def serve(conn, addr, places):
        with conn:
            while data := conn.recv(1024):
                conn.sendall(data)
        places.release()

    shedding(host, port, in_a_thread(refuses), serve)


@wrong("3.2", 'gets "full\\n"', "nothing came to", "gives none back")
@slow
def gives_back_a_place_that_was_not_taken(host, port):
    def refuse(conn, places):
        def both():
            refuses(conn)
            places.release()

        threading.Thread(target=both).start()

    shedding(host, port, refuse)


@wrong("3.2", 'carol gets "hello', "carol got", "three at once")
def serves_two(host, port):
    shedding(host, port, in_a_thread(refuses), number=2)


# -- 3.3 Who makes everybody wait? -------------------------------------------------------------------------------------


def holds(calls):
    """How long each message held the thread, whose it was, and whether another client sent something meanwhile."""
    for row, after in itertools.pairwise(row for row in calls if row["thread"] == "server thread"):
        began, over = row["seconds"] + row["took"], after["seconds"]
        others = [each for each in calls if each["call"] == "client send" and each["client"] != row["client"]]
        if row["call"] == "recv":
            yield over - began, row["client"], any(began < each["seconds"] < over for each in others)


@wrong("3.3", 'your function returns "', "it returned", "which message was read")
def names_who_sent_most(calls):
    sent = [row["client"] for row in calls if row["call"] == "client send"]
    name = max(set(sent), key=sent.count)
    return name, float(sent.count(name))


@wrong("3.3", 'your function returns "', "it returned", "which message was read")
def names_who_was_first(calls):
    return calls[0]["client"], calls[0]["took"]


@wrong("3.3", 'your function returns "', "it returned", "which message was read")
def names_who_was_there_longest(calls):
    first = {}
    for row in calls:
        first.setdefault(row["client"], row["seconds"])
    name = min(first, key=first.get)
    return name, calls[-1]["seconds"] - first[name]


@wrong("3.3", 'your function returns "', "it returned", "which message was read")
def names_who_waited_longest(calls):
    waited, sent = (0.0, ""), {}
    for row in calls:
        if row["call"] == "client send":
            sent[row["client"]] = row["seconds"]
        elif row["call"] == "client recv" and row["client"] in sent:
            waited = max(waited, (row["seconds"] - sent.pop(row["client"]), row["client"]))
    return waited[1], waited[0]


@wrong("3.3", 'your function returns "', "it returned", "which message was read")
def names_who_computed_longest_when_nobody_waited(calls):
    seconds, name, _ = max(holds(calls))
    return name, seconds


@wrong("3.3", 'your function returns "', "it returned", "which message was read")
def takes_the_pause_after_an_answer(calls):
    mine = [row for row in calls if row["thread"] == "server thread"]
    held = [(after["seconds"] - row["seconds"], row["client"]) for row, after in itertools.pairwise(mine)]
    return max(held)[1], max(held)[0]


@wrong("3.3", 'your function returns "', "it returned", "seconds + took")
def names_the_right_one_in_milliseconds(calls):
    seconds, name, _ = max(each for each in holds(calls) if each[2])
    return name, seconds * 1000


@wrong("3.3", 'your function returns "', "it returned", "return name, seconds")
def names_the_right_one_only(calls):
    return max(each for each in holds(calls) if each[2])[1]


# -- S.1 A clean goodbye -----------------------------------------------------------------------------------------------


@wrong("S.1", "waits until alice hangs up", "has closed", "you send no more")
def just_leaves(conn, addr):
    conn.sendall(conn.recv(2))


@wrong("S.1", "waits until alice hangs up", "has closed", "you send no more")
def shuts_down_and_leaves(conn, addr):
    conn.sendall(conn.recv(2))
    conn.shutdown(socket.SHUT_RDWR)


@wrong("S.1", "waits until bob hangs up", "has closed", "recv until it returns no bytes")
def reads_once_more(conn, addr):
    conn.sendall(conn.recv(2))
    conn.shutdown(socket.SHUT_WR)
    conn.recv(1024)


@wrong("S.1", "hangs up on alice", "waits in recv for alice", "SHUT_WR")
@slow
def only_reads(conn, addr):
    conn.sendall(conn.recv(2))
    while conn.recv(1024):
        pass


@wrong("S.1", "no more than two bytes", 'bob got "llo"', "two bytes at most")
def reads_more_than_two(conn, addr):
    conn.sendall(conn.recv(1024))
    conn.shutdown(socket.SHUT_WR)
    while conn.recv(1024):
        pass


@wrong("S.1", "waits until carol hangs up", "has closed, although carol was still there", "a silence is no end of file")
def leaves_after_a_short_silence(conn, addr):
    conn.sendall(conn.recv(2))
    conn.shutdown(socket.SHUT_WR)
    conn.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while conn.recv(1024):
            pass


@wrong("S.1", "waits until carol hangs up", "has closed, although carol was still there", "a silence is no end of file")
@slow
def leaves_after_a_silence(conn, addr):
    conn.sendall(conn.recv(2))
    conn.shutdown(socket.SHUT_WR)
    while select.select([conn], [], [], 2)[0] and conn.recv(4096):
        pass


@wrong("S.1", "the server reads what bob has sent", "it has read 2 of 5 bytes", "no bytes of it are unread")
@slow
def sleeps_and_reads_what_is_there(conn, addr):
    conn.sendall(conn.recv(2))
    conn.shutdown(socket.SHUT_WR)
    conn.setblocking(False)
    time.sleep(0.3)
    with contextlib.suppress(BlockingIOError):
        while conn.recv(1024):
            pass


@wrong("S.1", r'dave gets " \xff"', r'dave got "\xff"', "strip() takes white space away")
def says_goodbye_without_white_space(conn, addr):
    conn.sendall(conn.recv(2).strip())
    conn.shutdown(socket.SHUT_WR)
    while conn.recv(1024):
        pass


@wrong("S.1", r'dave gets " \xff"', "UnicodeDecodeError", "recv(2)")
def says_goodbye_to_text(conn, addr):
    data = conn.recv(2)
    conn.sendall(data.decode().encode())
    conn.shutdown(socket.SHUT_WR)
    while conn.recv(1024):
        pass


# -- S.2 Much at once --------------------------------------------------------------------------------------------------


@wrong(
    "S.2",
    "your function returns",
    "stands at  sock.sendall(data)\n(server thread waits in sendall: client 1 does not read",
    "read while you send",
)
@slow
def sends_all_then_reads(sock, data):
    sock.sendall(data)
    return sock.recv(len(data))


@wrong("S.2", "returns all", "bytes", "a loop")
def asks_for_it_once(sock, data):
    def send():
        with contextlib.suppress(OSError):
            sock.sendall(data)

    threading.Thread(target=send, daemon=True).start()
    return sock.recv(1000)


@wrong("S.2", "returns all", "returned NoneType", "return")
def forgets_to_return(sock, data):
    threading.Thread(target=sock.sendall, args=(data,), daemon=True).start()
    came = b""
    while len(came) < len(data):
        came += sock.recv(65536)


@wrong(
    "S.2",
    "your function returns",
    "stands at  while piece := sock.recv(65536):\n(server thread waits in recv",
    "count the bytes",
)
@slow
def reads_to_an_end_that_never_comes(sock, data):
    threading.Thread(target=sock.sendall, args=(data,), daemon=True).start()
    came = b""
    while piece := sock.recv(65536):
        came += piece
    return came


@wrong("S.2", "returns all of the 2,000,000 bytes", "it returned 1,", "a loop")
def one_recv_a_piece(sock, data):
    came = b""
    for at in range(0, len(data), 1000):
        sock.sendall(data[at : at + 1000])
        came += sock.recv(1000)
    return came


@wrong("S.2", "all of the 2,000,000 bytes", "it returned", "join()")
def does_not_wait_for_the_reader(sock, data):
    came = []

    def read():
        while sum(map(len, came)) < len(data):
            came.append(sock.recv(65536))

    threading.Thread(target=read).start()
    sock.sendall(data)
    return b"".join(came)


@wrong("S.2", "the echo of all 2,000,000 bytes is received", "has echoed 0 bytes", "data itself is no echo")
def returns_the_data(sock, data):
    return data


@wrong("S.2", "the echo of all 2,000,000 bytes is received", "the server has echoed", "data itself is no echo")
def sends_and_returns_the_data(sock, data):
    threading.Thread(target=sock.sendall, args=(data,), daemon=True).start()
    sock.recv(1)
    return data


@wrong("S.2", "the buffers keep their sizes", "setsockopt has changed them", "a larger buffer helps until")
def makes_the_buffers_larger(sock, data):
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 2 * len(data))
    return a_thread_and_a_loop(sock, data)


@wrong("S.2", "the buffers keep their sizes", "setsockopt has changed them", "a larger buffer helps until")
def makes_one_buffer_a_little_larger(sock, data):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
    return a_thread_and_a_loop(sock, data)


@wrong("S.2", "your function returns", "stands at  sock.sendall(data[at : at + 200_000])", "read while you send")
@slow
def sends_large_pieces(sock, data):
    came = b""
    for at in range(0, len(data), 200_000):
        sock.sendall(data[at : at + 200_000])
        while len(came) < min(len(data), at + 200_000):
            came += sock.recv(65536)
    return came


@wrong("S.2", "your function returns", "stands at", "sendall sends all of them")
@slow
def sends_in_a_thread_without_all(sock, data):
    threading.Thread(target=sock.send, args=(data,), daemon=True).start()
    came = b""
    while len(came) < len(data):
        came += sock.recv(65536)
    return came


@wrong("S.2", "in their order", "another order", "one thread sends, and one reads")
def reads_with_two_threads(sock, data):
    pieces, lock, turn = [], threading.Lock(), threading.Barrier(2)

    def read(first):
        turn.wait()
        while sum(map(len, pieces)) < len(data):
            with lock:
                left = len(data) - sum(map(len, pieces))
                piece = sock.recv(min(1000, left)) if left else b""
                pieces.insert(max(0, len(pieces) - first), piece)

    threads = [threading.Thread(target=read, args=(first,)) for first in (0, 1)]
    threads.append(threading.Thread(target=sock.sendall, args=(data,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return b"".join(pieces)
