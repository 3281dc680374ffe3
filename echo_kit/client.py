"""`Client`: a named client that blocks, with a bound on every wait and an error for every way to get no answer."""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import time
from typing import TYPE_CHECKING

from .watch.events import PREVIEW, Address, Connection, EventLog, plain_address, preview, shown
from .watch.observation import Observation, observation_at
from .watch.sockets import Selector, reset_on_close
from .watch.text import cut, visible

if TYPE_CHECKING:
    from .server import Server

__all__ = ["Client", "EchoError", "NoReply", "Refused", "Reset", "ServerClosed"]

NAME, HOST = 40, 80  # characters of its name, and of a host, in what it says
_numbers = itertools.count(1)


class EchoError(OSError):
    """No answer; each subclass is one reason why."""


class NoReply(EchoError, TimeoutError):
    """The server is there, and no (or not the whole) answer came in time."""


class Refused(EchoError, ConnectionRefusedError):
    """Nobody listens at that address."""


class Reset(EchoError, ConnectionResetError):
    """The other side broke the connection off: bytes may be lost."""


class ServerClosed(EchoError, ConnectionAbortedError):
    """The server closed the connection in good order, or this client did."""


def address_of(server: Server | Address) -> Address:
    """Where clients connect to it: (host, port). Raises `TypeError` for what is neither a server nor an address."""
    address = getattr(server, "address", server)
    if isinstance(address, tuple) and len(address) >= 2 and isinstance(address[0], str) and isinstance(address[1], int):
        return address[:2]
    raise TypeError(
        f"a client needs a server that start() returned or an address like ('127.0.0.1', 8000), not {server!r}"
    )


