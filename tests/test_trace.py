"""The trace: a strict reader of Chrome's format finds nothing to complain of, and gets back the timeline's stretches.

The rules are those of "Trace Event Format" (Google), section by section, as catapult and Perfetto point to it:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import json
import math
import re
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from echo_kit import Client, serve_single, serve_threaded, start
from echo_kit.events import Connection, EventLog
from echo_kit.observe import Observation
from echo_kit.timeline import BACKLOG, Timeline

LIMIT = 20  # seconds that anything may take before a test fails
KEYS = {  # of each phase: those that it must have, and those that it may have
    "X": ({"name", "ph", "ts", "dur", "pid", "tid"}, {"cat", "args"}),  # Complete Events
    "i": ({"name", "ph", "ts", "pid", "tid", "s"}, {"cat", "args"}),  # Instant Events
    "C": ({"name", "ph", "ts", "pid", "args"}, {"cat", "tid"}),  # Counter Events
    "M": ({"name", "ph", "pid", "args"}, {"tid"}),  # Metadata Events
}
ABOUT = {"process_name": "name", "thread_name": "name", "process_sort_index": "sort_index"} | {
    "thread_sort_index": "sort_index"
}


def no_constant(name):
    raise AssertionError(f"{name} is no JSON")


def no_key_twice(pairs):
    assert len({key for key, _ in pairs}) == len(pairs), f"a key twice: {pairs}"
    return dict(pairs)


def nanoseconds(number):
    """Times are microseconds. Perfetto keeps whole nanoseconds: a finer one would make neighbours overlap."""
    assert type(number) in (int, float), f"{number!r} is no number"
    assert math.isfinite(number)
    assert abs(number * 1000 - round(number * 1000)) < 0.01, f"{number} is finer than a nanosecond"
    return round(number * 1000)


def read(path):
    """The events of the file, each checked."""
    data = path.read_bytes()
    trace = json.loads(data.decode("utf-8"), parse_constant=no_constant, object_pairs_hook=no_key_twice)
    assert not re.search(rb"(?<!\\)\\ud[89a-f]", data.lower()), "Perfetto takes no escaped surrogates"
    assert set(trace) == {"traceEvents", "displayTimeUnit"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        needs, may = KEYS[event["ph"]]
        assert needs <= set(event) <= needs | may, event
        assert type(event["name"]) is str
        assert type(event["pid"]) is int
        if "tid" in event:
            assert type(event["tid"]) is int
            assert event["tid"] != event["pid"], "it would be taken for the main thread"
            assert event["tid"] >= 100
        if event["ph"] == "M":
            (key,) = event["args"]
            assert key == ABOUT[event["name"]]
            assert type(event["args"][key]) is (str if key == "name" else int)
        if "ts" in event:
            nanoseconds(event["ts"])
        if event["ph"] == "X":
            assert nanoseconds(event["dur"]) >= 0
        if event["ph"] == "i":
            assert event["s"] in ("g", "p", "t")
        if event["ph"] == "C":
            assert all(type(each) in (int, float) for each in event["args"].values())
    check_order(trace["traceEvents"])
    return trace["traceEvents"]


def check_order(events):
    """Each thread has one name, comes in the order of the file, and its complete events do not overlap."""
    threads = {(event["pid"], event["tid"]) for event in events if event["ph"] in "Xi"}
    for about, those in (("thread", threads), ("process", {pid for pid, _ in threads})):
        for fact in ("name", "sort_index"):
            told = Counter(
                (event["pid"], event["tid"]) if about == "thread" else event["pid"]
                for event in events
                if event["name"] == f"{about}_{fact}"
            )
            assert set(told.values()) <= {1}
            assert set(told) >= those, f"without {about}_{fact}"
    lanes = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            begin = nanoseconds(event["ts"])
            lanes[event["pid"], event["tid"]].append((begin, begin + nanoseconds(event["dur"])))
    for spans in lanes.values():
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(spans)))


def named(events, kind):
    return {(each["pid"], each["tid"]): each["args"]["name"] for each in events if each["name"] == kind}


def spans_of(events):
    """name of the thread -> its stretches, as (name, begin, end) in nanoseconds."""
    names, found = named(events, "thread_name"), defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            begin = nanoseconds(event["ts"])
            found[event["pid"], names[event["pid"], event["tid"]]].append(
                (event["name"], begin, begin + nanoseconds(event["dur"]))
            )
    return found


def assert_tells(events, timeline):
    """The trace has the timeline's stretches, and no other."""

    def at(time):
        return round((time - timeline.start) * 1e9)

    told = {(1, lane): [(each.state, at(each.begin), at(each.end)) for each in spans]
            for lane, spans in timeline.spans.items()}  # fmt: skip
    for label, spans in timeline.thread_spans.items():
        told[2, label] = [
            (f"{each.state}: {each.client}" if each.client else each.state, at(each.begin), at(each.end))
            for each in spans
        ]
    assert spans_of(events) == told
    messages = [event for event in events if event["ph"] == "i"]
    assert len(messages) == sum(len(lane.to_server) + len(lane.answers) for lane in timeline.lanes)


