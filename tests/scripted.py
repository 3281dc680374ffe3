"""`scripted`: a server that plays a script for one client, and that nobody observes."""

import socket
import threading
from contextlib import contextmanager

from echo_kit import free_port

LONG = 20  # seconds after which a test gives up


@contextmanager
def scripted(script):
    """A listening socket and a thread that plays script(conn) for one client; the address, not observed."""

    def play():
        conn, _ = listener.accept()
        with conn:
            script(conn)

    with socket.create_server(("127.0.0.1", free_port())) as listener:
        thread = threading.Thread(target=play)
        thread.start()
        yield listener.getsockname()
        thread.join(LONG)
        assert not thread.is_alive()
