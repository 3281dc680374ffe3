"""What a type checker knows of the public names. mypy reads this file (see pyproject.toml); nothing runs it."""

from typing import assert_type

import echo_kit


def a_lesson(answer: str) -> None:
    server = assert_type(echo_kit.start(echo_kit.serve_threaded), echo_kit.Server)
    with echo_kit.Client(server, name="alice") as alice:
        alice.send("hello")
        assert_type(alice, echo_kit.Client)
        assert_type(alice.receive(), str | bytes)
    assert_type(server.timeline(), echo_kit.Timeline)
    assert_type(server.snapshot(), echo_kit.Snapshot)
    assert_type(echo_kit.ServerPanel(server).server, echo_kit.Server)
    assert_type(echo_kit.predict("Is bob answered?", {"yes": True, "no": False}), echo_kit.Prediction)
    room = echo_kit.Classroom(server, echo_kit.serve_single)
    room.ask(echo_kit.predict("Is bob answered?", {"yes": True, "no": False}))
    assert_type(room.rehearse(30).wait().echo_time(0.95), float | None)
    assert_type(room.results.to_csv(), str)
    assert_type(echo_kit.free_port(), int)
    assert_type(server.stop(), None)
    with echo_kit.launch(echo_kit.serve_threaded, cores=1) as launched:
        report = assert_type(echo_kit.swarm(launched, clients=100, active=10), echo_kit.Swarm)
        assert_type((launched, launched.memory()), tuple[echo_kit.Launched, int | None])
    assert_type((report.complete, report.p99, report.memory_per_client), tuple[bool, float, float | None])
    echo_kit.strat  # type: ignore[attr-defined]  # noqa: B018


def an_exercise(exercise: echo_kit.Exercise, number: str) -> None:
    report = assert_type(echo_kit.check(exercise, print), echo_kit.Report)
    assert_type(echo_kit.check(number, print, strict=True, seed=1), echo_kit.Report)
    assert_type((report.passed, report.points, report.total, report.first_wrong), tuple[bool, float, int, str])
    assert_type([(step.text, step.outcome) for step in report.steps], list[tuple[str, str]])
    assert_type(echo_kit.progress(keep=False).rows[0].attempts, int)
    assert_type(echo_kit.NotSolved(report).report, echo_kit.Report)
