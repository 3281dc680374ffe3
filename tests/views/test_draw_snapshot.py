"""The picture of a snapshot: the code with its marks, the queue, the timeline; whole, whatever is in it."""

import base64
import itertools
import socket
import struct
import threading
import warnings
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from echo_kit import Client, free_port, serve_single, serve_threaded, side_by_side, start
from echo_kit.views import kernel
from echo_kit.views.code import BADGES, STANDS
from echo_kit.views.draw_snapshot import BOXES, snapshot_figure
from echo_kit.views.draw_timeline import DARK, LIGHT
from echo_kit.views.shown import png
from echo_kit.views.states import BACKLOG

LIMIT = 20  # seconds that anything may take before a test fails
SMALLEST = 13  # points; on a phone of 360 pixels, 9 pixels
THEMES = pytest.mark.parametrize("dark", [False, True])


def echoed(client, text):
    client.send(text)
    assert client.receive(timeout=LIMIT) == text


def snapshot_with(*names, serve=serve_single):
    """The first of these clients has been answered, and the others have sent "hi"."""
    with start(serve) as server, ExitStack() as stack:
        for number, name in enumerate(names):
            client = stack.enter_context(Client(server, name=name))
            if number:
                client.send("hi")
            else:
                echoed(client, "hello")
        return server.snapshot()


def said(axis):
    return [text.get_text() for text in axis.texts]


def texts(axis, some):
    return [text for text in axis.texts if some in text.get_text()]


def boxes(axis):
    return [each for each in axis.patches if isinstance(each, Rectangle) and each.get_width() > 1]


def code_axes(figure):
    return figure.subfigs[0].axes


def assert_whole(figure):
    """Nothing stands over the figure's edge, or on anything else, and nothing is too small."""
    figure.draw_without_rendering()
    for axis in code_axes(figure):
        assert figure.bbox.x0 < axis.bbox.x0, "it stands in its column, an edge away from the side"
        assert axis.bbox.x1 <= figure.bbox.x1 + 1
        every = [(text, text.get_window_extent()) for text in axis.texts if text.get_text().strip()]
        for text, box in every:
            assert text.get_fontsize() >= SMALLEST, text
            assert axis.bbox.x0 - 3 <= box.x0, f"{text} is cut on the left"
            assert box.x1 <= axis.bbox.x1 + 3, f"{text} is cut on the right"
            assert figure.bbox.y0 <= box.y0
            assert box.y1 <= figure.bbox.y1
        for (text, box), (other, there) in itertools.combinations(every, 2):
            assert not box.padded(-1).overlaps(there.padded(-1)), f"{text} is over {other}"
    for legend in figure.subfigs[1].legends:
        box = legend.get_window_extent()
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1


@THEMES
def test_who_waits_and_why(dark):
    snapshot = snapshot_with("alice", "bob")
    figure = snapshot.figure(dark=dark)
    (axis,) = code_axes(figure)
    words = said(axis)
    assert words[:2] == ["serve_single", "bob waits: the only thread waits in recv for"]
    assert " ".join(words[1:3]) == snapshot.headline
    assert "    while data := conn.recv(1024):" in [each[8:] for each in words]
    (stands,) = texts(axis, "◀ server thread: waits in recv for alice")
    recv, accept = texts(axis, "conn.recv(1024)")[0], texts(axis, "listener.accept()")[0]
    assert stands.get_position()[1] == recv.get_position()[1] + 1, "below its line"
    assert to_rgba(BADGES[STANDS][0]) == stands.get_bbox_patch().get_facecolor()
    (nobody,) = texts(axis, "nobody is here")
    assert nobody.get_position()[1] == accept.get_position()[1] + 1
    assert to_rgba(BACKLOG.colour) == nobody.get_bbox_patch().get_edgecolor()
    (box,) = boxes(axis)
    assert box.get_facecolor() == to_rgba(BACKLOG.colour)
    assert {"bob", "2 bytes unread", "Connected, not accepted yet (the backlog):"} <= set(words)
    assert [label.get_text() for label in figure.subfigs[1].axes[0].get_yticklabels()] == ["alice", "bob"]
    theme = DARK if dark else LIGHT
    assert figure.get_facecolor() == to_rgba(theme["paper"])
    assert recv.get_color() == theme["ink"]
    assert_whole(figure)


