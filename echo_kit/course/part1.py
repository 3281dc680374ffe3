"""What the exercises of Part 1 require."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from ..client import Client
from ..watch.text import listed
from .called import result_of
from .terminal import SOON, Terminal
from .trial import ACCEPT_LOOP, PATIENCE, RECV_LOOP, Guest, Trial

LIMIT = 0.5  # seconds that exercise 1.7 gives a silent client,
LESS, MORE = 0.05, 0.2  # and by how many more or less a server may miss it, as the exercise says
TIMES = 3  # clients, one of whom must see that: on a busy machine everything may come late
FEW = 8  # seconds in which the function of 1.6 must return
ODD = b" \tz\xff\xc3(\r\n "
TWICE = "alice sends white space, z, \\r and bytes that are not text, and then the same once more"
BLANK = b" \n"
SPACE = "alice sends a space and the end of a line, and nothing else"
AS_THEY_ARE = "the bytes are sent as they have come, however they look: no decode, no strip"
LONG = "alice sends 3,000 bytes at once"
WHOLE = "a call may take a part of the bytes only || a loop around recv; and sendall, not send"
QUIET = "it goes on until the client hangs up, however long the client says nothing"
ONE = (
    "one client at a time: the next one waits until this one has left || accept, then its whole conversation; no thread"
)
ANEW = f"the time limit is {LIMIT:g} s, and begins anew each time bytes arrive: it is one for each recv"
MANY_TIMES = "one client may send many times, and is answered each time || a loop around recv"


def from_memory(trial: Trial) -> None:
    alice = trial.tries('alice connects, and sends "hello"').guest("alice")
    alice.gets("hello", "hello", "send back the bytes that came || recv, then sendall with the same bytes")
    alice.tries('alice sends "how are you?" on the same connection')
    alice.gets("how are you?", "how are you?", MANY_TIMES)
    _echoes_everything(alice)
    bob = trial.tries("bob comes while alice is there, then alice leaves").guest("bob").says("hi")
    _waits(bob, alice)
    bob.hears("hi", "when alice has left, the next client comes: that is a loop, too || a loop around accept")
    bob.tries("bob leaves, and carol comes").leaves()
    carol = trial.guest("carol").gets("hello", "hello", ACCEPT_LOOP)
    carol.tries("carol leaves, too").leaves()
    trial.settle()
    expected = "your server hangs up, too: none of its connections is open"
    has_open(trial, 0, expected, "when a client has left, hang up, too || conn.close(), when recv returns no bytes")
    _more_come(trial).finishes()


def _echoes_everything(alice: Guest) -> None:
    """What looks like text and what does not, the same twice, and more than one call may take."""
    alice.tries(TWICE).gets(ODD, ODD, AS_THEY_ARE).gets(ODD, ODD, "the same bytes may come again")
    alice.tries(SPACE).gets(BLANK, BLANK, AS_THEY_ARE)
    long = alice.tries(LONG).trial.letters(3000)
    alice.hurries().gets(long, long, WHOLE)


def _waits(bob: Guest, alice: Guest) -> None:
    """As long as alice is there, silent for a while; then she leaves."""
    waits = f"{bob.name} waits until {alice.name} has left"
    bob.hears_nothing(ONE, waits)
    alice.hurries().gets("still here", "still here", MANY_TIMES).is_silent(QUIET)
    bob.hears_nothing(ONE, waits)
    alice.leaves()


def _more_come(trial: Trial) -> Guest:
    """Ten more, one after the other; the last of them is still there."""
    trial.tries("ten more come and go, one after the other")
    for number in range(10):
        guest = trial.guest("zoe", ACCEPT_LOOP).echoes("hi", ACCEPT_LOOP)
        if number < 9:
            guest.leaves()
    return guest


def has_open(trial: Trial, number: int, expected: str, hint: str) -> None:
    """So many connections are open on the server's side."""
    still = sum(1 for _ in trial.server.observation.sockets(listening=False))
    trial.expects(expected, still == number, f"{still} {'is' if still == 1 else 'are'} still open", hint)


