#!/usr/bin/env python3
"""A client for the echo servers: type a line, see its echo. Ctrl+C ends it."""

import socket
import sys


def receive(s, count):
    """A reply of `count` bytes: it may arrive in several pieces."""
    data = b""
    while len(data) < count:
        piece = s.recv(1024)
        if not piece:
            sys.exit("The server has left")
        data += piece
    return data


def main():
    if len(sys.argv) == 1:
        print("Use ./client.py HOST PORT for non default args")
    try:
        host, port = sys.argv[1:] or ("127.0.0.1", 8000)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
            s.connect((host, int(port)))
            while True:
                line = input("> ").encode()
                if line:  # an empty line sends nothing, so no reply comes
                    s.sendall(line)
                    print(f"Received  :  {receive(s, len(line)).decode(errors='backslashreplace')}")
    except (KeyboardInterrupt, EOFError):
        print()
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(f"Connection failed: {error}. Use ./client.py HOST PORT")


if __name__ == "__main__":
    main()