@pytest.mark.parametrize("serve", [serve_single, serve_threaded])
def test_a_run_is_found_again_in_its_trace(serve, tmp_path):
    with start(serve) as server, Client(server, name="alice") as alice:
        alice.send("hello")
        assert alice.receive(timeout=LIMIT) == "hello"
        with Client(server, name="bob") as bob:
            bob.send("hi")
            timeline = server.timeline()
            timeline.save_trace(tmp_path / "trace.json")
            alice.close()
            assert bob.receive(timeout=LIMIT) == "hi"
    events = read(tmp_path / "trace.json")
    assert_tells(events, timeline)
    processes = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert processes == [f"clients of {serve.__name__}", f"threads of {serve.__name__}"]
    names = list(named(events, "thread_name").values())
    assert names == ["alice", "bob", *timeline.thread_spans]
    assert {'sends "hello"', 'is answered "hello"', 'sends "hi"'} <= {each["name"] for each in events}
    timeline = server.timeline()
    timeline.save_trace(str(tmp_path / "trace.json"))  # the file is replaced, a path may be text
    assert_tells(read(tmp_path / "trace.json"), timeline)


def by_hand(clients=3, name="alice"):
    """A second a client; each waits in the backlog until the one before has been served."""
    observation = Observation(name, EventLog(clock=lambda: 100.0))
    observation.close_all()
    for number in range(clients):
        client = Connection(("127.0.0.1", number), name=name, sent=2, messages=1)
        served, turn = Connection(client.client), 10.0 + number
        observation.log.add("connect", 10 + 0.1 * number, client, ended=10 + 0.1 * number + 1e-9 / 3)
        observation.log.add("client send", 10.5, client, size=len(name), data=name.encode()[:40], ended=10.5)
        observation.log.add("accept", turn, served, thread=name, ended=turn + 0.5 + 1e-9 / 7)
        observation.log.add("recv", turn + 0.6, served, thread=name, size=1, data=b"x", ended=turn + 2 / 3)
        observation.log.add("send", turn + 2 / 3, served, thread=name, size=1, data=b"x", ended=turn + 0.7)
        observation.log.add("close", turn + 0.9, served, thread=name, ended=turn + 0.9)
    return Timeline.of(observation)


def test_how_many_waited_at_each_moment(tmp_path):
    timeline = by_hand()
    timeline.save_trace(tmp_path / "trace.json")
    events = read(tmp_path / "trace.json")
    assert_tells(events, timeline)
    counts = [(nanoseconds(each["ts"]), each["args"]["clients"]) for each in events if each["ph"] == "C"]
    changes = []
    for spans in timeline.spans.values():
        changes += [round((time - 10) * 1e9) for span in spans if span.state == BACKLOG for time in span[1:3]]
    assert [moment for moment, _ in counts] == sorted(changes)
    assert [number for _, number in counts] == [1, 2, 3, 2, 1, 0]


HOSTILE = [
    '"',
    "\\",
    "😀👍🏽",
    "世界",
    "</script>",
    "a\nb\x00\x1b[31m",
    "\u2028\u202e",
    "\ud800",
    "{}[],:",
    "",
    "x" * 500,
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_any_name_can_be_written(name, tmp_path):
    if name == "\ud800":  # a message is bytes, which cannot have it; a name can
        observation = Observation(name)
        observation.close_all()
        observation.log.add("connect", 1.0, Connection(("127.0.0.1", 1), name=name), ended=2.0)
        timeline = Timeline.of(observation)
    else:
        timeline = by_hand(name=name)
    timeline.save_trace(tmp_path / "trace.json")
    events = read(tmp_path / "trace.json")
    assert_tells(events, timeline)
    assert not any(character in event["name"] for event in events for character in "\n\x00\x1b\u202e")


def test_an_empty_timeline_and_a_zoomed_one(tmp_path):
    by_hand(0).save_trace(tmp_path / "trace.json")
    assert {event["ph"] for event in read(tmp_path / "trace.json")} == {"M"}
    part = by_hand().zoom(clients="alice (2)")
    part.save_trace(tmp_path / "trace.json")
    assert_tells(read(tmp_path / "trace.json"), part)


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        by_hand().save_trace(tmp_path / "nowhere" / "trace.json")
    with pytest.raises(IsADirectoryError):
        by_hand().save_trace(tmp_path)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda event: event.pop("dur"), "X"),
        (lambda event: event.update(ts="0"), "is no number"),
        (lambda event: event.update(dur=-1), ">= 0"),
        (lambda event: event.update(dur=1e9), "all"),
        (lambda event: event.update(ts=0.0001), "finer"),
        (lambda event: event.update(tid=event["pid"]), "main thread"),
        (lambda event: event.update(tid=999), "without thread_name"),
        (lambda event: event.update(colour="red"), "colour"),
    ],
)
def test_the_reader_is_strict(broken, complaint, tmp_path):
    path = tmp_path / "trace.json"
    by_hand().save_trace(path)
    trace = json.loads(path.read_text("utf-8"))
    broken(next(event for event in trace["traceEvents"] if event["ph"] == "X"))
    path.write_text(json.dumps(trace), "utf-8")
    with pytest.raises(AssertionError, match=complaint):
        read(path)