def shout(trial: Trial) -> None:
    given = "what sendall is given"
    instead = {
        b"hello": f"{given}: these are the bytes that came, unchanged",
        b"Hello": "every letter, not only the first || upper(), not title() or capitalize()",
    }
    alice = trial.tries('alice sends "hello"').guest("alice").gets("hello", "HELLO", given, instead)
    instead = {b"oNCE AGAIN": "a capital stays as it is || upper(), not swapcase()"}
    alice.tries('alice sends "Once again", on the same connection')
    alice.gets("Once again", "ONCE AGAIN", MANY_TIMES, instead)
    hint = "is it text that changes, or bytes? || upper() of bytes changes a to z only, upper() of text changes é, too"
    alice.tries('alice sends "café 24": é is no letter from a to z, and stays as it is')
    alice.gets("café 24", "CAFé 24", hint)
    for byte in (b"\xc3", b"\xe3"):  # the second is a small letter for code that takes bytes for Latin-1
        alice.tries(f"alice sends half a character, the byte {byte.hex()}")
        alice.gets(byte, byte, "not all bytes are text: no decode is needed || bytes have an upper() of their own")
    every = "every letter from a to z, the first and the last, too || upper()"
    alice.tries(TWICE).gets(ODD, ODD.upper(), every).gets(ODD, ODD.upper(), "the same bytes may come again")
    alice.tries(SPACE).gets(BLANK, BLANK, AS_THEY_ARE)
    long = alice.tries(LONG).trial.letters(3000)
    alice.hurries().gets(long, long.upper(), WHOLE).is_silent(QUIET).leaves()
    hint = "what happens when recv returns no bytes"
    bob = trial.tries('bob comes when the others have left, and sends "bye"').guest("bob", hint)
    bob.gets("bye", "BYE", hint).finishes()


def greeting(trial: Trial) -> None:
    hint = "the greeting comes before the first recv, and ends with \\n"
    instead = {
        b"Welcome!\r": "the greeting ends with \\n alone: without \\r",
        b"Welcome!": "the greeting: Welcome!\\n, with \\n at its end",
    }
    alice = trial.tries("alice connects, and says nothing yet").guest("alice")
    alice.hears("Welcome!\n", hint, instead).hears_nothing("the greeting comes once")
    before, echo = "the greeting is sent before the loop, not in it", "after the greeting: an echo as before"
    for text, hint in (("hello", echo), ("again", RECV_LOOP)):
        alice.tries(f'alice sends "{text}"').says(text).hears(text, hint, {b"Welcome!": before})
    alice.hears_nothing(before)
    _echoes_everything(alice)
    alice.is_silent(QUIET).leaves()
    bob = trial.tries("alice leaves, and bob comes").guest("bob")
    bob.hears("Welcome!\n", "every client is greeted").gets("hi", "hi", echo).finishes()


