"""Drawing: bars where the times say, words that can be read, any number of lanes, any text, both themes."""

import base64
import itertools
import re
import socket
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from echo_kit import Client, serve_single, serve_threaded, side_by_side, start
from echo_kit.views.draw_timeline import (
    ABOVE,
    CHOSEN,
    DARK,
    FINE,
    HALF,
    HATCHES,
    LABEL_LANES,
    LIGHT,
    LINES,
    MARKS,
    PIXELS,
    _quotes,
    _View,
    timeline_figure,
)
from echo_kit.views.lane import Span
from echo_kit.views.shown import Timeline, png
from echo_kit.views.states import ACCEPTED, BACKLOG, CONNECTING, IN_ACCEPT, IN_RECV, IN_SEND, PAUSED, STATES, WORKS
from echo_kit.watch.events import Connection, EventLog, SocketEvent
from echo_kit.watch.observation import Observation

LIMIT = 20  # seconds that anything may take before a test fails
THREAD = "server thread"


def made(lanes, server="serve", text="hello", echoes=1):
    """A timeline of one thread, a second a client: each waits in the backlog until the one before it has left."""
    observation = Observation(server, EventLog(capacity=10_000_000, clock=lambda: lanes + 1.0))
    observation.close_all()
    log, data, before = observation.log, text.encode(), 0.0
    for number in range(lanes):
        client = Connection(("127.0.0.1", number), name=f"client {number}" if text == "hello" else text)
        served = Connection(client.client)
        came, turn = 0.001 * number, float(number)
        log.add("connect", came, client, ended=came + 0.0005)
        log.add("accept", before, served, thread=THREAD, ended=turn + 0.01)
        before = turn + 0.02
        for each in range(echoes):
            sent, step = turn + 0.2 + 0.6 * each / echoes, 0.6 / echoes
            log.add("client send", sent, client, size=len(data), data=data[:40], ended=sent)
            log.add("recv", before, served, thread=THREAD, size=len(data), data=data[:40], ended=sent)
            log.add("send", sent + 0.5 * step, served, thread=THREAD, size=1_000_000, ended=sent + 0.7 * step)
            log.add("client recv", sent + 0.7 * step, client, size=len(data), data=data[:40], ended=sent + 0.7 * step)
            before = sent + 0.7 * step
        client.sent = client.received = len(data) * echoes
        client.messages = echoes
        log.add("client close", turn + 0.9, client, ended=turn + 0.9)
        log.add("recv", before, served, thread=THREAD, ended=turn + 0.9)
        log.add("close", turn + 0.9, served, thread=THREAD, ended=turn + 0.9)
        before = turn + 0.9
    return Timeline.of(observation)


