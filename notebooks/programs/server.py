#!/usr/bin/env python3
"""An echo server, one client at a time. Ctrl+C ends it (on Windows: Ctrl+Break)."""

import socket
import sys


def handle_client(conn, addr):
    """Send back every byte that this client sends, until it leaves."""
    with conn:
        try:
            while data := conn.recv(1024):
                print(f"Received data from {addr} : {data.decode(errors='backslashreplace')}")
                conn.sendall(data)
        except OSError as error:  # for example: the client has crashed
            print(f"Lost {addr} : {error}")


def main():
    if len(sys.argv) == 1:
        print("Use ./server.py HOST PORT for non default args")
    try:
        host, port = sys.argv[1:] or ("127.0.0.1", 8000)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, sys.platform != "win32")
            s.bind((host, int(port)))
            s.listen()
            print(f"Listening on {s.getsockname()}")
            while True:
                conn, addr = s.accept()
                handle_client(conn, addr)
    except KeyboardInterrupt:
        print("\nStopped")
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(f"Cannot serve: {error}. Use ./server.py HOST PORT")


if __name__ == "__main__":
    main()
