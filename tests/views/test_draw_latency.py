"""The picture of how long answers took: its words are those of the numbers that it was given."""

import pytest

from echo_kit.views.draw_latency import duration, latency_figure


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1.5, "1.5 s"), (0.9996, "1 s"), (0.9994, "999 ms"), (3.2e-3, "3.2 ms"), (0.9996e-3, "1 ms"), (2.5e-4, "250 µs")],
)
def test_durations_are_told_in_the_unit_that_people_use(seconds, words):
    assert duration(seconds) == words


def test_it_says_within_what_time_answers_came():
    times = [each / 1000 for each in range(100, 0, -1)]
    left, right = latency_figure("swarm", [*range(100)], times, 1234.5).axes
    assert left.get_title() == "50 % within 50 ms, 99 % within 99 ms, all within 100 ms"
    assert right.get_title() == "1,234 answers a second"


@pytest.mark.parametrize(
    ("longest", "ticks"),
    [(0.09, ["1 ms", "2 ms", "5 ms", "10 ms", "20 ms", "50 ms"]), (0.1, ["1 ms", "10 ms", "100 ms"])],
)
def test_ticks_are_few_and_not_too_few(longest, ticks):
    left, right = latency_figure("swarm", [0, 1], [0.001, longest], 2).axes
    for axis in (left.xaxis, right.yaxis):
        shown = [at for at in axis.get_major_locator().tick_values(0.001, longest) if 0.0009 < at < longest * 1.01]
        assert [axis.get_major_formatter()(at) for at in shown] == ticks


def test_where_no_answer_came_it_says_so():
    figure = latency_figure("swarm", [], [], 0)
    assert figure.get_suptitle() == "swarm No answer came."
    assert not any(axes.get_visible() for axes in figure.axes)
