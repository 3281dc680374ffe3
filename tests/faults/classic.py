"""The classic exercise's programs, without the changes that Part 1 lists in section 8: what the faults must break.

Written after that list, for the tests: `python classic.py server|server_thread|client HOST PORT`.
"""

import socket
import sys
import threading


def handle_client(conn, addr):
    with conn:
        print(f"Connected by {addr}")
        while True:
            data = conn.recv(1024)
            if not data:
                break
            print(f"Received data from {addr} : {data.decode()}")
            conn.sendall(data)


def server(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.bind((host, port))
        s.listen()
        print(f"Listening on {host}:{port}")
        while True:
            conn, addr = s.accept()
            handle_client(conn, addr)


def server_thread(host, port):
    threads = []
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.bind((host, port))
        s.listen()
        print(f"Listening on {host}:{port}")
        try:
            while True:
                conn, addr = s.accept()
                thread = threading.Thread(target=handle_client, args=(conn, addr))
                thread.start()
                threads.append(thread)
        except KeyboardInterrupt:
            for thread in threads:
                thread.join()


def client(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.connect((host, port))
        while True:
            s.sendall(input("> ").encode())
            print(f"Received  :  {s.recv(1024).decode()}")


def main():
    print("Use HOST PORT for non default args")
    command, host, port = sys.argv[1:]
    sys.stdout.reconfigure(line_buffering=True)
    try:
        {"server": server, "server_thread": server_thread, "client": client}[command](host, int(port))
    except KeyboardInterrupt:
        print("Stopped")


if __name__ == "__main__":
    main()