def rows_of(axis, state):
    """The bars of that state, as (lane, begin, end)."""
    found = []
    for each in axis.collections:
        if type(each).__name__ == "PolyCollection" and tuple(each.get_facecolor()[0]) == to_rgba(state.colour):
            for path in each.get_paths():  # all bars of a lane, each of five corners: the last is the first
                for corners in np.split(path.vertices, len(path) // 5):
                    found.append((round(corners[:, 1].mean()), corners[:, 0].min(), corners[:, 0].max()))
    return sorted(found)


def bars(axis, state):
    return [(begin, end) for _, begin, end in rows_of(axis, state)]


def marks(axis, upwards):
    """Where they stand, as (lane, time): what was sent stands above the bar, what was answered below."""
    places = [tuple(place) for each in axis.collections for place in each.get_offsets() if each.get_sizes().size]
    above = -ABOVE if upwards else ABOVE
    return sorted((round(y - above), x) for x, y in places if (y > round(y)) == (above > 0))


def names(axis):
    return [label.get_text() for label in axis.get_yticklabels()]


def words(axis):
    """What is written on bars, and beside marks."""
    return [text.get_text() for text in axis.texts]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def luminance(colour):
    return np.dot([0.2126, 0.7152, 0.0722], [((c + 0.055) / 1.055) ** 2.4 if c > 0.04 else c / 12.92 for c in colour])


def contrast(one, other):
    """As the Web Content Accessibility Guidelines have it: 4.5 is asked for in text."""
    low, high = sorted((luminance(to_rgb(one)), luminance(to_rgb(other))))
    return (high + 0.05) / (low + 0.05)


def assert_readable(figure, paper):
    """No text is cut or stands on another, and all stand out from what is behind them."""
    figure.draw_without_rendering()
    seen = []
    ticks = [label for axis in figure.axes for label in axis.get_xticklabels()]  # also of ticks outside of the axis
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible() and text not in ticks:
            box = text.get_window_extent()
            patch = text.get_bbox_patch()
            behind = patch.get_facecolor() if patch is not None and patch.get_facecolor()[3] else to_rgba(paper)
            assert contrast(text.get_color(), behind[:3]) > 4.5, text
            if text.axes is not None and text.get_clip_on() and not text.axes.bbox.overlaps(box):
                continue
            assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, f"{text} is cut"  # noqa: PT018
            assert box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1, f"{text} is cut"  # noqa: PT018
            seen.append((text, box.padded(-1)))
    for (text, box), (other, there) in itertools.combinations(seen, 2):
        assert not box.overlaps(there), f"{text} is over {other}"


# -- one timeline ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lanes", "dark"),
    [(0, False), (2, False), (2, True), (LABEL_LANES + 1, False)]
    + [pytest.param(lanes, False, marks=pytest.mark.soak) for lanes in (1, LABEL_LANES, 300)],
)
def test_any_number_of_lanes_is_drawn(lanes, dark):
    figure = made(lanes).figure(dark=dark)
    data, width, height = png(figure, dpi=40)
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert width > 300
    assert 100 < height <= 900
    (axis,) = figure.axes
    assert len(bars(axis, CONNECTING)) == len(bars(axis, BACKLOG)) == lanes
    assert len(bars(axis, WORKS)) == lanes
    assert len(bars(axis, IN_RECV)) == 2 * lanes
    marked = []
    if lanes <= LABEL_LANES:
        assert names(axis) == [f"client {number}" for number in range(lanes)]
        marked = ["client sends", "server answers"] if lanes else []
    there = [BACKLOG, *([ACCEPTED] if lanes == 1 else []), IN_RECV, WORKS]
    there += [IN_SEND] if 0 < lanes <= LABEL_LANES + 1 else []
    assert legend(figure) == [state.legend for state in there] + marked
    theme = DARK if dark else LIGHT
    assert tuple(axis.get_facecolor()[:3]) == to_rgb(theme["paper"]) == tuple(figure.get_facecolor()[:3])
    assert {to_rgb(text.get_color()) for text in figure.legends[0].get_texts()} == {to_rgb(theme["ink"])}


def test_bars_are_where_the_times_say():
    timeline = made(3)
    (axis,) = timeline.figure().axes
    for state in (CONNECTING, BACKLOG, ACCEPTED, IN_RECV, WORKS, IN_SEND):
        spans = [
            (row, span.begin - timeline.start, span.end - timeline.start)
            for row, lane in enumerate(timeline.lanes)
            for span in timeline.spans[lane.name]
            if span.state == state
        ]
        assert spans
        assert np.array(rows_of(axis, state)) == pytest.approx(np.array(spans))
    assert [end - begin for begin, end in bars(axis, BACKLOG)] == pytest.approx(
        [row["seconds waited"] for row in timeline.table()]
    )
    assert bars(axis, WORKS)[0] == pytest.approx((0.2, 0.5))


def test_a_short_run_is_told_in_milliseconds():
    timeline = made(1)
    timeline.now = 1.0
    (axis,) = timeline.figure().axes
    assert axis.get_xlabel() == "milliseconds since the first client came"
    assert bars(axis, WORKS) == [pytest.approx((200, 500))]
    (axis,) = made(2).figure().axes
    assert axis.get_xlabel() == "seconds since the first client came"


