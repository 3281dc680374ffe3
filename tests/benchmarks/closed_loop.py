"""What closed_loop.c does, where there is no C compiler: slower, so that a server's own costs show less."""

import selectors
import socket
import sys
import time

SIZE = 64


def main(clients, blocks, milliseconds, *ports):
    talkers = []
    for port in ports:
        selector = selectors.DefaultSelector()
        for _ in range(clients):
            selector.register(socket.create_connection(("127.0.0.1", port)), selectors.EVENT_READ, [0])
        talkers.append(selector)
    for _ in range(blocks):
        print(*(f"{block(selector, milliseconds / 1000):.0f}" for selector in talkers), flush=True)


def block(selector, seconds):
    """How many messages a second are echoed."""
    echoed, message, began = 0, b"x" * SIZE, time.perf_counter()
    waiting = len(selector.get_map())
    for key in selector.get_map().values():
        key.fileobj.sendall(message)
    while waiting:
        ready = selector.select(30)
        assert ready, "no echo"
        for key, _ in ready:
            data = key.fileobj.recv(SIZE)
            assert data, "the server has hung up"
            key.data[0] += len(data)
            if key.data[0] == SIZE:
                key.data[0] = 0
                echoed += 1
                if time.perf_counter() < began + seconds:
                    key.fileobj.sendall(message)
                else:
                    waiting -= 1
    return echoed / (time.perf_counter() - began)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
