"""Simulated students, who use the phones' page protocol as a page does. What `rehearsal.py` runs in other processes.

    python -m echo_kit.live.students URL SECONDS GRACE RAMP FIRST LAST

runs the students with these numbers, and tells how they fare, a line of JSON every half second. They pause as people.
Of ten, one only connects, one leaves without goodbye, one loads the page again; the others type, vote, and leave when
they have all their echoes. The end of the standard input ends them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketError, websocket_connect

from ..watch.sockets import reset_on_close

TELL = 0.5  # seconds from one line to the next
PAUSES = (0.7, 4.0)  # seconds from one message of a person to the next; in a short rehearsal less
UNANSWERED = 3  # messages after which a person waits
CONNECT, AGAIN = 60.0, 1.0  # seconds that this may take, and after which it is tried again
WORDS = ("hello", "is anybody there?", "my line", "ça va?", "1 2 3", "why does he wait?", "日本", "ok")
KINDS = {3: "only connected", 6: "vanished", 9: "reloaded"}  # by the last digit of the student's number


class Crowd:
    """Students with these numbers, at the room with this URL. They come within `ramp` seconds."""

    def __init__(self, url: str, seconds: float, grace: float, ramp: float, numbers: range) -> None:
        parts = urlsplit(url)
        page = parts.path.rsplit("/", 1)[0]
        self.url = f"ws://{parts.netloc}{page}/ws?{parts.query}"
        self.begin = time.monotonic()
        self.end = self.begin + seconds
        self.limit = self.end + grace  # until then they wait for what is still owed
        self.seconds = seconds
        self.ramp = ramp
        self.over = asyncio.Event()  # somebody has stopped it
        self.counts: Counter[str] = Counter()
        self.times: list[float] = []  # of echoes, since they were told last
        self.students = [Student(self, number) for number in numbers]

    async def run(self) -> None:
        telling = asyncio.create_task(self.tell_all())
        await asyncio.gather(*(each.live() for each in self.students))
        telling.cancel()
        self.tell()

    async def tell_all(self) -> None:
        while True:
            await asyncio.sleep(TELL)
            self.tell()

    def tell(self) -> None:
        times, self.times = self.times, []
        print(json.dumps({"counts": self.counts, "times": [round(each, 1) for each in times]}), flush=True)

    async def pause(self, seconds: float) -> bool:
        """Whether it goes on after that time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)
        return not self.over.is_set()


