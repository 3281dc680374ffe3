"""`Classroom`: a class joins a server with its phones, votes, and sees the server change.

    room = echo_kit.Classroom(server, serve_many)   # the address, large, and its QR code
    room.ask(prediction)                            # the first vote; asked again, the second one
    room.show()                                     # its bars, which are hidden until then
    room.change(serve_many)                         # another function at the same port
    room.truth(value)                               # the option that came true
    room.results                                    # a table; .save("votes.csv")

The phones are the business of `room.py`, the votes that of `votes.py`.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import traitlets

from ..server import Server, newest
from ..watch.reasons import name_of
from ..watch.text import cut, in_html, visible
from . import board, rehearsal
from .crowd import Phone
from .hands import Commands, PanelWithHands
from .panel import Bundle, InOutputs, script, style
from .prediction import Prediction
from .rehearsal import Rehearsal
from .room import Room
from .votes import Ballot, Results

try:
    import segno
except ModuleNotFoundError:  # the address stands there in text
    segno = None  # type: ignore[assignment]

TICK = 0.1  # seconds from one look to the next, while somebody looks or votes
PHONES = 0.5  # seconds after which the phones are listed anew
LEASE = 5.0  # seconds for which a page that has said that it looks is believed
ROWS = 50  # phones that are listed; those with trouble come first, and one can look for a name
NAME_LETTERS = 40  # of a server's or a function's name
NOTE_LETTERS = 500  # of what went wrong
PORT = "{} listens at port {} now: the earlier port could not be bound again. SO_REUSEADDR makes that possible."

# By what the page asks for: what it shows meanwhile, and the call. A text that this returns is shown.
COMMANDS: Commands = {
    "vote": ("", lambda room, _: room._open_or_close()),
    "again": ("", lambda room, _: room.ask(room._now_asked()[1])),
    "show": ("", lambda room, _: room.show()),
    "change": ("the server changes", lambda room, _: room._change(None)),
    "join": ("", lambda room, _: room._join()),
    "out": ("", lambda room, message: room._opened().show_out(_number(message, "phone"))),
    "out by name": ("", lambda room, message: room.show_out(str(message.get("name", "")))),
    "rehearse": ("students come", lambda room, message: room.rehearse(_number(message, "students")) and ""),
    "stop": ("students leave", lambda room, _: room._rehearsal and room._rehearsal.stop()),
}


class Classroom(PanelWithHands):
    """A class at one server: phones join it at an address, as real clients.

    server      what `start` returned; when its cell is run again, the classroom goes on with the new one
    serve_many  another function that serves: a button changes to it, and back
    host        "127.0.0.1": only this machine; "0.0.0.0": the room's network, too
    port        of the page for phones; a free one, unless it is given

    A newer classroom at a server of that name takes the place of the earlier one, with its phones if host and port are
    the same, and with its votes if the server is the same, too. `close` removes it with all its phones; the server runs
    on. Raises `TypeError` for what is no server or no function, and `OSError` where nobody can listen at that host and
    port.
    """

    _esm = script("classroom")
    _css = style("classroom")
    name = traitlets.Unicode().tag(sync=True)
    commands = COMMANDS
    rank = 1  # so that the stage's last picture still shows the phones

    def __init__(
        self,
        server: Server,
        serve_many: Callable[..., object] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        if not isinstance(server, Server):
            raise TypeError(f"Classroom() needs a server that start() returned, not {cut(visible(repr(server)), 80)}")
        self.server = newest(server.name) or server
        self._other = serve_many if serve_many is None else _function(serve_many)
        self._room: Room | None = None
        self._ballots: list[Ballot] = []
        self._asked: Prediction | None = None  # the question of the newest ballot
        self._joins = False  # whether the stage shows the address, in the place of the ballot
        self._rehearsal: Rehearsal | None = None
        self._find = ""  # in the phones' names
        self._told: dict[str, Any] = {}  # what the page knows
        self._hello = False
        self._looked_at_until = self._listed = 0.0
        self._busy = threading.RLock()  # one at a time changes the ballots and the server: a cell, or a button
        self._at, self._first = (host, port), self.server
        super().__init__(server.name, name=cut(visible(server.name), NAME_LETTERS))
        try:
            self._room = self._room or Room(self.server, host, port)
        except BaseException:
            self.close()
            raise
        self.url, self._qr = self._room.url, _qr_code(self._room.url)
        if self._ballots:  # of the earlier one: the votes go on
            self._begin()

    def _succeed(self, earlier: InOutputs) -> None:
        """The cell is run again: the phones stay, unless the page is to listen elsewhere; and the votes, unless the
        server's cell was run again, too: that is another lesson.
        """
        assert isinstance(earlier, Classroom)
        with earlier._busy:
            if earlier._at != self._at or earlier._room is None or earlier._over:
                return
            self._room, earlier._room = earlier._room, None
            self._rehearsal, earlier._rehearsal = earlier._rehearsal, None
            if earlier._first is self._first:
                self._ballots, self._asked, self._joins = earlier._ballots, earlier._asked, earlier._joins
            else:
                self._room.ask(None)
                self._pin()

    # -- what a cell calls ---------------------------------------------------------------------------------------------

    def ask(self, prediction: Prediction) -> None:
        """Put the question of `echo_kit.predict` on all phones: the first vote. Asked again, it is the second vote,
        beside the first; and when both have been shown, or the truth is told, a new ballot.
        """
        if not isinstance(prediction, Prediction):
            shown = cut(visible(repr(prediction)), 80)
            raise TypeError(f"ask() needs the question that echo_kit.predict(…) returned, not {shown}")
        with self._busy:
            now = self._ballots[-1] if self._ballots else None
            question, options = prediction.question, tuple(prediction.options)
            if now is not None and not now.over and (now.question, now.options) == (question, options):
                now.again()
            else:
                if now is not None:
                    now.set_open(False)
                self._ballots.append(Ballot(question, options))
            self._asked, self._joins = prediction, False
            self._publish()

    def show(self) -> None:
        """Close the vote and show its bars: here, on the stage, and on the phones."""
        with self._busy:
            self._now_asked()[0].show()
            self._publish()

    def truth(self, value: Any) -> None:
        """Show beside the votes which option came true: the one that stands for `value`, as in `compare`."""
        with self._busy:
            ballot, prediction = self._now_asked()
            ballot.tell(*prediction.judged(value))
            self._publish()

    def change(self, serve: Callable[..., object] | None = None) -> None:
        """Let another function serve at the same port; without one, the other of the two that it was given.

        The phones connect again by themselves, and send again what had no answer. Raises what `start` raises; then the
        earlier function serves again. Where the port cannot be bound again it is another one, and a warning says so.
        """
        moved = self._change(serve)
        if moved:
            warnings.warn(moved, RuntimeWarning, stacklevel=2)

    def show_out(self, name: str) -> None:
        """End the connection of the phone, or of the other client, that has this name. Raises `LookupError`."""
        room = self._opened()
        phones = [phone.id for phone in room.phones() if phone.name == name]
        if not phones:
            room.show_out_client(name)
        for phone in phones:
            room.show_out(phone)

    def rehearse(self, n: int = 30, seconds: float = 20) -> Rehearsal:
        """Simulate a class of `n` students (1 to 1,000) from other processes, in the background, for so many seconds.

        The report that it returns shows itself; `.wait()` waits for its end, `.stop()` ends it. A new rehearsal ends
        the earlier one. Its votes count like those of phones.
        """
        with self._busy:
            if self._rehearsal is not None:
                self._rehearsal.stop()
            self._rehearsal = Rehearsal(self._opened().rehearsal_url, n, seconds)
            return self._rehearsal

    @property
    def results(self) -> Results:
        """All votes so far as a table, those too that are still hidden. `.to_csv()`, `.save("votes.csv")`"""
        return Results(self._ballots)

    def close(self) -> None:
        """Remove it, with all its phones; calling it again does nothing. The server runs on."""
        if self.comm is None:
            return
        self._end()
        if self._rehearsal is not None:
            self._rehearsal.stop()
        if self._room is not None:
            self._room.close()
            board.pin(self.server.name, None)
        super().close()

    # -- what it needs for that ----------------------------------------------------------------------------------------

    def _opened(self) -> Room:
        """The room, with the server that runs under its name now."""
        if self._room is None or self._over:
            raise RuntimeError(f"the classroom of {self.name} is closed: run its cell again")
        server = newest(self.server.name)
        if server is not None and server is not self.server:  # its cell was run again
            self.server = server  # the phones go there by themselves
        return self._room

    def _now_asked(self) -> tuple[Ballot, Prediction]:
        if self._asked is None:
            raise RuntimeError("nothing has been asked yet: room.ask(prediction) puts a question on the phones")
        return self._ballots[-1], self._asked

    def _change(self, serve: Callable[..., object] | None) -> str:
        """A sentence if the port is another one now."""
        if serve is None and self._other is None:
            raise TypeError("change() needs a function that serves, like room.change(serve_many)")
        with self._busy:
            room, new = self._opened(), _function(serve or self._other)
            before, port = self.server.serves, self.server.address[1]
            room.changing()
            try:
                self.server.replace(new)
                self._other = before
            except BaseException:
                with contextlib.suppress(Exception):  # the class goes on with the server that it had
                    if not self.server.running:
                        self.server.restart()
                raise
            finally:
                room.changed(self.server)
        now = self.server.address[1]
        return "" if now == port else PORT.format(visible(name_of(new)), now)

    def _publish(self) -> None:
        """Tell the phones, the stage and the page of the ballot."""
        self._opened().ask(self._ballots[-1] if self._ballots else None)
        self._pin()
        self._begin()

    def _pin(self) -> None:
        phones = len(self._opened().phones())
        shown: dict[str, Any] | None = None
        if self._joins:
            shown = {"title": f"Join: {self.url}", "lines": [self._opened().others], "qr": self._qr}
            shown["lines"] = [each for each in shown["lines"] if each]
        elif self._ballots:
            shown = self._ballots[-1].board(phones)
        if shown != board.pinned(self.server.name):
            board.pin(self.server.name, shown)

    # -- messages of the page ------------------------------------------------------------------------------------------

    def _do(self, message: dict[str, Any]) -> None:
        what = message.get("do")
        if what == "hello":
            self._hello = True
        elif what == "find":
            self._find, self._listed = str(message.get("name", ""))[:NAME_LETTERS].casefold(), 0.0
        elif what != "look" and not self._ask(message):
            return
        self._looked_at_until = time.monotonic() + LEASE  # whoever clicks looks, too
        self._begin()

    # -- what only the buttons do -------------------------------------------------------------------------------------

    def _open_or_close(self) -> None:
        with self._busy:
            ballot, _ = self._now_asked()
            ballot.set_open(not ballot.open)
            self._publish()

    def _join(self) -> None:
        with self._busy:
            self._joins = not self._joins
            self._pin()

    # -- the painter's thread ------------------------------------------------------------------------------------------

    def _paint(self) -> float | None:
        now = time.monotonic()
        looks = now <= self._looked_at_until
        voting = bool(self._ballots) and self._ballots[-1].open
        if voting and self._busy.acquire(blocking=False):  # else a button or a cell is at it
            try:
                self._pin()
            finally:
                self._busy.release()
        if looks:
            self._tell(now)
        return TICK if looks or voting else None

    def _tell(self, now: float) -> None:
        """Send the page what has changed, or all of it if it has asked."""
        hello, self._hello = self._hello, False
        picture = self._picture()
        if hello or picture["done"] != self._told.get("done") or now - self._listed > PHONES:
            self._listed = now
            picture |= self._list()
        news = {name: value for name, value in picture.items() if hello or self._told.get(name) != value}
        self._told |= picture
        if news:
            with contextlib.suppress(AttributeError):  # closed meanwhile
                self.send({"news": news})

    def _picture(self) -> dict[str, Any]:
        room, ballot = self._opened(), self._ballots[-1] if self._ballots else None
        serves = "" if self.server.serves is None else name_of(self.server.serves)
        return {
            "address": {
                "url": self.url,
                "qr": self._qr,
                "notes": [each for each in (room.others, *room.notes) if each],
            },
            "serves": cut(visible(serves), NAME_LETTERS) + ("" if self.server.running else ": it does not run"),
            "other": "" if self._other is None else cut(visible(name_of(self._other)), NAME_LETTERS),
            "doing": self._doing,
            "done": self._done,
            "note": cut(self._note, NOTE_LETTERS),
            "joins": self._joins,
            "ballot": ballot and ballot.board(self._told.get("phones", 0)) | {"open": ballot.open, "over": ballot.over},
            "rehearsal": rehearsal.told(self._rehearsal),
        }

    def _list(self) -> dict[str, Any]:
        phones = self._opened().phones()
        found = sorted((each for each in phones if self._find in each.name.casefold()), key=_order)
        return {"phones": len(phones), "found": len(found), "rows": [_row(each) for each in found[:ROWS]]}

    # -- how it shows itself -------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Classroom of {self.name}"

    def __str__(self) -> str:
        if self._room is None or self._over:
            return f"{self!r}, closed"
        phones = len(self._room.phones())
        lines = [repr(self), f"Join: {self.url}", self._room.others, *self._room.notes, f"{phones} joined"]
        return "\n".join(filter(None, lines))

    def _still(self) -> Bundle:
        words = "phones join it at an address that is here while the kernel runs."
        data = {"text/plain": repr(self), "text/html": f"<p><b>{in_html(repr(self))}</b>: {words}</p>"}
        seen = Results([each for each in self._ballots if each.seen])
        if seen.rows and self._over:  # what nobody has seen yet stays hidden in a file, too
            data["text/plain"] += f"\n{seen!r}"
            data["text/html"] += seen._repr_html_()
        return data, {}


def _number(message: dict[str, Any], name: str) -> int:
    number = message.get(name)
    if type(number) is not int:
        raise ValueError(f"{name} must be a whole number")
    return number


def _function(serve: Any) -> Callable[..., object]:
    if not callable(serve):
        raise TypeError(f"a classroom changes to a function that serves, not to {cut(visible(repr(serve)), 80)}")
    return serve  # type: ignore[no-any-return]


def _order(phone: Phone) -> tuple[bool, int]:
    """Those with trouble first, then the newest."""
    return not phone.trouble, -phone.id


def _row(phone: Phone) -> list[Any]:
    served = f"{phone.state} by {phone.thread}" if phone.thread else phone.state
    words = f"{served}, {phone.answered} of {phone.sent} answered" if phone.sent else served
    return [phone.id, phone.name, words, phone.trouble]


def _qr_code(url: str) -> str:
    """A data: URI of an SVG picture; "" without segno."""
    return "" if segno is None else segno.make(url, error="m", micro=False).svg_data_uri(border=4, light="#fff")
