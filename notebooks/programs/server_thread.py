#!/usr/bin/env python3
"""An echo server with a thread for each client. Ctrl+C ends it (on Windows: Ctrl+Break)."""

import socket
import sys
import threading


def handle_client(conn, addr):
    with conn:
        try:
            while data := conn.recv(1024):
                print(f"Received data from {addr} : {data.decode(errors='backslashreplace')}")
                conn.sendall(data)
        except OSError as error:  # for example: the client has crashed
            print(f"Lost {addr} : {error}")


def main():
    if len(sys.argv) == 1:
        print("Use ./server_thread.py HOST PORT for non default args")
    clients = []  # each client's thread and connection
    try:
        host, port = sys.argv[1:] or ("127.0.0.1", 8000)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, sys.platform != "win32")
            s.bind((host, int(port)))
            s.listen()
            print(f"Listening on {s.getsockname()}")
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_client, args=(conn, addr), daemon=True)
                thread.start()
                clients = [(t, c) for t, c in clients if t.is_alive()] + [(thread, conn)]
    except KeyboardInterrupt:
        for thread, conn in clients:
            try:
                conn.shutdown(socket.SHUT_RDWR)  # wakes its thread, which waits in recv
            except OSError:
                pass  # this client has left by itself
            thread.join()
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(f"Cannot serve: {error}. Use ./server_thread.py HOST PORT")


if __name__ == "__main__":
    main()
