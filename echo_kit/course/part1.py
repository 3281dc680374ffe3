"""What the exercises of Part 1 require."""

from __future__ import annotations

import time

from ..client import Client
from .terminal import SOON, Terminal
from .trial import ACCEPT_LOOP, PATIENCE, RECV_LOOP, Guest, Trial

LIMIT = 0.5  # seconds that exercise 1.7 gives a silent client
ANEW = f"the time limit is {LIMIT:g} s, and begins anew each time bytes arrive: it is one for each recv"
MANY_TIMES = "one client may send many times, and is answered each time || a loop around recv"


def from_memory(trial: Trial) -> None:
    address = trial.server.observation.address or trial.called_with
    for what, given, bound in zip(("host", "port"), trial.called_with, address, strict=False):
        expected = f"your server listens on the {what} that it is given, here {given}"
        trial.expects(expected, bound == given, f"it listens on {bound}", "the line with bind")
    alice = trial.tries('alice connects, and sends "hello"').guest("alice")
    alice.echoes("hello", "send back the bytes that came || recv, then sendall with the same bytes")
    alice.tries('alice sends "how are you?" on the same connection')
    alice.echoes("how are you?", MANY_TIMES)
    alice.tries("alice sends 3,000 bytes at once")
    alice.echoes(b"x" * 3000, "a call may take a part of the bytes only || a loop around recv; and sendall, not send")
    bob = trial.tries("bob comes while alice is there, then alice leaves").guest("bob").says("hi")
    alice.leaves()
    bob.hears("hi", "when alice has left, the next client comes: that is a loop, too || a loop around accept")
    bob.tries("bob leaves, and carol comes").leaves()
    carol = trial.guest("carol").echoes("hello", ACCEPT_LOOP)
    carol.tries("carol leaves, too").leaves()
    trial.settle()
    expected = "your server hangs up, too: none of its connections is open"
    has_open(trial, 0, expected, "when a client has left, hang up, too || conn.close(), when recv returns no bytes")


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
    alice = trial.tries('alice sends "hello"').guest("alice").says("hello").hears("HELLO", given, instead)
    instead = {b"oNCE AGAIN": "a capital stays as it is || upper(), not swapcase()"}
    alice.tries('alice sends "Once again", on the same connection')
    alice.says("Once again").hears("ONCE AGAIN", MANY_TIMES, instead)
    hint = "is it text that changes, or bytes? || upper() of bytes changes a to z only, upper() of text changes é, too"
    alice.tries('alice sends "café 24": é is no letter from a to z, and stays as it is')
    alice.says("café 24").hears("CAFé 24", hint)
    for byte in (b"\xc3", b"\xe3"):  # the second is a small letter for code that takes bytes for Latin-1
        alice.tries(f"alice sends half a character, the byte {byte.hex()}")
        alice.echoes(byte, "not all bytes are text: no decode is needed || bytes have an upper() of their own")
    alice.leaves()
    hint = "what happens when recv returns no bytes"
    bob = trial.tries('bob comes when the others have left, and sends "bye"').guest("bob", hint)
    bob.says("bye").hears("BYE", hint)


def greeting(trial: Trial) -> None:
    hint = "the greeting comes before the first recv, and ends with \\n"
    instead = {b"Welcome!": "the greeting: Welcome!\\n, with \\n at its end"}
    alice = trial.tries("alice connects, and says nothing yet").guest("alice")
    alice.hears("Welcome!\n", hint, instead).hears_nothing("the greeting comes once")
    before, echo = "the greeting is sent before the loop, not in it", "after the greeting: an echo as before"
    for text, hint in (("hello", echo), ("again", RECV_LOOP)):
        alice.tries(f'alice sends "{text}"').says(text).hears(text, hint, {b"Welcome!": before})
    alice.hears_nothing(before).leaves()
    bob = trial.tries("alice leaves, and bob comes").guest("bob")
    bob.hears("Welcome!\n", "every client is greeted").echoes("hi", echo)