class Student:
    """One of them."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd, self.number = crowd, number
        self.kind = KINDS.get(number % 10, "talks")
        self.chance = random.Random(number)
        self.seat = f"rehearsal-{number:04}-{random.SystemRandom().randrange(10**9)}"
        self.owed: dict[int, tuple[str, float]] = {}  # by id, what was sent and has no echo, and when
        self.answered = asyncio.Event()  # something has come
        self.voting: set[asyncio.Task[None]] = set()
        self.voted = 0  # id of the ballot
        self.page: WebSocketClientConnection | None = None
        self.reading: asyncio.Task[None] | None = None

    async def live(self) -> None:
        crowd = self.crowd
        if not await crowd.pause(self.chance.uniform(0, crowd.ramp)):
            return
        try:
            await self.open()
            crowd.counts["connected"] += 1
            await self.stay()
        except Exception:  # the others go on, whatever it is
            crowd.counts["refused"] += 1
        finally:
            for each in self.voting:
                each.cancel()
            await self.close()
            crowd.counts["lost"] += len(self.owed)

    async def open(self) -> None:
        request = HTTPRequest(self.crowd.url, connect_timeout=CONNECT, request_timeout=CONNECT)
        while self.page is None:
            try:
                self.page = await websocket_connect(request)
            except Exception:  # the page tries again, too
                if time.monotonic() > self.crowd.end or not await self.crowd.pause(AGAIN):
                    raise
        self.reading = asyncio.create_task(self.read(self.page))
        self.say({"do": "join", "name": f"student {self.number + 1}", "seat": self.seat})

    def say(self, message: dict[str, Any]) -> None:
        if self.page is not None:
            with contextlib.suppress(WebSocketError):  # the room has hung up: what is owed gets lost
                self.page.write_message(json.dumps(message))

    async def stay(self) -> None:
        crowd, counts = self.crowd, self.crowd.counts
        turns = (
            crowd.begin + self.chance.uniform(0.3, 0.6) * crowd.seconds
        )  # when one vanishes, or loads the page again
        longest = max(PAUSES[0], min(PAUSES[1], crowd.seconds / 5))
        number = 0
        while (left := crowd.end - time.monotonic()) > 0 and not crowd.over.is_set():
            if await crowd.pause(min(left, self.chance.uniform(PAUSES[0], longest))) and self.kind != "only connected":
                if time.monotonic() > turns and await self.turn():
                    return
                if len(self.owed) < UNANSWERED:
                    number += 1
                    text = f"{self.chance.choice(WORDS)} {self.number}.{number}"
                    self.owed[number] = text, time.perf_counter()
                    counts["messages"] += 1
                    self.say({"do": "say", "id": number, "text": text})
        counts["only connected"] += self.kind == "only connected"
        while self.owed and time.monotonic() < crowd.limit and not crowd.over.is_set():
            self.answered.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.answered.wait(), 0.5)
        self.say({"do": "leave"})

    async def turn(self) -> bool:
        """What some do in the middle: leave without goodbye (True: it is over), or load the page again."""
        counts = self.crowd.counts
        if self.kind == "vanished":
            counts["vanished"] += 1
            counts["messages"] -= len(self.owed)  # nobody waits for these any more
            self.owed.clear()
            self.vanish()
            return True
        if self.kind == "reloaded" and not self.owed:
            counts["reloaded"] += 1
            self.kind = "talks"
            await self.close()
            await self.open()
        return False

    async def read(self, page: WebSocketClientConnection) -> None:
        while (text := await page.read_message()) is not None:
            message = json.loads(text)
            if "echo" in message:
                self.hear(message)
            ballot = message.get("ballot")
            if ballot and ballot["open"] and ballot["chosen"] is None and ballot["id"] != self.voted:
                self.voted = ballot["id"]
                self.voting.add(asyncio.create_task(self.vote(ballot)))

    def hear(self, message: dict[str, Any]) -> None:
        counts = self.crowd.counts
        sent, began = self.owed.pop(message["echo"], (None, 0.0))
        if sent == message["text"]:
            counts["right"] += 1
            self.crowd.times.append((time.perf_counter() - began) * 1000)
        else:
            counts["wrong"] += 1
        self.answered.set()

    async def vote(self, ballot: dict[str, Any]) -> None:
        if self.kind != "only connected" and await self.crowd.pause(self.chance.uniform(0.5, 5)):
            option = self.chance.randrange(len(ballot["options"]))
            self.say({"do": "vote", "ballot": ballot["id"], "option": option})
            self.crowd.counts["votes"] += 1

    def vanish(self) -> None:
        """As a phone does whose battery is empty, or whose program crashes: a reset, and no goodbye."""
        page, self.page = self.page, None
        stream = page.protocol.stream if page is not None and page.protocol is not None else None
        if stream is not None:
            reset_on_close(stream.socket)
            stream.close()

    async def close(self) -> None:
        if self.page is not None:
            self.page.close()
            self.page = None
        if self.reading is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.reading, 5)
            self.reading = None


async def main(url: str, seconds: float, grace: float, ramp: float, numbers: range) -> None:
    crowd, loop = Crowd(url, seconds, grace, ramp, numbers), asyncio.get_running_loop()

    def listen() -> None:
        while os.read(0, 4096):  # not sys.stdin: a thread that waits there has a lock that the end of Python needs
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(crowd.over.set)

    threading.Thread(target=listen, daemon=True).start()
    await crowd.run()


if __name__ == "__main__":
    _, address, seconds, grace, ramp, first, last = sys.argv
    asyncio.run(main(address, float(seconds), float(grace), float(ramp), range(int(first), int(last))))