class Client:
    """A TCP client that remembers what it has sent, so that `receive` knows what to wait for.

    server   what `start` returned, or an address (host, port)
    name     how every view calls this client, on the server's side too
    timeout  seconds that connecting may take

    Raises `Refused` and `NoReply` when the connection cannot be made. Use it in a `with`, or call `close`.
    """

    def __init__(self, server: Server | Address, name: str | None = None, timeout: float = 5.0) -> None:
        address = address_of(server)
        observation: Observation | None = getattr(server, "observation", None) or observation_at(address)
        self._begin(address, observation, f"client {next(_numbers)}" if name is None else str(name))
        began = self._log.clock()
        where = self._where()
        if not 0 <= address[1] <= 65535:  # the system would take it modulo 65,536
            raise EchoError(f"cannot connect to {where}: a port is a number from 0 to 65535")
        try:
            sock = socket.create_connection(self.address, timeout=timeout)
        except ConnectionRefusedError:
            raise Refused(f"nobody listens at {where}. Is the server running there?") from None
        except TimeoutError:
            raise NoReply(
                f"{where} did not answer within {timeout:g} s. Is the address right, its backlog full?"
            ) from None
        except ConnectionResetError:
            raise Reset(f"the server at {where} broke the connection off at once") from None
        except OSError as error:
            raise EchoError(f"cannot connect to {where}: {error.strerror or error}") from None
        except ValueError as error:  # no name of a host looks like that
            raise EchoError(f"cannot connect to {where}: {error}") from None
        self._connected(sock, began)

    @classmethod
    def of(cls, sock: socket.socket, observation: Observation, name: str, began: float) -> Client:
        """A client whose socket is connected already, by whoever could not wait for it: since `began`, in seconds of
        `time.perf_counter`, to the server that `observation` watches. Raises `OSError` when it is connected no longer.
        """
        client = cls.__new__(cls)
        client._begin(plain_address(sock.getpeername()), observation, name)
        client._connected(sock, began)
        return client

    def _begin(self, address: Address, observation: Observation | None, name: str) -> None:
        self.name = name
        self._called = cut(visible(name), NAME)
        self.address = address
        self.observation = observation
        self._log = observation.log if observation else EventLog(capacity=1)
        self._text_only = True  # all that is unanswered was sent as str
        self._kept = bytearray()  # came back, and receive() has not returned it; appended to in place
        self._finished = False
        self.ended: EchoError | None = None

    def _connected(self, sock: socket.socket, began: float) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.connection = Connection(plain_address(self.sock.getsockname()), name=self.name)
        if self.observation:
            self.observation.add_client(self.connection)
        self._log.add("connect", began, self.connection)

    # -- talking -----------------------------------------------------------------------------------------------------

    @property
    def unanswered(self) -> int:
        """Bytes that were sent and have not come back."""
        return max(0, self.connection.sent - self.connection.received)

    def send(self, message: str | bytes, timeout: float = 5.0) -> None:
        """Send `message`, text as UTF-8; the echo of earlier bytes is taken in meanwhile, so that none waits for ever.

        Raises `NoReply` when the server does not take all of it within `timeout` seconds.
        """
        if not isinstance(message, str | bytes | bytearray | memoryview):
            raise TypeError(f"send() takes text or bytes, not {message!r}")
        data = message.encode("utf-8", "surrogateescape") if isinstance(message, str) else bytes(message)
        if self.connection.closed:
            raise ServerClosed(f"{self._called} has closed its connection; make a new Client")
        self._may_send()
        if not self.unanswered and not self._kept:
            self._text_only = True
        self._text_only = self._text_only and isinstance(message, str)
        deadline = time.monotonic() + timeout
        began = self._log.clock()
        left = memoryview(data)
        try:
            while left:
                if not self.wait(deadline, to_write=True):
                    raise NoReply(
                        f"the server at {self._where()} took {len(data) - len(left):,} of the {len(data):,} bytes "
                        f"that {self._called} sends, and no more within {timeout:g} s"
                    )
                if self.ended:
                    raise self.ended.with_traceback(None)
                left = left[self._hand_over(left) :]
        finally:  # also when only a part of it went
            self._note_sent(began, data, len(data) - len(left))

    def offer(self, data: bytes | memoryview) -> int:
        """Send as many bytes of `data` as the system takes without waiting, and return how many: 0, if it is full.

        With `selectors`, this client is writable when it would take some. Raises as `send` does when the connection has
        ended.
        """
        if self.ended:
            raise self.ended.with_traceback(None)
        self._may_send()
        self._text_only = False
        began = self._log.clock()
        count = self._hand_over(data)
        self._note_sent(began, data, count)
        return count

    def receive(self, timeout: float = 5.0, size: int | None = None) -> str | bytes:
        """Wait until all that was sent has come back, and return it: text, or bytes if bytes were sent.

        size  wait for that many bytes instead (for a server that answers with more or less than it gets)

        Raises `NoReply` after `timeout` seconds; what came until then is kept for the next call. `Reset` and
        `ServerClosed` when the connection ended first. With nothing sent, it waits for whatever comes.
        """
        deadline = time.monotonic() + timeout
        wanted = size if size is not None else max(1, len(self._kept) + self.unanswered)
        while len(self._kept) < wanted:
            came = f"{len(self._kept)} of {wanted} bytes" if self._kept else "nothing"
            if self.ended:
                raise type(self.ended)(f"{self.ended}; {came} came back" if self.unanswered else str(self.ended))
            if not self.wait(deadline, to_write=False):
                owed = "" if self.unanswered or size else ": all that it has sent is answered"
                raise NoReply(f"{self._called} waited {timeout:g} s for an answer, and {came} came back{owed}")
        data = self._take(len(self._kept) if size is None else size)
        return data.decode("utf-8", "backslashreplace") if self._text_only else data

    def pending(self) -> bytes:
        """Take what has come without waiting for more. Raises as `receive` does when the connection has ended."""
        self._take_in()
        data = self._take(len(self._kept))
        if not data and self.ended:
            raise self.ended.with_traceback(None)
        return data

    def fileno(self) -> int:
        """For `selectors`: readable when `pending` has something to say."""
        return self.sock.fileno()

    def finish(self) -> None:
        """Say that nothing more will be sent, and go on reading: a half-close, `shutdown(SHUT_WR)`.

        To the server it is the end of file: its `recv` returns b"". A server that reads until then, and answers after
        it, answers now; `receive` waits for it as before. `close` would throw the answer away. Calling it again does
        nothing, and `send` raises `ServerClosed` from now on.
        """
        if self.connection.closed or self._finished:
            return
        began = self._log.clock()
        self._finished = True
        with contextlib.suppress(OSError):  # the connection was reset: `receive` says so
            self.sock.shutdown(socket.SHUT_WR)
            self._log.add("client shutdown", began, self.connection)

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Hang up in good order. Calling it again does nothing."""
        if not self.connection.closed:
            began = self._log.clock()
            self.connection.closed = True
            self.sock.close()
            self.ended = self.ended or ServerClosed(f"{self._called} has closed its connection")
            self._log.add("client close", began, self.connection)

    def vanish(self) -> None:
        """Break the connection off as a crash would: the server gets a reset, not an end of file."""
        if not self.connection.closed:
            reset_on_close(self.sock)
            self.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self._called} {'closed' if self.connection.closed else 'connected'} to {self._where()}>"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _where(self) -> str:
        return shown((cut(visible(self.address[0]), HOST), self.address[1]))

    def wait(self, deadline: float, to_write: bool) -> bool:
        """Wait until bytes came (they are taken in) or, if asked, can be sent. False: the time is over."""
        with Selector() as selector:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if to_write else 0)
            try:
                selector.register(self.sock, events)
            except ValueError:
                self.ended = self.ended or ServerClosed(f"somebody has closed the socket of {self._called}")
                return True
            ready = selector.select(max(0.0, deadline - time.monotonic()))
        for _, mask in ready:
            if mask & selectors.EVENT_READ:
                self._take_in()
        return bool(ready)

    def _may_send(self) -> None:
        if self._finished:
            raise ServerClosed(f"{self._called} has said by finish() that it sends nothing more; make a new Client")

    def _take(self, size: int) -> bytes:
        data = bytes(memoryview(self._kept)[:size])
        del self._kept[:size]
        return data

    def _hand_over(self, data: bytes | memoryview) -> int:
        try:
            count = self.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._end(error) from None
        self.connection.sent += count
        return count

    def _note_sent(self, began: float, data: bytes | memoryview, size: int) -> None:
        if size:
            self.connection.messages += 1
            self._log.add("client send", began, self.connection, size=size, data=bytes(data[: min(size, PREVIEW)]))

    def _take_in(self) -> None:
        if self.ended:
            return
        began = self._log.clock()
        try:
            data = self.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        if not data:
            self.ended = ServerClosed(f"the server at {self._where()} closed the connection")
        self._kept += data
        self.connection.received += len(data)
        self._log.add("client recv", began, self.connection, size=len(data), data=preview(data))

    def _end(self, error: OSError) -> EchoError:
        self.ended = self.ended or Reset(f"the connection to {self._where()} was reset by the server")
        self._log.add("client recv", self._log.clock(), self.connection, error=type(error).__name__)
        return self.ended