def count_bytes(trial: Trial) -> None:
    begins = "each client begins with 0: set it inside the function"
    text = "the answer is the number as text, with \\n at its end"
    old = {b"%d" % number: begins for number in range(10, 100)}  # counted on since an earlier check
    size = b"%d\n" % sys.getsizeof(b"hello")
    instead = {
        b"hello\n": "the number only: the bytes are not sent back",
        b"1\n": "count bytes, not answers",
        size: "getsizeof counts Python's own bytes, too || len()",
        **old,
    }
    alice = trial.tries('alice sends "hello", which is 5 bytes').guest("alice")
    _counts(alice, "hello", 5, text, instead)
    hint = "a variable that lives as long as the connection: it is set before the loop, and grows in it"
    instead = {b"3\n": "add to what has come before: 5 + 3", b"2\n": "count bytes, not answers"}
    alice.tries('alice sends "abc", which makes 8 bytes in all')
    _counts(alice, "abc", 8, hint, instead)
    alice.tries('alice sends "é", which is one letter and 2 bytes: 10 in all')
    _counts(alice, "é", 10, "count bytes, not letters || len of the bytes, not of the text")
    each = "each byte is counted, however it looks: no decode, no strip"
    alice.tries(TWICE)
    _counts(alice, ODD, 10 + len(ODD), each)
    _counts(alice, ODD, 10 + 2 * len(ODD), "the same bytes may come again, and are counted again")
    total = 10 + 2 * len(ODD) + len(BLANK)
    alice.tries(f"{SPACE}: {total} bytes in all")
    _counts(alice, BLANK, total, each)
    for many in (trial.random.randrange(31, 90), trial.random.randrange(3000, 3100)):  # nobody knows them by heart
        total += many
        alice.tries(f"alice sends {many:,} bytes at once: the last answer is {total}").hurries()
        _counts(alice, trial.letters(many), total, "each time bytes arrive, all bytes until then are the answer")
    alice.is_silent(QUIET).leaves()
    bob = trial.tries('alice leaves, and bob comes and sends "hi", which is 2 bytes').guest("bob")
    _counts(bob, "hi", 2, "each client begins with 0", {b"%d\n" % (total + 2): begins})
    bob.finishes()


def _counts(guest: Guest, data: bytes | str, total: int, hint: str, instead: Mapping[bytes, str] = {}) -> None:
    data = data.encode() if isinstance(data, str) else data
    guest.says(data).hears_last(total, total - len(data), hint, instead)
    guest.hears_nothing("the numbers only: neither the bytes nor a second answer to them")


def lines(trial: Trial) -> None:
    whole = "an answer for each whole line: what comes after the last \\n is not a line yet"
    keep = "keep the rest that is not a line yet, and put the next bytes behind it"
    instead = {
        b"\ncba": "the \\n does not belong to the line: take it off, reverse, put it back",
        b"abc\n": "what sendall is given: the line is not reversed || line[::-1] is the line in reverse order",
    }
    alice = trial.tries('alice sends the line "abc\\n"').guest("alice")
    alice.gets("abc\n", "cba\n", "reverse the line without its \\n, then put the \\n at the end", instead)
    alice.tries('alice sends "hel", which is no whole line').hurries().says("hel").is_silent(whole)
    alice.tries('alice sends the rest, "lo\\n"').gets("lo\n", "olleh\n", keep)
    alice.tries('alice sends two lines at once, "one\\ntwo\\n"')
    alice.gets("one\ntwo\n", "eno\nowt\n", "a loop: as long as there is a \\n in what has come")
    alice.tries('alice sends one line and a half, "first\\nsec", and then "ond\\n"')
    alice.says("first\nsec").hears("tsrif\n", whole).hears_nothing(whole).gets("ond\n", "dnoces\n", keep)
    strip = "only \\n does not belong to the line: strip() takes spaces away, too"
    swap = "the bytes in reverse order, not the letters: no decode is needed"
    ends = "a line ends with \\n, and only with that: \\r is a byte like others || split(b'\\n', 1), not splitlines()"
    for what, line, hint in (
        ("an empty line", b"", "an empty line is a line, too"),
        ('the line " a b \\n", with spaces at its ends', b" a b ", strip),
        ('the line "one\\rtwo\\r\\n", with \\r in it', b"one\rtwo\r", ends),
        ('the line "é\\n": é is two bytes, which change places', "é".encode(), swap),
        ("a line of bytes that are not text", b"z\xff\xc3(\x00", swap),
        ("the same line once more", b"z\xff\xc3(\x00", "the same line may come again"),
        ("a line of 3,000 bytes", trial.letters(3000), "a line may be longer than one recv || sendall, not send"),
    ):
        alice.tries(f"alice sends {what}").gets(line + b"\n", line[::-1] + b"\n", hint, {b"owt\r": ends})
    alice.tries("alice leaves in the middle of a line, and bob comes").says("half a li").leaves()
    hint = "what alice has left is none of bob's business: the rest is a variable of the function"
    bob = trial.guest("bob").gets("new\n", "wen\n", hint)
    bob.tries("bob sends half a line and no more, but still listens").says("half a li").client.finish()
    bob.is_hung_up("half a line is forgotten when its client hangs up: no answer, and no \\n makes a line of it")