def count_bytes(trial: Trial) -> None:
    begins = "each client begins with 0: set it inside the function"
    old = {b"%d" % number: begins for number in range(10, 100)}  # counted on since an earlier check
    letters = "count bytes, not letters || len of the bytes, not of the text"
    alice = trial.tries('alice sends "hello", which is 5 bytes').guest("alice").says("hello")
    instead = {b"1\n": "count bytes, not answers", **old}
    alice.hears_last("5\n", "the answer is the number as text, with \\n at its end", instead)
    hint = "a variable that lives as long as the connection: it is set before the loop, and grows in it"
    instead = {b"3\n": "add to what has come before: 5 + 3", b"2\n": "count bytes, not answers"}
    alice.tries('alice sends "abc", which makes 8 bytes in all').says("abc").hears_last("8\n", hint, instead)
    alice.tries('alice sends "é", which is one letter and 2 bytes: 10 in all')
    alice.says("é").hears_last("10\n", letters)
    alice.tries("alice sends 3,000 bytes at once: the last answer is 3010").says(b"x" * 3000)
    alice.hears_last("3010\n", "each time bytes arrive, all bytes until then are the answer").leaves()
    bob = trial.tries('alice leaves, and bob comes and sends "hi", which is 2 bytes').guest("bob")
    bob.says("hi").hears_last("2\n", "each client begins with 0", {b"3012\n": begins})


def lines(trial: Trial) -> None:
    whole = "an answer for each whole line: what comes after the last \\n is not a line yet"
    keep = "keep the rest that is not a line yet, and put the next bytes behind it"
    instead = {
        b"\ncba": "the \\n does not belong to the line: take it off, reverse, put it back",
        b"abc\n": "what sendall is given: the line is not reversed || line[::-1] is the line in reverse order",
    }
    alice = trial.tries('alice sends the line "abc\\n"').guest("alice").says("abc\n")
    alice.hears("cba\n", "reverse the line without its \\n, then put the \\n at the end", instead)
    alice.tries('alice sends "hel", which is no whole line').says("hel").hears_nothing(whole)
    alice.tries('alice sends the rest, "lo\\n"').says("lo\n").hears("olleh\n", keep)
    alice.tries('alice sends two lines at once, "one\\ntwo\\n"').says("one\ntwo\n")
    alice.hears("eno\nowt\n", "a loop: as long as there is a \\n in what has come")
    alice.tries('alice sends one line and a half, "first\\nsec", and then "ond\\n"')
    alice.says("first\nsec").hears("tsrif\n", whole).hears_nothing(whole).says("ond\n").hears("dnoces\n", keep)
    long = b"".join(b"%04d" % number for number in range(750))
    strip = "only \\n does not belong to the line: strip() takes spaces away, too"
    swap = "the bytes in reverse order, not the letters: no decode is needed"
    for what, line, hint in (
        ("an empty line", b"", "an empty line is a line, too"),
        ('the line " a b \\n", with spaces at its ends', b" a b ", strip),
        ('the line "é\\n": é is two bytes, which change places', "é".encode(), swap),
        ("a line of 3,000 bytes", long, "a line may be longer than one recv"),
    ):
        alice.tries(f"alice sends {what}").says(line + b"\n").hears(line[::-1] + b"\n", hint)
    alice.tries("alice leaves in the middle of a line, and bob comes").says("half a li").leaves()
    hint = "what alice has left is none of bob's business: the rest is a variable of the function"
    trial.guest("bob").says("new\n").hears("wen\n", hint)


def make_them_wait(trial: Trial) -> None:
    trial.tries("your experiment runs")
    result = trial.result_of(trial.server, hint="a client that is not served gets no answer: do not wait for it")
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
    trial.expects(expected, alice.left is None, f"alice has left; {got}", "alice stays: no close, no with")
    stay = "bob and carol connect while alice is there, and stay: no close, no with"
    hint = "their order: bob, then carol" if names == ["carol", "bob"] else stay
    trial.expects(expected, names == ["bob", "carol"] and not any(each.left for each in backlog), got, hint)
    hint = 'bob and carol each send 5 bytes, like "hello"'
    trial.expects(expected, all(each.unread == 5 for each in backlog), got, hint)

    trial.tries("alice hangs up")
    guests = {each.name: each for each in trial.guests}
    expected, got = "your function returns all three clients", f"it returned {', '.join(guests)}"
    trial.expects(expected, {"alice", "bob"} <= guests.keys(), got, "the last line")
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
        if seen.connection is alice.there:
            limit = sock.gettimeout() or 0
            expected = f"the server waits {LIMIT:g} s for alice"
            trial.expects(expected, limit <= LIMIT + 0.3, f"its time limit is {limit:g} s", hang_up)
    _is_hung_up_in_time(alice, hang_up)
    hint = "catch the TimeoutError in your function: then the server goes on with the next client"
    bob.tries("bob has waited for that, and sent something long ago").hears("hi", hint)
    trial.tries("bob sends something every 0.2 s, for 0.8 s in all")
    for _ in range(5):
        if _has_talked(bob):
            break
        _is_hung_up_in_time(bob, hang_up)
        bob = trial.guest("bob", settle=soon)
    trial.tries("carol connects and says nothing at all")
    bob.leaves()
    trial.guest("carol", settle=soon).is_hung_up(hang_up, seconds=LIMIT + PATIENCE)


