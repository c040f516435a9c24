import copy
import json

import pytest

from search.config.yaml import format_yaml, read_yaml
from search.evaluation.choices import stamp
from search.evaluation.openings import _hash as build_hash
from search.evaluation.openings import build_opening, complete_entries, describe_openings
from search.record.journal import Journal
from trainables.errors import InputError


def choose(seeds):
    return {
        "chosen": stamp(),
        "seeds": seeds,
        "winners": [{"architecture": "cnn", "accuracy": 0.1 + 0.2}],
        "opened": None,
    }


def open_test(evaluations, journaled, seeds):
    evaluations.append(choose(seeds))
    opening = build_opening(evaluations, journaled)
    journaled.append(opening)
    evaluations[-1]["opened"] = dict(opening)


@pytest.fixture
def opened():
    """What study.yaml and the journal say of three openings."""
    evaluations, journaled = [], []
    for seeds in (1, 2, 3):
        open_test(evaluations, journaled, seeds)
    return evaluations, journaled


def list_faults(evaluations, journaled):
    return [note for note in describe_openings(evaluations, journaled) if "removed" in note or "changed" in note]


def test_openings_follow_one_another_by_hash_and_are_counted(opened):
    evaluations, journaled = opened
    hashes = [opening["hash"] for opening in journaled]
    assert [opening["previous"] for opening in journaled] == [None, *hashes[:2]]
    (note,) = describe_openings(evaluations, journaled)
    assert note == f"The test split was opened 3 times. The hash of the last opening begins with {hashes[2][:16]}."
    (first,) = describe_openings(evaluations[:1], journaled[:1])
    assert first.startswith("The test split was opened once.")
    assert describe_openings([choose(1)], []) == []


def test_an_opening_of_the_journal_that_is_damaged_is_not_copied():
    evaluations = [choose(1)]
    opening = {"x": 1}
    opening["hash"] = build_hash(evaluations[0], opening)
    with pytest.raises(InputError, match="opening of the test split is damaged"):
        complete_entries(evaluations, [opening])


def test_the_hash_survives_the_file_and_the_journal(opened, tmp_path):
    evaluations, journaled = opened
    (tmp_path / "study.yaml").write_text(format_yaml({"evaluations": evaluations}))
    journal = Journal(tmp_path / "study.journal", "x", note=print)
    for opening in journaled:
        journal.add_opening(opening)
    again = Journal.read(tmp_path / "study.journal", "x").list_openings()
    assert not list_faults(read_yaml(tmp_path / "study.yaml")["evaluations"], again)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(("kept", "where"), [("journal", "study.yaml"), ("study.yaml", "journal")])
def test_an_opening_that_was_removed_from_one_place_shows(opened, number, kept, where):
    evaluations, journaled = opened
    del (evaluations if where == "study.yaml" else journaled)[number]
    (fault,) = list_faults(evaluations, journaled)
    assert f"is in {'the ' * (kept == 'journal')}{kept} and not in {'the ' * (where == 'journal')}{where}" in fault
    assert describe_openings(evaluations, journaled)[0].startswith("The test split was opened 3 times.")


@pytest.mark.parametrize("number", [0, 1])
def test_an_opening_that_was_removed_from_both_places_shows_where_another_follows(opened, number):
    evaluations, journaled = opened
    del evaluations[number], journaled[number]
    (fault,) = list_faults(evaluations, journaled)
    assert "follows another one that was removed from study.yaml and from the journal" in fault


def test_the_last_opening_removed_from_both_places_does_not_show_but_for_its_hash(opened):
    evaluations, journaled = opened
    before = describe_openings(evaluations, journaled)
    del evaluations[-1], journaled[-1]
    after = describe_openings(evaluations, journaled)
    assert not list_faults(evaluations, journaled)
    assert before != after


def alter_choices(evaluations, _):
    evaluations[1]["seeds"] = 7


def alter_time(evaluations, _):
    evaluations[1]["opened"]["time"] = "2020-01-01T00:00:00+00:00"


def alter_journal(_, journaled):
    journaled[1] = journaled[1] | {"commit": "another"}


@pytest.mark.parametrize("alter", [alter_choices, alter_time, alter_journal])
def test_what_was_changed_after_the_opening_shows(opened, alter):
    alter(*opened)
    (fault,) = list_faults(*opened)
    assert "was changed after it was recorded" in fault


def test_an_opening_follows_the_one_that_was_removed_and_so_never_passes_for_the_first(opened):
    evaluations, journaled = opened
    removed = journaled[-1]["hash"]
    evaluations.clear()
    open_test(evaluations, journaled, 4)
    assert journaled[-1]["previous"] == removed
    assert len(list_faults(evaluations, journaled)) == 3
    assert describe_openings(evaluations, journaled)[0].startswith("The test split was opened 4 times.")


def test_a_kill_between_journal_and_study_yaml_is_completed_and_is_no_fault(opened):
    evaluations, journaled = opened
    whole = copy.deepcopy(evaluations)
    evaluations[-1]["opened"] = None
    complete_entries(evaluations, journaled)
    assert evaluations == whole
    assert not list_faults(evaluations, journaled)


def test_an_opening_never_completes_other_choices(opened):
    evaluations, journaled = opened
    evaluations[-1] |= {"opened": None, "seeds": 9}
    complete_entries(evaluations, journaled)
    assert evaluations[-1]["opened"] is None
    assert "not in study.yaml" in list_faults(evaluations, journaled)[0]


def test_openings_of_an_earlier_version_are_said_not_to_be_chained_and_can_be_followed():
    evaluations, journaled = [choose(1) | {"opened": stamp()}], []
    first, second = describe_openings(evaluations, journaled)
    assert first == "The test split was opened once."
    assert second.startswith("Openings of the test split that are not chained: 1.")
    open_test(evaluations, journaled, 2)
    assert len(describe_openings(evaluations, journaled)) == 2
    del evaluations[0]
    assert "follows another one that was removed" in list_faults(evaluations, journaled)[0]


@pytest.mark.parametrize("opening", [{}, {"hash": 1}, {"hash": "x", "previous": []}, None, "x", ["hash"], 3])
def test_a_damaged_opening_is_not_a_traceback(opened, opening):
    evaluations, journaled = opened
    evaluations.append(choose(4) | {"opened": opening, 7: "a key of another kind"})
    journaled.append(opening)
    complete_entries(evaluations, journaled)
    notes = describe_openings(evaluations, journaled)
    assert json.dumps(notes)