def make_them_wait(trial: Trial) -> None:
    trial.tries("your experiment runs")
    hint = "a client that is not served gets no answer: do not wait for it, and return"
    result = result_of(trial, trial.server, hint=hint, still=FEW, most=FEW)
    clients = list(result) if isinstance(result, list | tuple) else [] if result is None else [result]
    trial.guests += [Guest(trial, each) for each in clients if isinstance(each, Client)]
    expected = "your function returns the list of its clients"
    hint = "return all three clients, in a list || the last line: return [alice, bob, carol]"
    trial.expects(expected, trial.guests, f"it returned {clients or 'nothing'}", hint)

    expected = "alice is served; bob and carol stand in the backlog, each with 5 bytes unread"
    backlog = trial.server.backlog().waiting
    waiting = [f"{each.name} ({each.unread} unread{', has left' if each.left else ''})" for each in backlog]
    got = f"in the backlog: {', '.join(waiting) or 'nobody'}"
    lanes = {lane.name: lane for lane in trial.server.timeline().lanes}
    there, hint = f"connected: {', '.join(lanes) or 'nobody'}", 'three clients, each with its name, like name="alice"'
    trial.expects(expected, {"alice", "bob", "carol"} <= lanes.keys(), there, hint)
    alice, names = lanes["alice"], [each.name for each in backlog]
    trial.expects(expected, alice.accepted is not None, f"alice is not served; {got}", "alice connects first")
    kept, accepted = {each.name for each in trial.guests}, trial.server.observation.accepted
    ends = {each.name: accepted.get(each.client) for each in trial.server.observation.clients if not each.closed}
    closed = [name for name, there in ends.items() if there is not None and there.closed]
    gone = [name for name in [*closed, *(each.name for each in backlog if each.left)] if name not in kept]
    lost = f"your function has not returned {listed(gone)}: Python closes a client that nothing refers to any more"
    trial.expects(expected, not gone, got, lost)
    trial.expects(expected, alice.left is None, f"alice has left; {got}", "alice stays: no close, no with")
    stay = "bob and carol connect while alice is there, and stay: no close, no with"
    hint = "their order: bob, then carol" if names == ["carol", "bob"] else stay
    trial.expects(expected, names == ["bob", "carol"] and not any(each.left for each in backlog), got, hint)
    hint = 'bob and carol each send 5 bytes, like "hello"'
    trial.expects(expected, all(each.unread == 5 for each in backlog), got, hint)

    trial.tries("alice hangs up")
    guests = {each.name: each for each in trial.guests}
    expected, got = "your function returns all three clients", f"it returned {', '.join(guests)}"
    trial.expects(expected, {"alice", "bob", "carol"} <= guests.keys(), got, "the last line")
    guests["alice"].leaves()
    served = trial.until(lambda: guests["bob"].there)
    trial.expects("bob is served then", served, "he is not", "the client that has waited longest is served first")


