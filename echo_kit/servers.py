"""The finished servers of Part 1 and Part 2, standard library only: the code of the notebooks' last server cells."""

import errno
import socket
import struct
import sys
import threading
import time

IDLE = 60  # seconds: a client that is silent for longer is disconnected
MOST = 1000  # clients that have a thread at the same time; the next ones wait in the backlog


def readable(data):
    """The bytes as text for a screen: at most 200 characters, and none that moves the cursor."""
    text = data.decode("utf-8", errors="backslashreplace")
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 200 else text[:199] + "…"


def limit_silence(conn):
    """Make recv and sendall fail after IDLE seconds. (settimeout costs one more system call for each of them.)"""
    if sys.platform != "linux":
        conn.settimeout(IDLE)
        return
    limit = struct.pack("ll", int(IDLE), int(IDLE % 1 * 1_000_000))  # seconds, microseconds
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        conn.setsockopt(socket.SOL_SOCKET, option, limit)


def handle_client(conn, addr):
    """Send back every byte that arrives, until the client leaves or is silent for too long."""
    with conn:
        print(f"Connected by {addr}")
        addr = str(addr)  # once, not for each message
        limit_silence(conn)
        try:
            while data := conn.recv(1024):
                print(f"Received data from {addr} : {readable(data)}")
                conn.sendall(data)
        except BlockingIOError:  # what recv and sendall raise when Linux has kept the limit
            print(f"Lost {addr} : timed out")
        except OSError as error:
            print(f"Lost {addr} : {error.strerror or error}")


def listen(host, port):
    """A listening socket; its port can be bound again at once after the server has ended."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=1024)
    print(f"Listening on {host}:{listener.getsockname()[1]}")  # port 0 lets the system choose one
    return listener


def serve_single(host, port):
    """Part 1: one client at a time. Ctrl+C ends it."""
    with listen(host, port) as listener:
        try:
            while True:
                conn, addr = listener.accept()
                handle_client(conn, addr)
        except KeyboardInterrupt:
            print("Stopped")


def serve_threaded(host, port):
    """Part 2: a thread for each client, MOST of them at once. Ctrl+C hangs up on all of them and ends it."""
    clients = {}  # thread -> its connection; only of those that are still there
    lock, places = threading.Lock(), threading.Semaphore(MOST)
    with listen(host, port) as listener:
        try:
            while True:
                places.acquire()
                conn, addr = next_client(listener)
                args = (conn, addr, clients, lock, places)
                thread = threading.Thread(target=client_thread, args=args, daemon=True)
                with lock:
                    clients[thread] = conn  # before it starts: Ctrl+C may come in between
                try:
                    thread.start()
                except RuntimeError as error:  # no thread is to be had: this client is refused
                    print(f"Full : {error}")
                    with lock:
                        clients.pop(thread).close()
                    places.release()
        except KeyboardInterrupt:
            print("Stopped")
        finally:
            hang_up(clients, lock)


def next_client(listener):
    """Accept a client. While no file descriptor is left, try again every second: some client will leave."""
    while True:
        try:
            return listener.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            print(f"Full : {error.strerror}")
            time.sleep(1)


def client_thread(conn, addr, clients, lock, places):
    """What each client's thread runs. However it ends, the server forgets the client, and its place is free."""
    try:
        handle_client(conn, addr)
    finally:
        with lock:
            clients.pop(threading.current_thread(), None)
        places.release()


def hang_up(clients, lock):
    """Wake every thread that waits for its client, then wait for the threads to end."""
    with lock:
        last = dict(clients)
    for conn in last.values():
        try:
            conn.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # this client has just left by itself
    for thread in last:
        if thread.is_alive():  # it may not have been started yet
            thread.join(timeout=1)
