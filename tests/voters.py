"""A phone without a browser: its side of the WebSocket, in plain blocking calls, each with a bound."""

import base64
import contextlib
import json
import os
import secrets
import socket
import struct
import time
from urllib.parse import urlsplit

LIMIT = 20  # seconds that anything may take before the test fails


class Phone:
    """One that has opened the page at `url`. `said` is all that the room has told it. Use it in a `with`."""

    def __init__(self, url, name="", seat=None):
        parts = urlsplit(url)
        self.seat, self.said, self._rest, self._number = seat or secrets.token_hex(8), [], b"", 0
        self._sock = socket.create_connection((parts.hostname, parts.port), timeout=LIMIT)
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET /ws?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        )
        self._sock.sendall(f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        while b"\r\n\r\n" not in self._rest:
            self._more()
        answer, _, self._rest = self._rest.partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101"), answer
        if name:
            self.do("join", name=name, seat=self.seat)
            self.name = self.until(lambda message: "you" in message)["you"]["name"]

    def _more(self):
        data = self._sock.recv(65536)
        assert data, ("the room has hung up", self.said[-5:])
        self._rest += data

    def do(self, what, **more):
        data, mask = json.dumps({"do": what, **more}).encode(), os.urandom(4)
        size = bytes([128 | len(data)]) if len(data) < 126 else struct.pack("!BH", 254, len(data))
        self._sock.sendall(b"\x81" + size + mask + bytes(each ^ mask[i % 4] for i, each in enumerate(data)))

    def take(self):
        """The next message of the room."""
        while True:
            if len(self._rest) >= 4:
                size, head = self._rest[1] & 127, 2
                if size == 126:
                    size, head = struct.unpack("!H", self._rest[2:4])[0], 4
                if len(self._rest) >= head + size:
                    kind, data = self._rest[0] & 15, self._rest[head : head + size]
                    self._rest = self._rest[head + size :]
                    assert kind != 8, ("the room has closed the page", self.said[-5:])
                    if kind == 1:
                        self.said.append(json.loads(data))
                        return self.said[-1]
                    continue  # a ping: no room waits that long for its answer here
            self._more()

    def until(self, condition):
        """The first message from now on that fulfils it."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            message = self.take()
            if condition(message):
                return message
        raise AssertionError(self.said[-5:])

    def is_(self, state):
        return self.until(lambda message: message.get("state") == state)

    def ballot(self, **facts):
        """Wait until the phone shows a ballot of which this is true."""
        return self.until(lambda message: "ballot" in message and (message["ballot"] or {}).items() >= facts.items())[
            "ballot"
        ]

    def vote(self, option):
        """For the newest ballot."""
        ballot = next(each["ballot"] for each in reversed(self.said) if "ballot" in each)
        self.do("vote", ballot=ballot["id"], option=option)

    def say(self, text):
        self._number += 1
        self.do("say", id=self._number, text=text)
        return self._number

    def hears(self, number):
        """Wait for the echo of that message."""
        return self.until(lambda message: message.get("echo") == number)["text"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._sock.close()