def test_idle_work_and_a_sendall_that_waits_are_drawn_apart():
    (axis,) = made(1).figure().axes
    assert len({state.colour for state in (BACKLOG, IN_RECV, WORKS, IN_SEND)}) == 4
    hatches = {
        tuple(each.get_facecolor()[0]): each.get_hatch()
        for each in axis.collections
        if type(each).__name__ == "PolyCollection"
    }
    assert hatches[to_rgba(BACKLOG.colour)] == HATCHES[BACKLOG.hatch] != hatches[to_rgba(IN_SEND.colour)]
    assert hatches[to_rgba(IN_RECV.colour)] is hatches[to_rgba(WORKS.colour)] is None
    greys = sorted(luminance(to_rgb(state.colour)) for state in (IN_RECV, WORKS, BACKLOG))
    assert all((high + 0.05) / (low + 0.05) > 1.4 for low, high in itertools.pairwise(greys)), "on a grey print"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("state", [each for each in STATES if each.hatch], ids=lambda state: state.name)
def test_stripes_can_be_seen(state, dark):
    """In the picture itself: a hatch in the colour of its bar is there, and nobody sees it."""
    timeline = made(1)
    timeline.__dict__["spans"] = {"client 0": [Span(state, 0.0, 1.9)]}
    figure = timeline.figure(dark=dark)
    (axis,) = figure.axes
    for text in axis.texts:
        text.set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    ((left, right), (low, high)) = axis.transData.transform([(0.1, HALF / 2), (1.8, -HALF / 2)]).astype(int).T
    inside = np.asarray(canvas.buffer_rgba())[::-1][low:high, left:right, :3].reshape(-1, 3)  # its first line is on top
    colours, counts = np.unique(inside, axis=0, return_counts=True)
    seen = counts[[contrast(colour / 255, state.colour) > 2 for colour in colours]].sum()
    assert 0.02 < seen / counts.sum() < 0.6


def test_what_was_sent_stands_beside_its_mark_as_far_as_it_fits():
    """Two letters a unit: room for all to the left of the first, for none at the second, for three, and for all."""
    sent = {0.0: b"hello world", 1.6: b"no room", 2.0: b"abcdefgh", 5.0: b"hi"}
    messages = [SocketEvent("client send", at, at, Connection(()), "", len(data), data) for at, data in sent.items()]
    axis = Figure().subplots()
    _quotes(axis, messages, 1, _View(0.0, 1.0, 10.0, 2.0, LIGHT, 1))
    assert [(each.get_text(), each.xy, each.xyann) for each in axis.texts] == [
        ("hello world", (0.0, 1 - ABOVE), (-9, 0)),
        ("ab…", (2.0, 1 - ABOVE), (9, 0)),
        ("hi", (5.0, 1 - ABOVE), (9, 0)),
    ]


def test_marks_say_when_what_was_sent_and_answered():
    timeline = made(2, echoes=3)
    (axis,) = timeline.figure().axes
    for upwards, kept in ((True, "to_server"), (False, "answers")):
        times = [(row, event.began) for row, lane in enumerate(timeline.lanes) for event in getattr(lane, kept)]
        assert len(times) == 6
        assert np.array(marks(axis, upwards)) == pytest.approx(np.array(times))
    assert "hello" in words(axis)


def test_words_on_bars_and_summaries_beside_them():
    timeline = made(2)
    (axis,) = timeline.figure().axes
    assert "served by the server thread" not in words(axis)  # on a third of the picture there is no room
    assert [text for text in words(axis) if text.startswith("served")] == ["served", "served"]
    assert [text for text in words(axis) if text.startswith("waits")] == ["waits"]
    summaries = [text for text in axis.texts if "\n" in text.get_text()]
    assert [text.get_text() for text in summaries] == [
        "waited 9.5 ms, served 890 ms\n1 message, 5 B",
        "waited 1 s, served 890 ms\n1 message, 5 B",
    ]
    assert [text.get_position() for text in summaries] == [(1.01, 0), (1.01, 1)]
    timeline = made(1)
    timeline.now = 1.0
    (axis,) = timeline.figure().axes
    assert "served by the server thread" in words(axis)
    (axis,) = made(9).figure().axes
    assert "waits in the backlog" in words(axis)


