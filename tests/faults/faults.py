"""The faults of the battery, by name: `FAULTS`. Each is a script for a `Scene`.

Up to its `yield` it brings the fault about, after it the fault ends, where it does. Meanwhile the others talk. A script
that yields FULL says that whoever comes meanwhile may have to wait or is refused.
"""

from pathlib import Path

FULL = True
FAULTS = {}


def fault(script):
    FAULTS[script.__name__.replace("_", " ")] = script
    return script


# -- guests that leave, or do not --------------------------------------------------------------------------------------


@fault
def reset_while_the_server_reads(scene):
    (guest,) = scene.guests()
    guest.echo(b"hello")
    yield
    guest.resets()


@fault
def reset_in_the_backlog(scene):
    with scene.held():
        early, late = scene.guests(2)
        early.resets()
        late.send(b"hello")
        late.resets()
    yield


@fault
def empty_message(scene):
    """No byte at all: one says at once that no more comes, the other one only leaves."""
    polite, rude = scene.guests(2)
    yield
    polite.says_no_more()
    polite.hears_the_end()
    polite.leaves()
    rude.leaves()


@fault
def silent_clients(scene):
    silent = scene.guests(2)
    silent[0].echo(b"hello")
    yield
    for guest in silent if scene.hangs_up else ():
        guest.is_hung_up_on()


@fault
def client_that_never_reads(scene):
    (guest,) = scene.guests()
    guest.floods()
    yield
    if scene.hangs_up:
        guest.is_hung_up_on()


# -- bytes -------------------------------------------------------------------------------------------------------------


@fault
def invalid_utf_8(scene):
    (guest,) = scene.guests()
    guest.echo(bytes(range(128, 256)))
    yield
    guest.leaves()


@fault
def character_cut_at_byte_1024(scene):
    (guest,) = scene.guests()
    guest.echo(b"x" * 1023 + "é and more".encode())
    yield
    guest.leaves()


@fault
def five_thousand_bytes_at_once(scene):
    (guest,) = scene.guests()
    guest.echo(b"".join(b"%5d" % number for number in range(1000)))
    yield
    guest.echo(b"short")
    guest.leaves()


@fault
def half_close_with_300_kb_in_flight(scene):
    (guest,), data = scene.guests(), b"".join(b"%6d" % number for number in range(50_000))
    guest.send(data)
    guest.says_no_more()
    yield
    guest.hears(data)
    guest.hears_the_end()
    guest.leaves()


# -- too many ----------------------------------------------------------------------------------------------------------


@fault
def queue_of_150_at_a_backlog_of_128(scene):
    yield from come_at_once(scene, 150)


@fault
def a_thousand_at_once(scene):
    yield from come_at_once(scene, 1000)


@fault
def one_client_takes_every_descriptor(scene):
    import resource

    with scene.limited(resource.RLIMIT_NOFILE, 64):
        hog = scene.guests(1)
        hog[0].echo(b"hello")
        hog += scene.crowd(79)
        scene.takes(64)
        scene.may_end()
        yield FULL
        for guest in hog:
            guest.leaves()


@fault
def no_descriptor_left(scene):
    """Not even one. (An accept that already waits has one, so the first guest may be served; it leaves.)"""
    import resource

    with scene.limited(resource.RLIMIT_NOFILE, 3):
        first, second = scene.guests(2)
        for guest in (first, second):
            guest.send(b"hello")
            guest.says_no_more()
        first.may_be_hung_up_on(0.5)
        scene.may_end()
        yield FULL
    second.hears(b"hello")
    second.hears_the_end()


@fault
def no_thread_to_be_had(scene):
    """The system refuses a thread's stack, usually 8 MB, which the process has no room for any more."""
    import resource

    pages = int(Path(f"/proc/{scene.program.pid}/statm").read_text().split()[0])
    with scene.limited(resource.RLIMIT_AS, pages * resource.getpagesize() + 2**21):
        crowd = scene.guests(20)
        for guest in crowd:
            guest.send(b"hello")
            guest.hears_something()
            if scene.one_at_a_time:
                guest.leaves()
        yield FULL
    for guest in crowd:
        guest.leaves()


# -- what several of them do -------------------------------------------------------------------------------------------


def come_at_once(scene, size):
    """While the server's process does not run, so that none of them is accepted before the last one is there."""
    with scene.held():
        crowd = scene.crowd(size)
    yield FULL
    for number, guest in enumerate(crowd):
        guest.send(b"%d" % number)
    for number, guest in enumerate(crowd):
        guest.hears(b"%d" % number)
        guest.leaves()
