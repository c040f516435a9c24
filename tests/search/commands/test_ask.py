"""`ask` and `stop`: what they accept, refuse and say."""

import json

import pytest
import typer
from typer.testing import CliRunner

from search.commands import ask, stop
from search.config.load import parse
from search.record.journal import Journal
from search.record.lease import hold
from search.record.manifest import save_manifest
from search.record.trial import State

SETTINGS = {
    "name": "mine",
    "search": {"num_trials": 4, "max_epochs": 3, "architectures": ["cnn"], "max_total_epochs": 9},
    "space": {
        "cnn": {
            "filters": {"choice": [8, 16, 32]},
            "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
            "dense_layers": {"low": 0, "high": 2},
            "dense_units": {"choice": [16, 32], "when": {"dense_layers": [1, 2]}},
            "flip": True,
        }
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch, describe_record):
    """A study with a trial that runs, one that has ended, and no process that searches it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    save_manifest(folder, describe_record(parse(SETTINGS)))
    journal = Journal(folder / "study.journal", "mine", note=print)
    trials = [journal.add_trial("cnn", {"filters": 8}, {}) for _ in range(2)]
    journal.add_epoch(trials[0], {"epoch": 1, "accuracy": 0.5}, device="cpu", elapsed_s=1.0)
    journal.end_trial(trials[0], State.PRUNED, "stopped by asha at epoch 1", {})
    return folder


@pytest.fixture
def call():
    def call(command, *arguments):
        app = typer.Typer()
        app.command()(command.main)
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return call


def list_requests(folder):
    return [json.loads(path.read_text()) for path in sorted((folder / "requests").glob("*"))]


def test_a_point_is_enqueued(call, folder):
    with hold(folder / "study.lock", print):
        code, stdout, _ = call(ask, folder, "cnn", "filters=16", "learning_rate=1e-3")
    assert (code, stdout) == (0, "cnn filters=16 learning_rate=0.001 is enqueued: it is the next trial.\n")
    assert list_requests(folder) == [{"ask": {"cnn.filters": 16, "cnn.learning_rate": 0.001}, "trial": None}]


def test_a_point_waits_for_the_next_search_if_none_runs(call, folder):
    before = (folder / "study.journal").read_bytes()
    code, stdout, _ = call(ask, "results/mine", "cnn", "filters=16")
    assert code == 0
    assert stdout == "cnn filters=16 is enqueued: the study trains it when it is continued with --resume.\n"
    assert (folder / "study.journal").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vit", "filters=8"), "results/mine searches cnn, not vit"),
        (("resnet50", "weight_decay=0.1"), "results/mine searches cnn, not resnet50"),
        (("cnn", "filters"), "filters: expected NAME=VALUE, such as filters=64"),
        (("cnn", "=8"), "=8: expected NAME=VALUE"),
        (("cnn", "filters=8", "filters=16"), "filters is given twice"),
        (("cnn", "filter=8"), "cnn has no parameter filter"),
        (("cnn", "filters=9"), "cnn.filters = 9 is outside the space (8 | 16 | 32)"),
        (("cnn", "filters=8.0"), "cnn.filters = 8.0: expected int, not float"),
        (("cnn", "filters='8'"), "cnn.filters = '8': expected int, not str"),
        (("cnn", "filters=[8]"), "cnn.filters = [8]: expected int, not list"),
        (("cnn", "filters="), "cnn.filters = None: expected int, not NoneType"),
        (("cnn", "learning_rate=.nan"), "cnn.learning_rate = nan: expected a finite number"),
        (("cnn", "learning_rate=9.0"), "cnn.learning_rate = 9.0 is outside the space"),
        (("cnn", "flip=false"), "cnn.flip = False is outside the space"),
        (("cnn", "dense_units=16"), "dense_units has a condition in the space: give the parameters of its `when` too"),
        (("cnn", "dense_units=16", "dense_layers=0"), "cnn.dense_units has a condition in the space"),
    ],
)
def test_a_point_that_cannot_be_trained_is_one_sentence(call, folder, arguments, message):
    code, stdout, stderr = call(ask, "results/mine", *arguments)
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert len(stderr.splitlines()) == 1
    assert list_requests(folder) == []


def test_a_search_that_has_ended_by_itself_takes_no_point(call, folder):
    journal = Journal(folder / "study.journal", "mine", note=print)
    trial = journal.load()[1]
    for epoch in range(8):
        journal.add_epoch(trial, {"epoch": epoch + 1, "accuracy": 0.5}, device="cpu", elapsed_s=1.0)
    code, _, stderr = call(ask, "results/mine", "cnn", "filters=16")
    told = "the budget of 9 epochs is used: change that key, resume, then ask"
    assert (code, stderr) == (2, f"error: results/mine has ended, because {told}\n")


def test_a_condition_that_holds_is_accepted(call, folder):
    assert call(ask, folder, "cnn", "dense_units=16", "dense_layers=1")[0] == 0


@pytest.mark.parametrize(("arguments", "number"), [((), None), (("--trial", "1"), 1)])
def test_a_search_or_a_trial_is_asked_to_end(call, folder, arguments, number):
    with hold(folder / "study.lock", print):
        code, stdout, _ = call(stop, folder, *arguments)
    assert code == 0
    assert stdout.endswith("is asked to end; it does so within seconds.\n")
    assert list_requests(folder) == [{"ask": None, "trial": number}]


def test_a_trial_or_search_that_does_not_run_cannot_be_stopped(call, folder):
    code, _, stderr = call(stop, "results/mine")
    told = "so there is nothing to stop: python -m search evaluate results/mine evaluates its trials"
    assert (code, stderr) == (2, f"error: results/mine is not being searched, {told}\n")
    with hold(folder / "study.lock", print):
        code, _, stderr = call(stop, "results/mine", "--trial", "0")
        assert (code, stderr) == (2, "error: trial 0 of results/mine has ended (PRUNED); running: 1\n")
        assert "has no trial 9: its trials are 0 to 1" in call(stop, "results/mine", "--trial", "9")[2]
    assert list_requests(folder) == []


def test_a_search_that_is_being_evaluated_is_not_stopped(call, folder):
    journal = Journal(folder / "study.journal", "mine", note=print)
    trials = [journal.load()[1], *(journal.add_trial("cnn", {"filters": 8}, {}) for _ in range(2))]
    for trial in trials:
        journal.end_trial(trial, State.FAIL, "for the test", {})
    with hold(folder / "study.lock", print):
        assert "is not being searched, but evaluated or uploaded by process " in call(stop, "results/mine")[2]


def test_an_interrupted_search_that_is_evaluated_or_uploaded_takes_no_request_to_end(call, folder):
    with hold(folder / "study.lock", print, is_search=False):
        for arguments in ((), ("--trial", "1")):
            code, _, stderr = call(stop, "results/mine", *arguments)
            assert (code, "is not being searched, but evaluated or uploaded by process " in stderr) == (2, True)
        assert list_requests(folder) == []
        assert call(ask, folder, "cnn", "filters=16")[1].endswith("when it is continued with --resume.\n")


@pytest.mark.parametrize("command", [ask, stop])
def test_a_study_that_does_not_exist_is_one_sentence(call, tmp_path, command):
    arguments = ("cnn", "filters=8") if command is ask else ()
    code, _, stderr = call(command, tmp_path / "nowhere", *arguments)
    assert code == 2
    assert stderr.startswith("error: there is no study in")