def patience(trial: Trial) -> None:
    soon = 0.1  # seconds to come to rest, of the time in which a client must speak
    hang_up = (
        "the wait for bytes needs a limit; when the time is up, leave the loop and send nothing more || "
        "conn.settimeout(0.5) before the first recv, and except TimeoutError: outside the loop"
    )
    trial.tries('alice sends "hello", and then nothing more')
    alice = trial.guest("alice", settle=soon).echoes("hello", "an echo, as before")
    bob = trial.guest("bob", settle=soon).says("hi")
    trial.settle(soon)
    for sock, seen in trial.server.observation.sockets(listening=False):
        reads = any(task.waiting is seen for task in trial.server.observation.alive())  # else it has a limit of its own
        if seen.connection is alice.there and reads:
            limit = sock.gettimeout() or 0
            expected = f"the server waits {LIMIT:g} s for alice"
            trial.expects(expected, limit <= LIMIT + MORE, f"its time limit is {limit:g} s", hang_up)
    _waited(alice, hang_up)
    hint = "catch the TimeoutError in your function: then the server goes on with the next client"
    bob.tries("bob has waited for that, and sent something long ago").hears("hi", hint)
    trial.tries("bob sends something every 0.2 s, for 0.8 s in all")
    for _ in range(5):
        if _has_talked(bob):
            break
        _waited(bob, hang_up)
        bob = trial.guest("bob", settle=soon)
    bob.leaves()
    for name, words, text in (("carol", 'sends "hello", and then nothing more', "hello"), ("dave", "says nothing", "")):
        trial.tries(f"{name} connects and {words}: now the time is taken")
        waited = [_waited(trial.guest(name, settle=soon).echoes(text, "an echo, as before"), hang_up)]
        while waited[-1] > LIMIT + MORE and len(waited) < TIMES:  # on a busy machine everything may come late
            waited.append(_waited(trial.guest(name, settle=soon).echoes(text, "an echo, as before"), hang_up))
        expected = f"the server waits {LIMIT:g} s for {name}, and not longer than {LIMIT + MORE:g} s"
        got = f"it waited longer, {len(waited)} times out of {len(waited)}"
        hint = f"{LIMIT:g} s in all, not several limits in a row || {hang_up.partition(' || ')[2]}"
        trial.expects(expected, min(waited) <= LIMIT + MORE, got, hint)
    trial.guest("erin", settle=soon).finishes()


def _has_talked(guest: Guest) -> bool:
    """Four messages, 0.2 s after each other. False: this machine was too busy, and the server may hang up."""
    spoke = time.monotonic()
    for data in ("go on", "go on", ODD, guest.trial.letters(3000)):
        time.sleep(0.2)  # a client that is not silent, and not fast
        if time.monotonic() - spoke > LIMIT - 0.1:
            return False
        spoke = time.monotonic()
        guest.echoes(data, ANEW)
    return True


def _waited(guest: Guest, hint: str) -> float:
    """How long the server has waited for this client, until it hung up; not less than the whole limit."""
    guest.is_hung_up(hint, seconds=LIMIT + PATIENCE)
    trial, there = guest.trial, guest.there
    trial.until(lambda: there is None or there.closed)  # the client knows it before the log does
    events = [each for each in trial.server.observation.log if each.connection is there]
    came = [each.ended for each in events if each.kind == "accept" or (each.kind == "recv" and each.size)]
    heard = max(came, default=0.0)
    waited = max((each.ended for each in events if each.kind in ("close", "shutdown")), default=heard) - heard
    expected = f"the server waits {LIMIT:g} s for {guest.name}, anew after each message"
    trial.expects(expected, waited > LIMIT - LESS, "it hung up too early", ANEW)
    return waited


