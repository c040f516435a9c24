import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from search.commands.inspect import main
from search.config.load import parse
from search.record.journal import Journal
from search.record.lease import hold
from search.record.manifest import load_manifest, save_manifest
from search.record.trial import State

APP = typer.Typer()
APP.command()(main)
SETTINGS = {"name": "mine", "search": {"num_trials": 4, "max_epochs": 3}}
METRICS = {"loss": 0.5, "train_loss": 0.4, "seconds": 2.0, "images_per_second": 900.0}


@pytest.fixture
def inspect(tmp_path, monkeypatch):
    """Return a function that calls the command line in tmp_path and returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        result = CliRunner().invoke(APP, [str(argument) for argument in arguments], env={"COLUMNS": "100"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def folder(tmp_path, describe_record):
    """A study's folder without a journal."""
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    save_manifest(folder, describe_record(parse(SETTINGS)))
    return folder


def add_epoch(journal, trial, accuracy):
    metrics = {"epoch": len(trial.epochs) + 1, "accuracy": accuracy, **METRICS}
    journal.add_epoch(trial, metrics, device="cpu", elapsed_s=10.0)


@pytest.fixture
def journal(folder):
    """The record of a complete, a pruned, a failed and a running trial."""
    journal = Journal(folder / "study.journal", "mine", note=print)
    params = {"filters": 48, "learning_rate": 0.0012}
    trials = [journal.add_trial(name, params, {}) for name in ("cnn", "resnet50", "cnn", "cnn")]
    for accuracy in (0.5, 0.75, 0.625):
        add_epoch(journal, trials[0], accuracy)
    add_epoch(journal, trials[1], 0.25)
    add_epoch(journal, trials[3], 0.875)
    journal.end_trial(trials[0], State.COMPLETE, None, {"seconds": 6.0})
    journal.end_trial(trials[1], State.PRUNED, "stopped by asha at epoch 1", {"seconds": 2.0})
    journal.end_trial(trials[2], State.FAIL, "loss is nan in epoch 1", {"traceback": "Traceback: here"})
    return journal


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("journal")
def test_the_state_of_a_study_is_shown_and_nothing_is_touched(inspect, folder):
    before = snapshot(folder)
    code, stdout, _ = inspect(folder)
    assert code == 0
    rows = [line.split() for line in stdout.splitlines()]
    assert rows[0][3:] == ["3/4", "COMPLETE", "1", "PRUNED", "1", "FAIL", "1"]
    assert ["cnn", "3", "1/3", "0.8750", "0.8750", "0.5000", "900"] in rows
    ranked = [row[:4] for row in rows if row[3:4] and row[3] in list(State)]
    assert ranked == [
        ["3", "0.8750", "1", "RUNNING"],
        ["0", "0.7500", "2", "COMPLETE"],
        ["1", "0.2500", "1", "PRUNED"],
    ]
    assert stdout.endswith("Not running; 1 trials left. Continue with --resume.\n")
    assert snapshot(folder) == before


@pytest.mark.usefixtures("journal")
def test_top_limits_the_list(inspect, folder):
    assert "COMPLETE\n" not in inspect(folder, "--top", "1")[1].replace(" ", "").replace("COMPLETEcnn", "COMPLETE\n")
    assert "COMPLETE cnn" in " ".join(inspect(folder, "--top", "2")[1].split())


@pytest.mark.usefixtures("journal")
def test_a_trial_is_shown_with_its_parameters_curve_and_traceback(inspect, folder):
    _, stdout, _ = inspect(folder, "--trial", "0")
    rows = [line.split() for line in stdout.splitlines()]
    assert stdout.startswith("trial 0 cnn COMPLETE\n")
    assert ["learning_rate=0.0012"] in rows
    assert ["2", "0.75", "0.5", "0.4", "2", "900"] in rows
    _, stdout, _ = inspect(folder, "--trial", "2")
    assert stdout.startswith("trial 2 cnn FAIL: loss is nan in epoch 1\n")
    assert stdout.endswith("Traceback: here\n")


def test_json_holds_every_trial_as_recorded(inspect, folder, journal):
    _, stdout, _ = inspect(folder, "--json")
    told = json.loads(stdout)
    assert told["states"] == {"COMPLETE": 1, "PRUNED": 1, "FAIL": 1, "RUNNING": 1}
    assert (told["best"], told["finished"], told["searched_by"]) == ({"cnn": 3, "resnet50": 1}, False, None)
    recorded = journal.load()
    assert [trial["epochs"] for trial in told["trials"]] == [trial.epochs for trial in recorded]
    assert [trial["params"] for trial in told["trials"]] == [trial.params for trial in recorded]
    assert json.loads(inspect(folder, "--json", "--trial", "1")[1]) == told["trials"][1]


