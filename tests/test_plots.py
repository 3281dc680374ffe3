"""Drawing: any number of lanes, any text, both themes, one scale side by side, and never pyplot."""

import base64
import re
import subprocess
import sys
import warnings

import pytest

from echo_kit import Client, serve_single, side_by_side, start
from echo_kit.events import Connection, EventLog
from echo_kit.observe import Observation
from echo_kit.plots import CONNECTING, DARK, LIGHT, SERVED, WAITING, png, timeline_figure
from echo_kit.timeline import Timeline


def made(lanes, server="serve", text="hello", seconds=1.0):
    """A timeline of one busy thread: each client waits until the one before it has left."""
    observation = Observation(server, EventLog(clock=lambda: (lanes + 1) * seconds))
    observation.close_all()
    log = observation.log
    for number in range(lanes):
        client = Connection(("127.0.0.1", number), name=f"client {number}" if text == "hello" else text)
        served = Connection(client.client)
        begins = number * seconds
        log.add("connect", 0.001 * number, client, ended=0.001 * number + 0.0005)
        log.add("accept", 0.0, served, thread="server thread", ended=begins + 0.01)
        data = text.encode()
        client.sent, client.received = len(data), len(data)
        log.add("client send", begins + 0.1, client, size=len(data), data=data[:40], ended=begins + 0.1)
        log.add("recv", begins + 0.1, served, thread="server thread", size=len(data), ended=begins + 0.2)
        log.add("send", begins + 0.2, served, thread="server thread", size=len(data), ended=begins + 0.3)
        log.add("client recv", begins + 0.3, client, size=len(data), data=data[:40], ended=begins + 0.3)
        log.add("client close", begins + 0.9, client, ended=begins + 0.9)
        log.add("close", begins + 0.95, served, ended=begins + 0.95)
    return Timeline.of(observation)


def bars(axis, colour):
    """The bars of that colour, as (begin, end) pairs."""
    from matplotlib.colors import to_rgba

    found = []
    for collection in axis.collections:
        if type(collection).__name__ == "PolyCollection" and tuple(collection.get_facecolor()[0]) == to_rgba(colour):
            found += [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in collection.get_paths()]
    return found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("lanes", [0, 1, 2, 24, 25, 300])
def test_any_number_of_lanes_is_drawn(lanes, dark):
    timeline = made(lanes)
    figure = timeline.figure(dark=dark)
    data, width, height = png(figure, dpi=40)
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert width > 300
    assert 100 < height <= 900
    (axis,) = figure.axes
    assert len(bars(axis, SERVED)) == lanes
    assert len(bars(axis, CONNECTING)) == lanes
    assert len(bars(axis, WAITING)) == lanes
    assert tuple(axis.get_facecolor()[:3]) == pytest.approx(rgb((DARK if dark else LIGHT)["paper"]))
    assert len(axis.get_yticklabels()) == (lanes if lanes <= 24 else 0)
    assert len(figure.legends[0].get_texts()) == 5


def rgb(colour):
    return [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def test_bars_are_where_the_figures_say():
    timeline = made(2)
    (axis,) = timeline.figure().axes
    table = timeline.table()
    for colour, column in ((WAITING, "seconds waited"), (SERVED, "seconds served")):
        lengths = [end - begin for begin, end in bars(axis, colour)]
        assert lengths == pytest.approx([row[column] for row in table])


def test_side_by_side_has_one_scale():
    figure = side_by_side(made(1), made(3, server="another")).figure()
    limits = {axis.get_xlim() for axis in figure.axes}
    assert len(figure.axes) == 2
    assert len(limits) == 1
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["serve", "another"]
    assert len({tuple(axis.get_ylim()) for axis in figure.axes}) == 1
    with pytest.raises(ValueError, match="no timeline to draw"):
        timeline_figure([])


def test_what_a_notebook_gets():
    for shown, text in ((made(2), str(made(2))), (side_by_side(made(1), made(0)), f"{made(1)}\n{made(0)}")):
        data, metadata = shown._repr_mimebundle_(include=None, exclude=None)
        assert set(data) == {"text/plain", "image/png"}
        assert data["text/plain"] == text
        assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
        assert set(metadata["image/png"]) == {"width", "height", "alt"}
        assert metadata["image/png"]["alt"] == text


NASTY = ["$x^2$", "$\\frac$", "a_b^{", "\\alpha", "😀👍🏽", "世界", "x" * 500, "", "\x00\x1b[31m", "%s", "<b>&</b>"]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize("lanes", [1, 2])
def test_any_text_can_be_drawn(text, lanes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = made(lanes, text=text, server=text).figure()
        png(figure, dpi=40)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    if text == "$x^2$":
        assert shown[0] == "$x^2$"
        assert not figure.axes[0].get_yticklabels()[0].get_parse_math()
    assert not any("\x1b" in each for each in shown)


def test_of_a_real_run():
    with start(serve_single) as server, Client(server, name="alice") as alice, Client(server, name="$bob$") as bob:
        alice.send("hello 😀")
        bob.send("$x$")
        assert alice.receive(timeout=20) == "hello 😀"
        data, _ = server.timeline()._repr_mimebundle_()
    assert re.search(r"\$bob\$ +connected · waits in the backlog behind alice", data["text/plain"])


def test_pyplot_is_never_loaded():
    program = """
import sys
from echo_kit.events import EventLog
from echo_kit.observe import Observation
from echo_kit.timeline import Timeline
observation = Observation("serve")
observation.close_all()
Timeline.of(observation)._repr_mimebundle_()
print("matplotlib.figure" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("True False\n", "")