def hard_to_break(trial: Trial) -> None:
    alice = trial.tries('alice sends "hello"').guest("alice").gets("hello", "hello", "an echo, as before")
    alice.tries("alice sends half a character, the byte c3")
    alice.gets(b"\xc3", b"\xc3", "decode raises an error for bytes that are not text || decode takes errors= for that")
    _echoes_everything(alice)
    hint = "catch it inside the loop around accept: it ends one conversation only || try: … except ConnectionError:"
    closed = "conn is closed however the conversation ends || with conn: does that"
    alice.tries("alice breaks off, and bob comes").vanishes()
    trial.settle()
    has_open(trial, 0, "the connection of alice is closed", closed)
    bob = trial.guest("bob", hint).gets("hi", "hi", hint)
    hint = "sendall can raise an error, too: it must be inside the try as well"
    bob.tries("bob sends without reading, then breaks off while the server sends").fills_up()
    bob.vanishes()
    trial.settle()
    has_open(trial, 0, "the connection of bob is closed", closed)
    carol = trial.guest("carol", hint).gets("hi", "hi", hint)
    dave = trial.tries("dave comes while carol is there, then carol leaves").guest("dave").says("hi")
    _waits(dave, carol)
    dave.hears("hi", "the loop around accept")
    trial.settle()
    has_open(trial, 1, "one connection is open, that of dave", closed)
    dave.leaves()
    erin = _more_come(trial).finishes()
    erin = trial.tries("Ctrl+C is pressed while erin is served, then erin leaves").guest("erin")
    trial.server.interrupt()
    erin.leaves()
    _ends(trial)
    trial.tries("it is started again, and Ctrl+C is pressed while it waits for a client")
    trial.stop()
    trial.returned = False
    trial.server.restart()
    trial.server.interrupt()
    _ends(trial)


def _ends(trial: Trial) -> None:
    hint = (
        "only errors of a connection are caught, and Ctrl+C is none || except ConnectionError:, but not except:, "
        "except BaseException: or except KeyboardInterrupt: in a loop that goes on"
    )
    trial.until(lambda: trial.returned or trial.nothing_will_come())
    trial.expects("the server ends", trial.returned, "it goes on", hint)


def write_the_client(trial: Trial) -> None:
    hint = "connect to the HOST and PORT of the command line, then ask || sys.argv[1], int(sys.argv[2]), input('> ')"
    client = Terminal(trial.tries("it is started with HOST PORT on its command line"), hint)
    trial.tries('"hello" is typed')
    hint = "send the line, receive its echo, print it || sendall, recv, print; encode and decode"
    client.types("hello").shows("hello", hint=hint)
    trial.tries('"one" is typed, then "two"')
    hint = "each line is sent when it is typed, and the next one is asked for"
    client.types("one", "two").shows("one", "two", hint=hint)
    trial.tries("the same line is typed twice, with spaces around it, and then three spaces")
    hint = "the line is sent as it is: no strip, and no \\n behind it"
    client.types("  a zoo ", "  a zoo ", "   ").shows("  a zoo ", "  a zoo ", "   ", hint=hint)
    trial.tries("an empty line is typed")
    hint = "an empty line sends nothing, so no echo will come || if the line is empty: continue"
    client.types("").shows(hint=hint).types("go on").shows("go on", hint=hint)
    trial.tries("a line of 3,000 characters is typed, then a short one")
    long = trial.letters(2999).decode() + "!"
    client.types(long)
    hint = "recv returns what has come, not the whole echo: count its bytes || while len(data) < len(sent): recv again"
    accepted = trial.server.observation.accepted
    if not trial.until(lambda: sum(each.received for each in accepted.values()) >= len(long), SOON):
        hint = "a call may take a part of the bytes only || sendall, not send"
    client.shows(long, hint=hint).types("short").shows("short", hint=hint)
    trial.tries('"café" is typed: é is 2 bytes, and the echo comes in two pieces, cut in the middle of é')
    hint = "count bytes, not letters; put the pieces together, and then make text of them"
    client.types("café").shows("café", hint=hint)
    trial.tries('"bye" is typed, and the server hangs up instead of an answer')
    client.types("bye").ends(
        "recv returns no bytes when the server has left, each time it is called: end the program then"
    )
    trial.tries("it is started again, and Ctrl+C is pressed at the prompt")
    client = Terminal(trial, "a program can be started again")
    client.program.interrupt()
    client.ends("Ctrl+C raises an error in your program: catch it outside the loop || except KeyboardInterrupt:")
    trial.tries("it is started again, and the input ends (Ctrl+D)")
    Terminal(trial, "a program can be started again").types(None).ends("input raises EOFError then: catch it")
