"""`Ballot` and `Results`: what a vote counts, who may see what when, and the table in the end."""

import csv
import io
import json
import threading

import pytest

from echo_kit.live import votes
from echo_kit.live.votes import Ballot, Results

YES, NO = "yes, at once", "no, he is refused"


@pytest.fixture
def ballot():
    return Ballot("Can bob connect?", [YES, NO])


def vote(ballot, *options, label="phone"):
    return [ballot.cast(f"{label} {number}", option) for number, option in enumerate(options)]


def counts(ballot, seat="phone 0"):
    return ballot.shown(seat)["counts"]


def test_a_seat_has_one_vote_and_may_change_it_while_the_vote_is_open(ballot):
    assert vote(ballot, 0, 0, 1) == [True] * 3
    assert ballot.cast("phone 0", 1)
    assert [ballot.shown(f"phone {number}")["chosen"] for number in range(4)] == [1, 0, 1, None]
    ballot.show()
    assert not ballot.cast("phone 0", 0)
    assert counts(ballot) == [1, 2]
    ballot.set_open(True)
    assert ballot.cast("phone 0", 0)


@pytest.mark.parametrize("option", [-1, 2, True, 0.0, "0", None, [0]])
def test_what_is_no_option_is_no_vote(ballot, option):
    assert not ballot.cast("phone 0", option)
    ballot.show()
    assert counts(ballot) == [0, 0]


def test_bars_are_hidden_until_they_are_shown(ballot):
    def bars():
        return [(each["label"], each["votes"], each["counts"]) for each in ballot.board(30)["rounds"]]

    vote(ballot, 0, 1, 1)
    assert counts(ballot) is None
    assert bars() == [("first vote", 3, None)]
    assert ballot.board(30)["lines"] == ["3 of 30 have voted"]
    assert ballot.board(2)["lines"] == ["3 of 3 have voted"]  # phones have left
    ballot.show()
    assert counts(ballot) == [1, 2]
    ballot.again()
    vote(ballot, 1, 1, 1)
    assert counts(ballot) is None  # the first ones are known, the second are not
    assert bars() == [("first vote", 3, [1, 2]), ("second vote", 3, None)]
    ballot.show()
    assert bars() == [("first vote", 3, [1, 2]), ("second vote", 3, [0, 3])]
    assert ballot.over


def test_a_second_vote_hides_a_first_one_that_nobody_has_seen(ballot):
    vote(ballot, 0)
    ballot.again()
    assert [each["counts"] for each in ballot.board(1)["rounds"]] == [None, None]


def test_the_truth_stands_beside_both_votes_and_not_before_it_is_told(ballot):
    vote(ballot, 0)
    ballot.again()
    vote(ballot, 1)
    before = ballot.shown("phone 0"), ballot.board(1)
    assert (before[0]["truth"], before[1]["truth"], ballot.over) == (None, None, False)
    ballot.tell(1, f"What happened: {NO}.")
    board = ballot.board(1)
    assert (board["truth"], board["lines"]) == (1, [f"What happened: {NO}."])
    assert [each["counts"] for each in board["rounds"]] == [[1, 0], [0, 1]]
    assert ballot.shown("phone 0") | {"truth": 1, "counts": [0, 1], "open": False} == ballot.shown("phone 0")
    assert ballot.over


def test_a_late_vote_for_the_first_round_is_one_for_another_ballot(ballot):
    first = ballot.id
    ballot.again()
    assert ballot.id != first
    second = ballot.id
    ballot.again()  # there is no third one: it is open again
    assert (ballot.id, ballot.open) == (second, True)


def test_threads_that_vote_at_once_lose_no_vote(ballot):
    barrier = threading.Barrier(4)

    def voter(label):
        barrier.wait(20)
        for _ in range(20):
            vote(ballot, *[0, 1] * 25, label=label)

    threads = [threading.Thread(target=voter, args=(f"row {number}",)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    ballot.show()
    assert counts(ballot) == [100, 100]


def test_seats_that_are_made_up_have_an_end(ballot, monkeypatch):
    monkeypatch.setattr(votes, "MOST_VOTES", 3)
    assert vote(ballot, 0, 0, 0, 0) == [True, True, True, False]
    assert ballot.cast("phone 0", 1)


def test_what_a_phone_and_the_stage_are_told_is_fit_for_json(ballot):
    vote(ballot, 0)
    ballot.tell(None, "What happened: 42, which none of the options says.")
    assert json.loads(json.dumps(ballot.shown("x"))) == ballot.shown("x")
    assert json.loads(json.dumps(ballot.board(1))) == ballot.board(1)


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(ballot):
    vote(ballot, 0, 0, 1)
    ballot.again()
    vote(ballot, 1, 1)
    ballot.tell(1, "What happened: …")
    other = Ballot("<b>1 & 1</b>", ["=1+1", "<i>", "$x$"])
    vote(other, 2)
    return Results([ballot, other])


def test_the_table_has_all_votes_also_hidden_ones(results):
    assert repr(results).splitlines() == [
        "question          option             first  second  truth",
        "Can bob connect?  yes, at once       2      0",
        "                  no, he is refused  1      2       true",
        "<b>1 & 1</b>      =1+1               0",
        "                  <i>                0",
        "                  $x$                1",
    ]
    assert repr(Results([])) == "no votes yet"
    assert Results([])._repr_html_() == "<p>no votes yet</p>"


def test_the_table_in_html_is_text(results):
    shown = results._repr_html_()
    assert "&lt;b&gt;1 &amp; 1&lt;/b&gt;" in shown
    assert "<b>" not in shown
    assert "<i>" not in shown
    assert "mathjax_ignore" in shown


def test_a_spreadsheet_gets_each_row_whole_and_computes_nothing(results, tmp_path):
    rows = list(csv.DictReader(io.StringIO(results.to_csv())))
    assert [row["question"] for row in rows] == ["Can bob connect?"] * 2 + ["<b>1 & 1</b>"] * 3
    assert rows[1] == {"question": "Can bob connect?", "option": NO, "first": "1", "second": "2", "truth": "true"}
    assert rows[2]["option"] == "'=1+1"
    path = results.save(tmp_path / "votes.csv")
    assert path.read_text("utf-8-sig") == results.to_csv()
    with pytest.raises(FileNotFoundError):
        results.save(tmp_path / "nowhere" / "votes.csv")


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x"])
def test_no_cell_is_a_formula(text):
    rows = list(csv.reader(io.StringIO(Results([Ballot(text, [text, "b"])]).to_csv())))
    assert rows[1][:2] == [f"'{text}"] * 2


def test_the_table_does_not_change_any_more(ballot):
    results = Results([ballot])
    before = repr(results)
    vote(ballot, 0)
    assert repr(results) == before