@pytest.mark.parametrize(
    ("lanes", "dark"),
    [(0, False), (3, False), (3, True)]
    + [pytest.param(lanes, False, marks=pytest.mark.soak) for lanes in (1, LABEL_LANES, 300)],
)
@pytest.mark.parametrize("kind", ["clients", "threads", "beside"])
def test_every_word_can_be_read(kind, lanes, dark):
    timeline = made(lanes)
    shown = {
        "clients": timeline,
        "threads": timeline.by_thread(),
        "beside": side_by_side(timeline, made(2, server="another server")),
    }[kind]
    assert_readable(shown.figure(dark=dark), (DARK if dark else LIGHT)["paper"])


def test_an_empty_timeline_says_so():
    figure = made(0).figure()
    (axis,) = figure.axes
    assert words(axis) == ["no client came"]
    assert axis.get_xlim() == pytest.approx((0, 1020))
    assert names(axis) == []


# -- very much to draw -----------------------------------------------------------------------------------------------


def area(axis, state, begin, end):
    """The part of the lane's bar between two times that has the colour of a state."""
    total = 0.0
    for each in axis.collections:
        if type(each).__name__ == "PolyCollection" and tuple(each.get_facecolor()[0]) == to_rgba(state.colour):
            boxes = np.concatenate([path.vertices.reshape(-1, 5, 2) for path in each.get_paths()])
            (x0, y0), (x1, y1) = boxes.min(1).T, boxes.max(1).T
            total += sum((x1 - x0) * (y1 - y0) * ((begin <= (x0 + x1) / 2) & ((x0 + x1) / 2 <= end)))
    return total / ((end - begin) * 2 * HALF)


@pytest.mark.parametrize("works", [0.1, 0.5, 0.6, 0.9])
def test_a_dense_lane_shows_how_much_of_the_time_the_server_worked(works):
    """Neither as one that always works nor as one that never does."""
    timeline = made(1)
    spans = [Span(BACKLOG, 0.0, 0.5)]
    for begin in np.arange(0.5, 1.5, 0.5 / FINE):  # 3.4 of them in a pixel
        middle = begin + works * 0.5 / FINE
        spans += [Span(WORKS, begin, middle), Span(IN_RECV, middle, begin + 0.5 / FINE)]
    spans.append(Span(IN_SEND, 1.5, 1.9))
    timeline.__dict__["spans"] = {"client 0": spans}
    (axis,) = timeline.figure().axes
    pixel = 2.0 * 1.02 / PIXELS
    assert area(axis, WORKS, 0.5, 1.5) == pytest.approx(works, abs=0.01)
    assert area(axis, IN_RECV, 0.5, 1.5) == pytest.approx(1 - works, abs=0.01)
    assert bars(axis, BACKLOG)[0] == pytest.approx((0, 0.5), abs=pixel), "pixels of one state are one bar"
    assert bars(axis, IN_SEND)[-1] == pytest.approx((1.5, 1.9), abs=pixel)
    assert IN_SEND.legend in legend(axis.figure)


def test_a_pixel_is_shared_by_its_states_as_they_shared_its_time():
    timeline = made(1)
    pixel = 2.0 * 1.02 / PIXELS
    shares = [(0, IN_RECV, 10.25), (10.25, WORKS, 20.5), (20.75, BACKLOG, 20.875), (30, PAUSED, 32)]
    spans = [Span(state, begin * pixel, end * pixel) for begin, state, end in shares]
    spans += [Span(WORKS, at * pixel, (at + 0.5) * pixel) for at in range(500, 500 + FINE)]  # shorter than a pixel
    timeline.__dict__["spans"] = {"client 0": spans}
    (axis,) = timeline.figure().axes

    def pixels(state):
        return [(round(begin / pixel), round(end / pixel)) for begin, end in bars(axis, state)]

    assert pixels(IN_RECV) == [(0, 10), (10, 11)]
    assert area(axis, IN_RECV, 10 * pixel, 11 * pixel) == pytest.approx(0.25, abs=0.01)
    assert area(axis, WORKS, 20 * pixel, 21 * pixel) == pytest.approx(0.8, abs=0.01)
    assert area(axis, BACKLOG, 20 * pixel, 21 * pixel) == pytest.approx(0.2, abs=0.01)
    assert pixels(WORKS)[-1] == (500, 500 + FINE)
    assert pixels(PAUSED) == [(30, 32)]