def _has_talked(guest: Guest) -> bool:
    """Four messages, 0.2 s after each other. False: this machine was too busy, and the server may hang up."""
    spoke = time.monotonic()
    for _ in range(4):
        time.sleep(0.2)  # a client that is not silent, and not fast
        if time.monotonic() - spoke > LIMIT - 0.1:
            return False
        spoke = time.monotonic()
        guest.echoes("go on", ANEW)
    return True


def _is_hung_up_in_time(guest: Guest, hint: str) -> None:
    """The server hangs up, and its last recv has waited for the whole limit."""
    guest.is_hung_up(hint, seconds=LIMIT + PATIENCE)
    trial, there = guest.trial, guest.there
    trial.until(lambda: there is None or there.closed)  # the client knows it before the log does
    events = [each for each in trial.server.observation.log if each.connection is there]
    came = [each.ended for each in events if each.kind == "accept" or (each.kind == "recv" and each.size)]
    heard = max(came, default=0.0)
    hung_up = max((each.ended for each in events if each.kind in ("close", "shutdown")), default=heard)
    late = hung_up - heard > LIMIT
    in_time = LIMIT - 0.05 < hung_up - heard < LIMIT + PATIENCE / 2
    expected = f"the server waits {LIMIT:g} s for {guest.name}, anew after each message"
    trial.expects(expected, in_time, f"it hung up too {'late' if late else 'early'}", hint if late else ANEW)


def hard_to_break(trial: Trial) -> None:
    alice = trial.tries('alice sends "hello"').guest("alice").echoes("hello", "an echo, as before")
    alice.tries("alice sends half a character, the byte c3")
    alice.echoes(b"\xc3", "decode raises an error for bytes that are not text || decode takes errors= for that")
    hint = "catch it inside the loop around accept: it ends one conversation only || try: … except ConnectionError:"
    alice.tries("alice breaks off, and bob comes").vanishes()
    bob = trial.guest("bob", hint).echoes("hi", hint)
    hint = "sendall can raise an error, too: it must be inside the try as well"
    bob.tries("bob sends without reading, then breaks off while the server sends").fills_up()
    bob.vanishes()
    carol = trial.guest("carol", hint).echoes("hi", hint)
    carol.tries("carol leaves, and her connection is closed on the server's side").leaves()
    dave = trial.guest("dave").echoes("hi", "the loop around accept")
    hint = "conn is closed however the conversation ends || with conn: does that"
    has_open(trial, 1, "one connection is open, that of dave", hint)
    trial.tries("Ctrl+C is pressed while dave is served, then dave leaves")
    trial.server.interrupt()
    dave.leaves()
    hint = "except: and except BaseException: catch Ctrl+C, too. Name the error || except ConnectionError:"
    trial.expects("the server ends", trial.until(lambda: trial.returned), "it goes on", hint)


def write_the_client(trial: Trial) -> None:
    hint = "connect to the HOST and PORT of the command line, then ask || sys.argv[1], int(sys.argv[2]), input('> ')"
    client = Terminal(trial.tries("it is started with HOST PORT on its command line"), hint)
    trial.tries('"hello" is typed')
    hint = "send the line, receive its echo, print it || sendall, recv, print; encode and decode"
    client.types("hello").shows("hello", hint=hint)
    trial.tries('"one" is typed, then "two"')
    hint = "each line is sent when it is typed, and the next one is asked for"
    client.types("one", "two").shows("one", "two", hint=hint)
    trial.tries("an empty line is typed")
    hint = "an empty line sends nothing, so no echo will come || if the line is empty: continue"
    client.types("").shows(hint=hint).types("go on").shows("go on", hint=hint)
    trial.tries("a line of 3,000 characters is typed, then a short one")
    long = "".join(f"{number:04} " for number in range(600))[:-1] + "!"
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
