"""Schedulers that a study names as `module:Name`."""

import sys

import pytest

from search.config.load import parse
from search.record.journal import Journal
from search.record.trial import State
from search.schedulers.scheduler import SCHEDULERS, build_scheduler
from search.study import Study
from trainables.errors import InputError
from trainables.names import IMPORTED


class Threshold:
    """Stops what is below a half; keeps what it was built from."""

    def __init__(self, grace_epochs, seed, max_epochs, factor=2):
        self.built = (grace_epochs, seed, max_epochs, factor)

    def report(self, number, epoch, value):  # noqa: ARG002 the contract's names
        return epoch >= self.built[0] and value < 0.5


class OfNothing:
    report = Threshold.report
    built = (1,)


class WithRungs:
    def __init__(self, rungs):
        self.rungs = rungs


class WithoutReport:
    """No scheduler."""


@pytest.fixture(autouse=True)
def own(monkeypatch):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])
    IMPORTED.clear()


def configure(scheduler, **search):
    return parse({"name": "x", "search": {"scheduler": scheduler, "max_epochs": 9, "seed": 7, **search}})


def test_a_class_gets_what_its_constructor_names():
    assert build_scheduler(configure("own:Threshold").search, "cnn").built == (3, 7, 9, 2)
    assert isinstance(build_scheduler(configure("own:OfNothing").search, "cnn"), OfNothing)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "WithRungs",
            "cannot be built .*'rungs'.*: derive a class that needs at most grace_epochs, reduction_factor, max",
        ),
        ("WithoutReport", r"lacks report\(number, epoch, value\) -> bool"),
        ("SCHEDULERS", "cannot be built"),
        ("Absent", "cannot be imported"),
    ],
)
def test_a_class_that_is_no_scheduler_is_refused_in_a_sentence(name, said):
    assert SCHEDULERS
    with pytest.raises(InputError, match=said) as caught:
        build_scheduler(configure(f"own:{name}").search, "cnn")
    assert str(caught.value).startswith(f"search.scheduler = 'own:{name}'")


class Fragile:
    def report(self, number, epoch, value):  # noqa: ARG002 the contract's names
        return {1: False}[epoch]


def test_a_class_that_raises_ends_the_search_in_a_sentence_and_the_study_continues_when_it_is_corrected(
    tmp_path, monkeypatch
):
    config = configure("own:Fragile", architectures=["cnn"], num_trials=2)
    said = r"search.scheduler = 'own:Fragile' fails at trial 0, epoch 2 \(KeyError: 2\): correct it, then resume"
    with pytest.raises(InputError, match=said):
        run(Study(config, Journal(tmp_path / "study.journal", "x", note=print)))
    with pytest.raises(InputError, match=said):
        Study(config, Journal(tmp_path / "study.journal", "x", note=print))
    monkeypatch.setitem(IMPORTED, "own:Fragile", OfNothing)
    study = Study(config, Journal(tmp_path / "study.journal", "x", note=print))
    assert [len(trial.epochs) for trial in study.trials] == [2]
    assert run(study)


def run(study, limit=None):
    trained = 0
    while (trial := study.ask()) is not None:
        stop = False
        while not stop:
            if trained == limit:
                return False
            epoch = len(trial.epochs) + 1
            value = 0.5 + (trial.number % 4 - 1) * epoch / 100
            stop = study.report(trial.number, {"epoch": epoch, "accuracy": value}, "cpu")
            trained += 1
    return True


def test_a_study_with_an_own_scheduler_that_is_killed_equals_one_that_is_not(tmp_path):
    studies = {}
    for limit in (None, 5):
        folder = tmp_path / str(limit)
        folder.mkdir()

        def build(folder=folder):
            config = configure("own:Threshold", num_trials=8, architectures=["cnn"], repeat=True)
            return Study(config, Journal(folder / "study.journal", "x", note=print))

        while not run(study := build(), limit):
            pass
        studies[limit] = [(trial.state, trial.reason, len(trial.epochs)) for trial in study.trials]
    assert studies[None] == studies[5]
    assert studies[5][0] == (State.PRUNED, "stopped by own:Threshold at epoch 3", 3)
    assert studies[5][1] == (State.COMPLETE, None, 9)