@pytest.mark.parametrize("lanes", [LABEL_LANES, *(pytest.param(each, marks=pytest.mark.soak) for each in (1, 100))])
def test_however_many_stretches_there_are_the_bars_are_bounded_by_the_pixels(lanes):
    timeline = made(lanes, echoes=20_000 // lanes)
    assert sum(map(len, timeline.spans.values())) > 50_000
    (axis,) = timeline.figure().axes
    drawn = [lane for state in STATES for lane, *_ in rows_of(axis, state)]
    assert max(map(drawn.count, range(lanes))) <= max(FINE, len(STATES) * PIXELS)


def test_of_too_many_messages_none_is_marked():
    (axis,) = made(1, echoes=MARKS).figure().axes
    assert len(marks(axis, upwards=True)) == MARKS
    (axis,) = made(1, echoes=MARKS + 1).figure().axes
    assert not marks(axis, upwards=True)
    assert f"{MARKS + 1} messages, too many to mark each" in words(axis)


@pytest.mark.parametrize(("lanes", "said"), [(100, "100 lanes"), (3000, "1,500 of 3,000 lanes")])
def test_of_many_lanes_some_are_named(lanes, said):
    timeline = made(lanes)
    figure = timeline.figure()
    (axis,) = figure.axes
    assert axis.get_ylabel() == f"{said}, the first on top"
    assert len(names(axis)) == CHOSEN
    assert (names(axis)[0], names(axis)[-1]) == ("client 0", f"client {lanes - 1}")
    waited = {row: end for row, _, end in rows_of(axis, BACKLOG)}  # client 7 is accepted after seven seconds
    assert [waited[place] for place in axis.get_yticks()] == [int(name.split()[1]) + 0.01 for name in names(axis)]
    assert len(waited) == min(lanes, LINES)
    gaps = {round(after - before) for before, after in itertools.pairwise(sorted(waited.values()))}
    assert gaps <= {round(lanes / len(waited)), round(lanes / len(waited)) + 1}, "evenly chosen"
    assert not words(axis)
    assert not marks(axis, upwards=True)


def test_bars_of_many_lanes_are_drawn_to_the_last_line():
    """In the picture itself: no lane hides another, and nothing is drawn where nothing was."""
    lanes = 1000
    figure = made(lanes).figure()
    (axis,) = figure.axes
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[::-1, :, :3]  # its first line is on top
    for lane in (3, 500, 990):
        for time, colour in ((lane / 2, BACKLOG.colour), (lane + 15, LIGHT["paper"])):
            across, up = axis.transData.transform((time, lane))
            assert picture[int(up), int(across)] == pytest.approx(np.array(to_rgb(colour)) * 255, abs=3)


# -- several timelines, parts, threads -------------------------------------------------------------------------------


def test_side_by_side_has_one_scale():
    figure = side_by_side(made(1), made(3, server="another")).figure()
    assert len(figure.axes) == 2
    assert len({axis.get_xlim() for axis in figure.axes}) == 1
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["serve", "another"]
    assert len({tuple(axis.get_ylim()) for axis in figure.axes}) == 1
    with pytest.raises(ValueError, match="no timeline to draw"):
        timeline_figure([])


def test_thread_lanes():
    timeline = made(2)
    figure = timeline.by_thread().figure()
    (axis,) = figure.axes
    assert names(axis) == [THREAD]
    assert bars(axis, IN_ACCEPT)[1] == pytest.approx((0.9, 1.01))
    assert bars(axis, WORKS) == [pytest.approx((0.2, 0.5)), pytest.approx((1.2, 1.5))]
    assert bars(axis, IN_SEND) == [pytest.approx((0.5, 0.62)), pytest.approx((1.5, 1.62))]
    assert not bars(axis, BACKLOG)
    assert {"with client 0", "with client 1"} <= set(words(axis))
    assert legend(figure)[0] == IN_ACCEPT.legend
    assert "client sends" not in legend(figure)


def test_a_thread_that_is_held_before_accept():
    observation = Observation("by hand", EventLog(clock=lambda: 20.0))
    observation.close_all()
    listener, client = Connection(()), Connection(("127.0.0.1", 1), name="alice")
    observation.log.add("connect", 0.0, client, ended=0.0)
    observation.log.add("pause", 0.0, listener, thread=THREAD, ended=10.0)
    observation.log.add("accept", 10.0, Connection(client.client), thread=THREAD, ended=20.0)
    (axis,) = Timeline.of(observation).by_thread().figure().axes
    assert bars(axis, PAUSED) == [(0.0, 10.0)]
    assert words(axis) == ["paused before accept", "waits in accept"]


# -- what a notebook gets, any text ----------------------------------------------------------------------------------


def test_what_a_notebook_gets():
    for shown, text in (
        (made(2), str(made(2))),
        (made(2).by_thread(), str(made(2).by_thread())),
        (side_by_side(made(1), made(0)), f"{made(1)}\n{made(0)}"),
    ):
        data, metadata = shown._repr_mimebundle_(include=None, exclude=None)
        assert set(data) == {"text/plain", "image/png"}
        assert data["text/plain"] == text
        assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
        assert set(metadata["image/png"]) == {"width", "height", "alt"}
        assert metadata["image/png"]["alt"] == text


NASTY = ["$x^2$", "$\\frac$", "a_b^{", "\\alpha", "😀👍🏽", "世界", "x" * 500, "", "\x00\x1b[31m", "%s", "<b>&</b>"]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize(
    "kind", ["one", "threads", *(pytest.param(each, marks=pytest.mark.soak) for each in ("two", "beside", "many"))]
)
def test_any_text_can_be_drawn(text, kind):
    timeline = made({"one": 1, "many": LABEL_LANES + 1}.get(kind, 2), text=text, server=text)
    shown = {"threads": timeline.by_thread(), "beside": side_by_side(timeline, timeline)}.get(kind, timeline)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = shown.figure()
        png(figure, dpi=40)
    every = [each for each in figure.findobj(Text) if each.get_text()]
    assert not any("\x1b" in each.get_text() or "\x00" in each.get_text() for each in every)
    if text == "$x^2$":
        those = [each for each in every if "$x^2$" in each.get_text()]
        assert those
        assert not any(each.get_parse_math() for each in those)


ALIKE = [
    ("世界", "地球", ["\\u4e16\\u754c", "\\u5730\\u7403"]),
    ("สมชาย", "สมหญิง", ["\\u0e2a\\u0e21\\u0e0a\\u0e32\\u0e22", "\\u0e2a\\u0e21\\u0e2b\\u0e0d\\u0e34…"]),
    (
        "世界世界世界",
        "世界世界世地",
        ["\\u4e16\\u754c\\u4e16\\u754c\\u4e16…", "\\u4e16\\u754c\\u4e16\\u754c\\u4e16… (2)"],
    ),
    ("zoe\u0308", "a" + "\u0301" * 23, ["zoe\u0308", "a\u0301" + "\\u0301" * 4 + "\\u03…"]),
]


@pytest.mark.parametrize(("one", "other", "drawn"), ALIKE, ids=["Chinese", "Thai", "long", "marks"])
def test_two_names_never_look_alike(one, other, drawn):
    with start(serve_single) as server, Client(server, name=one), Client(server, name=other):
        timeline = server.timeline()
    assert [lane.name for lane in timeline.lanes] == [one, other]
    figure = timeline.figure()
    assert names(figure.axes[0]) == drawn
    assert_readable(figure, LIGHT["paper"])


def test_pyplot_is_never_loaded():
    program = """
import sys
from echo_kit.watch.events import EventLog
from echo_kit.watch.observation import Observation
from echo_kit.views.shown import Timeline, side_by_side
observation = Observation("serve")
observation.close_all()
timeline = Timeline.of(observation)
for shown in (timeline, timeline.by_thread(), side_by_side(timeline, timeline)):
    shown._repr_mimebundle_()
print("matplotlib.figure" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("True False\n", "")


# -- real servers ----------------------------------------------------------------------------------------------------


def test_of_a_real_run():
    with start(serve_single) as server, Client(server, name="alice") as alice, Client(server, name="$bob$") as bob:
        alice.send("hello 😀")
        bob.send("$x$")
        assert alice.receive(timeout=LIMIT) == "hello 😀"
        timeline = server.timeline()
    data, _ = timeline._repr_mimebundle_()
    assert re.search(r"\$bob\$ +connected · waits in the backlog behind alice", data["text/plain"])
    (axis,) = timeline.figure().axes
    (waits,) = [bar for bar in rows_of(axis, BACKLOG) if bar[0] == 1]
    assert waits[2] == pytest.approx((timeline.now - timeline.start) * 1000)


def test_of_a_client_that_has_sent_nothing():
    """A lane without one message: no mark, no quotation, and it is drawn."""
    with start(serve_threaded) as server, Client(server, name="alice"):
        figure = server.timeline().figure()
        assert not marks(figure.axes[0], upwards=True)
        png(figure, dpi=40)


def test_of_a_handler_that_is_stuck_in_sendall():
    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                conn.recv(100)
                conn.sendall(b"x" * 20_000_000)

    with start(serve) as server, Client(server, name="alice") as alice:
        alice.send("all of it")
        timeline = server.timeline()
    for figure, row in ((timeline.figure(), "alice"), (timeline.by_thread().figure(), THREAD)):
        (axis,) = figure.axes
        assert names(axis) == [row]
        ((_, end),) = bars(axis, IN_SEND)
        assert end == pytest.approx((timeline.now - timeline.start) * 1000)
        assert IN_SEND.legend in legend(figure)
        assert_readable(figure, LIGHT["paper"])


def test_of_a_handler_that_computes():
    over, computes = threading.Event(), threading.Event()

    def serve(host, port):
        with socket.create_server((host, port)) as listener:
            conn, _ = listener.accept()
            with conn:
                data = conn.recv(100)
                while not over.is_set():
                    computes.set()
                    sum(range(1000))
                conn.sendall(data)

    with start(serve) as server, Client(server, name="alice") as alice, Client(server, name="bob"):
        try:
            alice.send("hello")
            assert computes.wait(LIMIT)
            timeline = server.timeline()
        finally:
            over.set()
        assert alice.receive(timeout=LIMIT) == "hello"
    for figure in (timeline.figure(), timeline.by_thread().figure()):
        (axis,) = figure.axes
        (works,) = [bar for bar in rows_of(axis, WORKS) if bar[0] == 0]
        assert works[2] == pytest.approx((timeline.now - timeline.start) * 1000)
        assert_readable(figure, LIGHT["paper"])
    (axis,) = timeline.figure().axes
    assert [lane for lane, *_ in rows_of(axis, BACKLOG)][-1] == 1


def test_a_picture_says_that_the_log_was_full():
    log = EventLog(capacity=3, clock=lambda: 9.0)
    observation = Observation("serve", log)
    for number in range(5):
        log.add("recv", float(number), Connection(("127.0.0.1", 1)), "thread 1", 1, b"x", ended=number + 0.5)
    figure = Timeline.of(observation).figure()
    observation.close_all()
    assert figure.axes[0].get_title(loc="left") == "serve (the oldest 2 events are missing)"