def test_a_torn_last_line_is_not_there_yet_and_stays(inspect, folder, journal):
    journal.add_trial("cnn", {}, {})
    path = folder / "study.journal"
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    assert len(json.loads(inspect(folder, "--json")[1])["trials"]) == 4
    assert path.read_bytes() == torn


@pytest.mark.usefixtures("journal")
def test_who_searches_is_named_and_not_disturbed(inspect, folder):
    with hold(folder / "study.lock", print):
        before = snapshot(folder)
        assert f"Being searched by process {os.getpid()} on" in inspect(folder)[1]
        assert json.loads(inspect(folder, "--json")[1])["searched_by"].startswith(f"process {os.getpid()} on ")
        assert snapshot(folder) == before
    with hold(folder / "study.lock", print, is_search=False):
        assert f"Being evaluated or uploaded by process {os.getpid()} on" in inspect(folder)[1]
        assert json.loads(inspect(folder, "--json")[1])["searched_by"] is None


def test_a_search_that_has_ended_by_itself_has_no_time_left(inspect, folder, journal, describe_record):
    ending = {"num_trials": 40, "max_epochs": 3, "target": 0.8}
    save_manifest(folder, describe_record(parse({**SETTINGS, "search": ending})))
    assert json.loads(inspect(folder, "--json")[1])["left_s"] > 0
    assert " left" in inspect(folder)[1].splitlines()[1]
    journal.end_trial(journal.load()[3], State.PRUNED, "the target is reached", {})
    told = json.loads(inspect(folder, "--json")[1])
    assert (told["finished"], told["left_s"]) == (True, 0)
    assert " left" not in inspect(folder)[1].splitlines()[1]
    with hold(folder / "study.lock", print):  # its winners are evaluated
        assert json.loads(inspect(folder, "--json")[1])["searched_by"] is None


def test_a_study_that_has_just_begun_has_no_trials(inspect, folder):
    code, stdout, _ = inspect(folder)
    assert code == 0
    assert "0/4" in stdout
    assert [path.name for path in folder.iterdir()] == ["study.yaml"]


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(("name", "read"), [("t.csv", pd.read_csv), ("t.parquet", pd.read_parquet)])
def test_the_trials_are_written_as_a_table_at_any_time(inspect, folder, name, read):
    code, stdout, _ = inspect(folder, "--table", name)
    assert (code, stdout) == (0, f"4 trials: {name}\n")
    assert list(read(name)["state"]) == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    code, _, stderr = inspect(folder, "--table", name)
    assert (code, stderr) == (2, f"error: {name} exists: remove it, or give another name\n")


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no study in nowhere"),
        (["results/mine", "--trial", "4"], "has no trial 4: its trials are 0 to 3"),
        (["results/mine", "--trial", "-1"], "has no trial -1"),
        (["results/mine", "--table", "trials.xlsx"], "ends in .csv or .parquet"),
        (["results/mine", "--table", "results/mine/study.yaml/x.csv"], "is not a folder: make it, or write elsewhere"),
    ],
)
def test_bad_input_is_one_sentence(inspect, arguments, message):
    code, stdout, stderr = inspect(*arguments)
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert len(stderr.splitlines()) == 1


def test_a_search_that_used_its_budget_has_ended(inspect, folder, journal):
    record = load_manifest(folder)
    record["config"]["search"]["max_total_epochs"] = 4
    save_manifest(folder, record)
    trial = journal.load()[3]
    assert "trials left" in inspect(folder)[1]
    add_epoch(journal, trial, 0.9)
    journal.end_trial(trial, State.PRUNED, "the budget of 4 epochs is used", {})
    told = "All trials have ended, because the budget of 4 epochs is used; to continue, raise it and pass --resume.\n"
    assert inspect(folder)[1].endswith(told)


def test_watching_sees_what_another_process_writes_and_ends_with_the_search(folder, journal, spawn):
    command = [sys.executable, "-m", "search", "inspect", folder, "--watch"]
    root = Path(__file__).parents[3]
    watcher = spawn(command, stdout=subprocess.PIPE, text=True, cwd=root)
    trial = journal.load()[3]
    for accuracy in (0.9, 0.95):
        add_epoch(journal, trial, accuracy)
    journal.end_trial(trial, State.COMPLETE, None, {})
    stdout, _ = watcher.communicate()
    assert watcher.returncode == 0
    assert "4/4" in stdout
    assert stdout.endswith("All trials have ended.\n")
