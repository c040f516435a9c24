import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.record.journal import Journal
from search.record.trial import State
from trainables.errors import InputError

PARAMS = {"learning_rate": 0.01, "head": "gap"}
DISTRIBUTIONS = {"learning_rate": FloatDistribution(1e-4, 1e-1, log=True)}


def open_journal(path, study="x"):
    notes = []
    journal = Journal(path / "study.journal", study, note=notes.append)
    return journal, notes


def fill(journal):
    """Record a complete, a pruned, a failed and a running trial, epochs interleaved."""
    trials = [journal.add_trial("cnn", PARAMS, DISTRIBUTIONS) for _ in range(4)]
    for epoch in (1, 2):
        for trial in (trials[3], trials[0], trials[1]):
            journal.add_epoch(
                trial,
                {"epoch": epoch, "accuracy": 0.5 + 0.1 * trial.number + 0.01 * epoch},
                device="cpu",
                elapsed_s=epoch,
            )
    journal.end_trial(trials[0], State.COMPLETE, None, {"seconds": 3.5})
    journal.end_trial(trials[1], State.PRUNED, "stopped by asha at epoch 2", {"seconds": 2.0})
    journal.end_trial(trials[2], State.FAIL, "loss is nan in epoch 1", {})
    return trials


def test_what_is_written_is_what_is_read(tmp_path):
    trials = fill(open_journal(tmp_path)[0])
    assert open_journal(tmp_path)[0].load() == trials


def test_the_precision_of_an_epoch_is_known_before_its_trial_has_ended(tmp_path):
    trial = (journal := open_journal(tmp_path)[0]).add_trial("cnn", PARAMS, DISTRIBUTIONS)
    journal.add_epoch(trial, {"epoch": 1, "accuracy": 0.5}, device="cpu", precision="bfloat16", elapsed_s=1.0)
    [read] = open_journal(tmp_path)[0].load()
    assert read.attributes == trial.attributes == {"device": "cpu", "precision": "bfloat16"}


def test_epochs_are_listed_in_the_order_in_which_they_were_recorded(tmp_path):
    journal, _ = open_journal(tmp_path)
    fill(journal)
    expected = [(3, 1), (0, 1), (1, 1), (3, 2), (0, 2), (1, 2)]
    assert journal.list_epochs() == expected
    again, _ = open_journal(tmp_path)
    again.add_epoch(again.load()[3], {"epoch": 3, "accuracy": 0.9}, device="cpu", elapsed_s=9)
    assert again.list_epochs() == [*expected, (3, 3)]
    assert again.elapsed_s == 2


def test_plain_optuna_reads_states_curves_and_attributes(tmp_path):
    fill(open_journal(tmp_path)[0])
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    complete, pruned, failed, running = optuna.load_study(study_name="x", storage=storage).trials
    assert complete.state is TrialState.COMPLETE
    assert complete.value == pytest.approx(0.52)
    assert complete.params == {"cnn.learning_rate": 0.01}
    assert pruned.state is TrialState.PRUNED
    assert pruned.intermediate_values == pytest.approx({1: 0.61, 2: 0.62})
    assert pruned.user_attrs["architecture"] == "cnn"
    assert pruned.user_attrs["params"] == PARAMS
    assert failed.state is TrialState.FAIL
    assert failed.user_attrs["reason"] == "loss is nan in epoch 1"
    assert running.state is TrialState.RUNNING


def test_a_line_that_no_kill_can_damage_is_named_and_nothing_is_changed(tmp_path):
    fill(open_journal(tmp_path)[0])
    path = tmp_path / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4][:10] + b"\0" * 20 + b"\n"
    damaged = b"".join(lines)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"study\.journal is damaged in line 5.*restore the file from a copy"):
        open_journal(tmp_path)
    assert path.read_bytes() == damaged


def test_a_study_on_a_full_disk_ends_and_continues_when_there_is_room(run_on_small_disk, tmp_path):
    script = """
import errno, pathlib, subprocess, sys
from search.config.load import parse
from search.record.journal import Journal
from search.study import Study

def search(path):
    space = {"shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}}
    config = parse({"name": "x", "search": {"num_trials": 20, "max_epochs": 4}, "space": space})
    study = Study(config, Journal(path, "x", note=lambda _: print("repaired")))
    while (trial := study.ask()) is not None:
        for epoch in range(len(trial.epochs) + 1, 5):
            accuracy = 1 - trial.params["learning_rate"] / epoch
            row = {"epoch": epoch, "accuracy": accuracy, "seconds": 0.5, "images_per_second": 9.0}
            if study.report(trial.number, row, "cpu"):
                break
    return study.trials

disk, elsewhere = map(pathlib.Path, sys.argv[1:])
try:
    search(disk / "study.journal")
except OSError as error:
    print(error.errno == errno.ENOSPC)
subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
print(search(disk / "study.journal") == search(elsewhere / "study.journal"))
"""
    assert run_on_small_disk(script, "16k", tmp_path) == "True\nrepaired\nTrue\n"


