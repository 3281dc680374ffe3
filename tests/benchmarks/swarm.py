"""Many clients in a process of their own, for the benchmarks: `Swarm` here, and what its process runs."""

import queue
import selectors
import socket
import subprocess
import sys
import threading
import time

LIMIT = 120  # seconds that anything may take before a test fails


class Swarm:
    """`connections` clients at a port of this machine, of which the first `talking` will send. Use it in a `with`."""

    def __init__(self, port, connections, talking=None):
        numbers = map(str, (port, connections, talking or connections))
        self._process = subprocess.Popen(
            [sys.executable, __file__, *numbers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._lines.get(timeout=LIMIT) == "connected"

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put("the swarm has ended")

    def begin(self, messages, rate, connects=0):
        """Begin to send `messages`, `rate` a second in all (0: as fast as they are answered), each next one by another
        client, and in between let as many of them as `connects` says leave and come again."""
        print(messages, rate, connects, file=self._process.stdin, flush=True)

    def end(self):
        """Wait until all of them are answered; how many seconds that took."""
        said = self._lines.get(timeout=LIMIT)
        assert said.startswith("answered "), said
        return float(said.removeprefix("answered "))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.kill()
        self._process.wait(LIMIT)
        self._reader.join(LIMIT)
        self._process.stdin.close()
        self._process.stdout.close()


def main(port, connections, talking):
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=LIMIT) for _ in range(connections)]
    print("connected", flush=True)
    for line in sys.stdin:
        messages, rate, connects = map(int, line.split())
        began, owed, left = time.perf_counter(), [0] * connections, 0
        with selectors.DefaultSelector() as selector:
            for number in range(talking):
                selector.register(sockets[number], selectors.EVENT_READ, number)

            def take(wait, selector=selector, owed=owed):
                for key, _ in selector.select(wait):
                    data = key.fileobj.recv(4096)
                    assert data, "the server has hung up"
                    owed[key.data] -= len(data)

            for number in range(messages):
                if rate:
                    while (wait := began + number / rate - time.perf_counter()) > 0:
                        take(wait)
                who = number % talking
                while owed[who]:
                    take(LIMIT)
                if connects and number * connects // messages > left:
                    left += 1
                    selector.unregister(sockets[who])
                    sockets[who].close()
                    sockets[who] = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
                    selector.register(sockets[who], selectors.EVENT_READ, who)
                data = b"message %d" % number
                owed[who] = len(data)
                sockets[who].sendall(data)
                take(0)
            while any(owed):
                take(LIMIT)
        print(f"answered {time.perf_counter() - began}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