def test_where_the_kernel_does_not_tell_of_strangers_the_picture_does_not_deny_them(monkeypatch):
    monkeypatch.setattr(kernel, "sys", SimpleNamespace(platform="darwin"))
    with start(serve_single) as server, Client(server, name="alice") as alice:
        echoed(alice, "hello")
        with socket.create_connection(server.address):  # it waits, and nobody can know
            snapshot = server.snapshot()
            words = said(code_axes(snapshot.figure())[0])
            assert snapshot.headline == words[1] == "no client of echo_kit waits"
            assert words[-2:] == ["Clients of echo_kit in the backlog:", "nobody"]
            with Client(server, name="bob"):
                figure = server.snapshot().figure()
                words = said(code_axes(figure)[0])
                assert words[1].startswith("bob waits: the only thread waits in recv")
                assert words[-3:] == ["Clients of echo_kit in the backlog:", "bob", "nothing to read"]
                assert_whole(figure)
    assert server.snapshot().headline == "stopped"
    words = said(code_axes(server.snapshot().figure())[0])
    assert words[-2:] == ["Connected, not accepted yet (the backlog):", "(it no longer listens)"]


@THEMES
@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ((), ["nobody"]),
        (("alice",), ["nobody"]),
        (("alice", "b", "c", "d"), ["b", "c", "d"]),
        (("alice", "b", "c", "d", "e"), ["b", "c", "and 2 more"]),
        (tuple("abcdefghijklmnopqrstuvwxyz"), ["b", "c", "and 23 more"]),
    ],
)
def test_any_number_of_clients(names, shown, dark):
    figure = snapshot_with(*names).figure(dark=dark)
    (axis,) = code_axes(figure)
    assert [text for text in said(axis) if text in shown] == shown
    assert len(boxes(axis)) == min(BOXES, max(0, len(names) - 1))
    assert_whole(figure)
    if not names:
        assert "no client came" in said(figure.subfigs[1].axes[0])


def test_side_by_side_and_after_the_stop():
    one, other = snapshot_with("alice", "bob"), snapshot_with("alice", "bob", serve=serve_threaded)
    figure = side_by_side(one, other).figure()
    left, right = code_axes(figure)
    assert (said(left)[0], said(right)[0]) == ("serve_single", "serve_threaded")
    assert (len(boxes(left)), len(boxes(right))) == (1, 0)
    assert left.get_ylim() == right.get_ylim()
    assert len({axis.get_xlim() for axis in figure.subfigs[1].axes}) == 1
    assert_whole(figure)
    with start(serve_single) as server, Client(server, name="alice") as alice:
        echoed(alice, "hello")
    figure = server.snapshot().figure()
    (axis,) = code_axes(figure)
    assert {"stopped", "(it no longer listens)"} <= set(said(axis))
    assert not boxes(axis)
    assert_whole(figure)
    with pytest.raises(ValueError, match="no snapshot to draw"):
        snapshot_figure([])


def test_long_functions_long_names_and_many_threads():
    over = threading.Event()

    def handle_one_client_with_quite_a_long_name_for_a_function(conn):
        with conn:
            while data := conn.recv(1024):
                for _ in range(2):
                    for _ in range(2):
                        for _ in range(2):
                            for _ in range(2):
                                if data and len(data) > 0 and data != b"a line that is longer than there is room for":
                                    conn.recv(1024)

    def serve(host, port):
        # a function of more than forty lines is shown around its marks
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        #
        with socket.create_server((host, port)) as listener:
            while not over.is_set():
                conn, _ = listener.accept()
                threading.Thread(target=handle_one_client_with_quite_a_long_name_for_a_function, args=[conn]).start()

    with start(serve, name="$a_server$ " + "x" * 60) as server, ExitStack() as stack:
        for number in range(9):
            stack.enter_context(Client(server, name=f"{number} $client$ {'y' * 40}")).send("hello")
        snapshot = server.snapshot()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = snapshot.figure()
        assert_whole(figure)
        png(figure, dpi=40)
    (axis,) = code_axes(figure)
    assert "…" in said(axis), "the lines that are left out"
    assert "◀ and 4 more" in said(axis)
    assert not any(text.get_parse_math() for text in axis.texts)


def test_what_a_notebook_gets():
    snapshot = snapshot_with("alice", "bob")
    for shown in (snapshot, side_by_side(snapshot, snapshot)):
        data, metadata = shown._repr_mimebundle_(include=None, exclude=None)
        assert data["text/plain"] == metadata["image/png"]["alt"] == str(shown)
        png_bytes = base64.b64decode(data["image/png"])
        assert png_bytes.startswith(b"\x89PNG")
        drawn = struct.unpack(">II", png_bytes[16:24])
        shown_at = metadata["image/png"]["width"], metadata["image/png"]["height"]
        assert all(abs(pixels - 2 * page) <= 1 for pixels, page in zip(drawn, shown_at, strict=True)), "sharp"


def test_the_headline_does_not_deny_a_thread_that_is_in_accept():
    """At another listening socket than the one at which bob waits."""

    def serve(host, port):
        with socket.create_server((host, port)) as first, socket.create_server((host, free_port())) as second:
            threading.Thread(target=second.accept).start()
            with first.accept()[0] as conn:
                while data := conn.recv(1024):
                    conn.sendall(data)

    assert snapshot_with("alice", "bob", serve=serve).headline == "bob waits"