def test_a_torn_last_line_is_cut_off_and_said(tmp_path):
    trials = fill(open_journal(tmp_path)[0])
    path = tmp_path / "study.journal"
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x')
    journal, notes = open_journal(tmp_path)
    assert journal.load() == trials
    assert "cut off 27 bytes" in notes[0]
    journal.add_epoch(journal.load()[3], {"epoch": 3, "accuracy": 0.9}, device="cpu", elapsed_s=3)
    assert len(open_journal(tmp_path)[0].load()[3].epochs) == 3


def test_a_last_line_that_is_no_record_is_cut_off(tmp_path):
    trials = fill(open_journal(tmp_path)[0])
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b"\0" * 64 + b"\n")
    journal, notes = open_journal(tmp_path)
    assert journal.load() == trials
    assert "cut off 65 bytes" in notes[0]


def test_a_lock_that_a_killed_writer_left_stops_no_other_writer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("results")
    folder.mkdir()
    (folder / "study.journal.lock").symlink_to("results/study.journal")
    assert len(fill(open_journal(folder)[0])) == 4


def test_cutting_the_file_after_any_line_leaves_a_record_that_can_go_on(tmp_path):
    fill(open_journal(tmp_path)[0])
    lines = (tmp_path / "study.journal").read_bytes().splitlines(keepends=True)
    for count in range(len(lines)):
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "study.journal").write_bytes(b"".join(lines[:count]))
        journal, _ = open_journal(folder)
        for trial in journal.load():
            assert [metrics["epoch"] for metrics in trial.epochs] == list(range(1, len(trial.epochs) + 1))
            if trial.state is State.RUNNING:
                journal.add_epoch(trial, {"epoch": len(trial.epochs) + 1, "accuracy": 0.5}, device="cpu", elapsed_s=1)
                journal.end_trial(trial, State.COMPLETE, None, {})
        assert all(trial.state is not State.RUNNING for trial in open_journal(folder)[0].load())


def test_a_file_of_another_study_is_refused(tmp_path):
    fill(open_journal(tmp_path)[0])
    with pytest.raises(InputError, match="has the study x, not y"):
        open_journal(tmp_path, "y")


def test_optuna_dashboard_opens_the_journal(tmp_path, spawn):
    fill(open_journal(tmp_path)[0])
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [program, tmp_path / "study.journal", "--host", "127.0.0.1", "--port", "0"]
    server = spawn(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (listening := psutil.Process(server.pid).net_connections("tcp")):
        assert server.poll() is None
        time.sleep(0.1)
    address = f"http://127.0.0.1:{listening[0].laddr.port}/api/studies"
    studies = ask(address)["study_summaries"]
    assert [study["study_name"] for study in studies] == ["x"]
    trials = ask(f"{address}/{studies[0]['study_id']}?after=0")["trials"]
    assert [trial["state"] for trial in trials] == ["Complete", "Pruned", "Fail", "Running"]
    assert [point["value"] for point in trials[1]["intermediate_values"]] == pytest.approx([0.61, 0.62])


def ask(address):
    """Return what a server on this machine answers."""
    with urllib.request.urlopen(address) as answer:
        return json.load(answer)


def test_nothing_is_written_behind_a_write_that_failed(tmp_path, monkeypatch):
    path = tmp_path / "study.journal"
    journal = Journal(path, "x", note=pytest.fail)
    journal.add_trial("cnn", {"filters": 4}, {})
    before = path.read_bytes()

    def fail(descriptor):
        os.ftruncate(descriptor, len(before) + 9)  # as a disk does that is full in the middle of a line
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            journal.add_trial("cnn", {"filters": 5}, {})
    with pytest.raises(OSError, match="No space left"):
        journal.add_trial("cnn", {"filters": 6}, {})
    assert len(path.read_bytes()) == len(before) + 9
    again = Journal(path, "x", note=lambda _: None)
    assert path.read_bytes() == before
    assert [trial.params for trial in again.load()] == [{"filters": 4}]
    assert again.add_trial("cnn", {"filters": 7}, {}).number == 1
