"""The views as a notebook shows them: the data of `timeline.py` and `snapshot.py`, with a picture beside the text.

matplotlib is heavy, so whatever draws is imported when a picture is asked for.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from ..watch.patches import collector_paused
from . import snapshot, timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Shown:
    """Shows itself in a notebook: a picture, and the text beside it."""

    def figure(self, dark: bool = False) -> Figure:
        """A matplotlib Figure, to be saved or to be changed."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        with collector_paused():
            data, width, height = png(self.figure())
            text = str(self)
        return {"text/plain": text, "image/png": data}, {"image/png": {"width": width, "height": height, "alt": text}}


def png(figure: Figure, dpi: int = 160) -> tuple[str, int, int]:
    """The figure as base64 text, and the width and height, in CSS pixels, at which a page should show it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": 3})  # 6 takes longer for 1/5 less
    width, height = figure.get_size_inches() * 80
    return base64.b64encode(buffer.getvalue()).decode("ascii"), round(width), round(height)


class Timeline(Shown, timeline.Timeline):
    """What happened at one server, one lane for each client."""

    def by_thread(self) -> Threads:
        """The same run with one lane for each thread: what it did, for whom, and where it waited."""
        return Threads(self)

    def figure(self, dark: bool = False) -> Figure:
        from .draw_timeline import timeline_figure

        return timeline_figure([self], dark)


class Threads(Shown, timeline.Threads):
    """What happened at one server, one lane for each thread."""

    def figure(self, dark: bool = False) -> Figure:
        from .draw_timeline import threads_figure

        return threads_figure(self.timeline, dark)


class Timelines(Shown, tuple[Timeline, ...]):
    """Several timelines side by side, with the same scale."""

    def __repr__(self) -> str:
        return "\n".join(map(str, self))

    def figure(self, dark: bool = False) -> Figure:
        from .draw_timeline import timeline_figure

        return timeline_figure(self, dark)


class Snapshot(Shown, snapshot.Snapshot):
    """A server at one moment: where its threads stand, who waits, what happened until now."""

    timeline: Timeline

    def figure(self, dark: bool = False) -> Figure:
        from .draw_snapshot import snapshot_figure

        return snapshot_figure([self], dark)


class Snapshots(Shown, tuple[Snapshot, ...]):
    """Several servers, each at one moment, side by side."""

    def __repr__(self) -> str:
        return "\n\n".join(map(str, self))

    def figure(self, dark: bool = False) -> Figure:
        from .draw_snapshot import snapshot_figure

        return snapshot_figure(self, dark)


def answers_figure(title: str, at: list[float], times: list[float], per_second: float, dark: bool = False) -> Figure:
    """How long answers took. See `draw_latency.latency_figure`."""
    from .draw_latency import latency_figure

    return latency_figure(title, at, times, per_second, dark)


def side_by_side(*views: Any) -> Timelines | Snapshots:
    """Several timelines, or several snapshots, in one picture. Times start at 0 in each, with the same scale.

    Raises TypeError for anything else, for a mixture and for none at all.
    """
    if not views:
        raise TypeError("side_by_side() takes timelines or snapshots: give at least one")
    if all(isinstance(view, Snapshot) for view in views):
        return Snapshots(views)
    if all(isinstance(view, Timeline) for view in views):
        return Timelines(views)
    kinds = ", ".join(type(view).__name__ for view in views)
    raise TypeError(f"side_by_side() takes timelines or snapshots, all of one kind, not {kinds}")
