"""Phones of a room without a browser: `Phone` speaks what the page speaks. Every wait has the bound `LIMIT`."""

import contextlib
import json
import secrets
import socket
import time

import websocket

LIMIT = 20


class Phone:
    """A page that has joined under `name`, from the address `source` of this machine."""

    def __init__(self, url, name="alice", seat=None, source="127.0.0.1", join=True):
        self.seat = seat or secrets.token_hex(8)
        self.heard = []
        host, port = url.split("/")[2].split(":")
        sock = socket.create_connection((host, int(port)), LIMIT, source_address=(source, 0))
        try:
            self.socket = websocket.create_connection(url.replace("http", "ws").replace("/?", "/ws?"), socket=sock)
        except BaseException:
            sock.close()
            raise
        self.socket.settimeout(LIMIT)
        if join:
            self.send(do="join", name=name, seat=self.seat)

    def send(self, **message):
        self.socket.send(json.dumps(message))

    def say(self, number, text):
        self.send(do="say", id=number, text=text)

    def until(self, **wanted):
        """Read until a message has all of this in it; that message. A state may be there already."""
        states = [each for each in self.heard if "state" in each]
        if "state" in wanted and states and wanted.items() <= states[-1].items():
            return states[-1]
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:  # a ping comes within that time
            message = self.take()
            if message is None:
                break
            if wanted.items() <= message.items():
                return message
        raise AssertionError(f"waited for {wanted}, heard {self.heard}")

    def take(self):
        """The next message; None when the room has closed the connection."""
        while True:
            kind, data = self.socket.recv_data(control_frame=True)
            if kind == websocket.ABNF.OPCODE_TEXT:
                self.heard.append(json.loads(data))
                return self.heard[-1]
            if kind == websocket.ABNF.OPCODE_PING:
                self.socket.pong(data)
            elif kind == websocket.ABNF.OPCODE_CLOSE:
                return None

    def echo(self, number, text=None):
        """Say something, and wait until it comes back; after how many seconds."""
        began = time.perf_counter()
        self.say(number, text or f"message {number}")
        assert self.until(echo=number)["text"] == (text or f"message {number}")
        return time.perf_counter() - began

    def is_let_go(self):
        """The room has closed the connection; the words with which it did."""
        words = ""
        with contextlib.suppress(websocket.WebSocketConnectionClosedException, ConnectionError):  # no timeout
            while data := self.socket.recv():
                message = json.loads(data)
                words = message["words"] if message.get("state") == "out" else words
        return words

    def close(self):
        """The page is gone, without a word."""
        self.socket.shutdown()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Voter(Phone):
    """One that has joined when it is made, that numbers what it types, and votes."""

    def __init__(self, url, name):
        super().__init__(url, name)
        self.name, self._number = self.until_it_has("you")["name"], 0

    def until_it_has(self, what):
        """Read until a message has this; its value. What came before does not count."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            message = self.take()
            assert message is not None, f"waited for {what}, heard {self.heard}"
            if what in message:
                return message[what]
        raise AssertionError(f"waited for {what}, heard {self.heard}")

    def types(self, text):
        """The number of the message."""
        self._number += 1
        self.say(self._number, text)
        return self._number

    def hears(self, number):
        """Wait for the echo of that message; its text."""
        return self.until(echo=number)["text"]

    def ballot(self, **facts):
        """Wait until it shows a ballot of which this is true."""
        while True:
            ballot = self.until_it_has("ballot")
            if ballot is not None and facts.items() <= ballot.items():
                return ballot

    def vote(self, option):
        """For the newest ballot."""
        ballot = next(each["ballot"] for each in reversed(self.heard) if each.get("ballot"))
        self.send(do="vote", ballot=ballot["id"], option=option)
