"""The finished servers of Part 1 and Part 2, standard library only: the code of the notebooks' last server cells."""

import socket
import threading


def readable(data):
    """The bytes as text for a screen: at most 200 characters, and none that moves the cursor."""
    text = data.decode("utf-8", errors="backslashreplace")
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return text if len(text) <= 200 else text[:200] + "…"


def handle_client(conn, addr):
    """Send back every byte that arrives, until the client leaves."""
    with conn:
        print(f"Connected by {addr}")
        try:
            while data := conn.recv(1024):
                print(f"Received data from {addr} : {readable(data)}")
                conn.sendall(data)
        except OSError as error:
            print(f"Lost {addr} : {error.strerror or error}")


def listen(host, port):
    """A listening socket; its port can be bound again at once after the server has ended."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=128)
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
    """Part 2: a thread for each client. Ctrl+C hangs up on all of them and ends it."""
    clients = {}  # thread -> its connection; only of those that are still there
    with listen(host, port) as listener:
        try:
            while True:
                conn, addr = listener.accept()
                thread = threading.Thread(target=handle_client, args=(conn, addr), daemon=True)
                thread.start()
                clients = {t: c for t, c in clients.items() if t.is_alive()}
                clients[thread] = conn
        except KeyboardInterrupt:
            print("Stopped")
        finally:
            hang_up(clients)


def hang_up(clients):
    """Wake every thread that waits for its client, then wait for the threads to end."""
    for conn in clients.values():
        try:
            conn.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # this client has just left by itself
    for thread in clients:
        thread.join(timeout=1)
