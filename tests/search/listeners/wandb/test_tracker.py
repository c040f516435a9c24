import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from search.config.load import parse
from search.listeners.wandb import runs
from search.listeners.wandb.runs import Target
from search.listeners.wandb.tracker import Tracker
from search.record.trial import State, Trial

KEY = "0123456789" * 4
AMPLE_S = 60.0
"""Seconds within which even a loaded machine opens W&B and ships what it has."""
SPACE = {"cnn": {"learning_rate": {"low": 1e-4, "high": 0.1, "log": True}, "filters": {"choice": [16, 32]}}}


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def build(tmp_path: Path, warnings: list[str]) -> Callable[[str], Tracker]:
    config = parse({"name": "demo", "results": str(tmp_path), "tracking": {"project": "cifake"}, "space": SPACE})

    def build(mode: str, **options: Any) -> Tracker:
        target = Target(config=config, identity="1d", files=tmp_path / "results", **{"timeout_s": 20.0, **options})
        return Tracker(mode, target, warnings.append)

    return build


def make_trial(number: int = 0, *, num_epochs: int = 0) -> Trial:
    trial = Trial(number=number, architecture="cnn", params={"filters": 32, "learning_rate": 0.001, "flip": True})
    for _ in range(num_epochs):
        add_epoch(trial)
    return trial


def add_epoch(trial: Trial) -> Trial:
    epoch = len(trial.epochs) + 1
    speed = {"seconds": 2.0, "images_per_second": 500.0, "peak_memory_bytes": 1e6}
    trial.epochs.append(
        {"epoch": float(epoch), "loss": 1.0 / epoch, "accuracy": [0.5, 0.875, 0.75][epoch % 3], **speed}
    )
    return trial


def play(tracker: Tracker, trial: Trial, *, num_epochs: int = 3, state: State = State.COMPLETE) -> None:
    tracker.on_start(trial)
    for _ in range(num_epochs):
        tracker.on_epoch(add_epoch(trial))
    if state is not State.RUNNING:
        trial.state = state
        tracker.on_end(trial)


def list_metrics(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in history]


@pytest.mark.usefixtures("wandb_home")
def test_a_name_that_is_too_long_for_a_tag_is_cut(build, read_wandb_files, tmp_path, warnings):
    tracker, trial = build("offline"), make_trial()
    trial.architecture = f"my_network:{'V' * 80}"
    play(tracker, trial)
    tracker.close(AMPLE_S)
    [file] = read_wandb_files(tmp_path / "results" / "wandb")
    assert (list(file.run.tags), warnings) == ([trial.architecture[:64], "COMPLETE"], [])
    assert file.config["architecture"] == trial.architecture


@pytest.mark.usefixtures("wandb_home")
def test_every_value_of_a_trial_is_in_its_offline_file(build, read_wandb_files, tmp_path, warnings):
    tracker, trial = build("offline"), make_trial(7)
    trial.attributes = {"seconds": 6.0, "device": "cpu", "images_per_second": 1800.0, "peak_memory_bytes": 2e6}
    trial.reason = "stopped by asha at epoch 3"
    play(tracker, trial, state=State.PRUNED)
    tracker.close(AMPLE_S)

    [file] = read_wandb_files(tmp_path / "results" / "wandb")
    assert (file.run.run_id, file.run.run_group, file.run.project) == ("demo-1d-0007", "demo", "cifake")
    assert (file.run.display_name, list(file.run.tags)) == ("trial 7 cnn", ["cnn", "PRUNED"])
    assert file.config == {"architecture": "cnn", **trial.params}
    assert list_metrics(file.history) == trial.epochs
    assert [row["_step"] for row in file.history] == [1, 2, 3]
    assert {key: file.summary[key] for key in ("state", "reason", "best_accuracy", *trial.attributes)} == {
        "state": "PRUNED",
        "reason": "stopped by asha at epoch 3",
        "best_accuracy": 0.875,
        **trial.attributes,
    }
    assert file.metrics["*"].step_metric == file.metrics["accuracy"].step_metric == "epoch"
    assert file.exit_code == 0
    assert warnings == []


@pytest.mark.usefixtures("wandb_home")
def test_a_failed_trial_is_a_failed_run_and_an_unfinished_one_a_killed_run(build, read_wandb_files, tmp_path):
    tracker, failed = build("offline"), make_trial(0)
    failed.reason = "loss is nan in epoch 3"
    play(tracker, failed, state=State.FAIL)
    play(tracker, make_trial(1), state=State.RUNNING)
    tracker.close(AMPLE_S)

    files = {file.run.run_id: file for file in read_wandb_files(tmp_path)}
    assert (files["demo-1d-0000"].exit_code, files["demo-1d-0000"].summary["reason"]) == (1, "loss is nan in epoch 3")
    assert files["demo-1d-0001"].exit_code == 255
    assert len(files["demo-1d-0001"].history) == 3


@pytest.mark.usefixtures("wandb_home")
def test_a_resumed_trial_continues_its_run_with_the_new_epochs_only(build, read_wandb_files, tmp_path):
    trial = make_trial()
    first = build("offline")
    play(first, trial, num_epochs=2, state=State.RUNNING)
    first.close(AMPLE_S)
    second = build("offline")
    play(second, trial, num_epochs=1)
    second.close(AMPLE_S)

    before, after = read_wandb_files(tmp_path)
    assert before.run.run_id == after.run.run_id == "demo-1d-0000"
    assert list_metrics(before.history + after.history) == trial.epochs
    assert [row["_step"] for row in after.history] == [3]
    assert after.summary["best_accuracy"] == 0.875


@pytest.mark.usefixtures("wandb_home")
def test_an_end_that_was_not_told_before_a_kill_still_closes_the_run(build, read_wandb_files, tmp_path):
    trial = make_trial(num_epochs=3)
    trial.state = State.COMPLETE
    tracker = build("offline")
    tracker.on_end(trial)
    tracker.close(AMPLE_S)

    [file] = read_wandb_files(tmp_path)
    assert (file.summary["state"], file.exit_code, file.history) == ("COMPLETE", 0, [])


def test_off_never_imports_wandb(tmp_path):
    script = (
        "import sys\n"
        "from search.config.load import parse\n"
        "from search.record.trial import Trial\n"
        "from search.listeners.wandb.tracker import build_tracker\n"
        "config = parse({'name': 's', 'results': sys.argv[1], 'tracking': {'mode': 'off'}})\n"
        "tracker = build_tracker(config, '1d', print)\n"
        "tracker.on_start(Trial(number=0, architecture='cnn', params={}))\n"
        "tracker.close()\n"
        "sys.exit('wandb' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path], check=False).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_online_runs_reach_the_server_value_by_value(build, wandb_server, warnings):
    tracker, trials = build("auto"), [make_trial(0), make_trial(1)]
    for trial in trials:
        play(tracker, trial)
    tracker.close(AMPLE_S)

    for trial in trials:
        assert list_metrics(wandb_server.list_history(f"demo-1d-{trial.number:04d}")) == trial.epochs
    run = next(run for run in wandb_server.runs if run["name"] == "demo-1d-0001")
    assert (run["project"], run["groupName"], run["tags"]) == ("cifake", "demo", ["cnn", "RUNNING"])
    config = {key: item["value"] for key, item in json.loads(run["config"]).items()}
    assert {key: config[key] for key in ("architecture", *trials[1].params)} == {
        "architecture": "cnn",
        **trials[1].params,
    }
    assert [wandb_server.describe(f"demo-1d-000{number}")["tags"] for number in (0, 1)] == [["cnn", "COMPLETE"]] * 2
    assert warnings == []


def test_a_resumed_online_run_is_sent_what_the_server_lacks(build, wandb_server):
    trial = make_trial()
    first = build("online")
    play(first, trial, num_epochs=2, state=State.RUNNING)
    first.close(AMPLE_S)
    add_epoch(trial)  # journaled, and the search was killed before W&B heard of it
    second = build("online")
    play(second, trial, num_epochs=1)
    second.close(AMPLE_S)

    assert list_metrics(wandb_server.list_history("demo-1d-0000")) == trial.epochs
    sent = [row for body in wandb_server.list_streamed("demo-1d-0000") for row in list_rows(body)]
    assert len(sent) == 4
    assert len(wandb_server.list_variables("UpsertSweep")) == 1


@pytest.mark.parametrize("manner", ["refuse", "fail", "hang"])
def test_a_server_that_does_not_accept_costs_one_warning_and_no_data(
    build, wandb_server, warnings, read_wandb_files, tmp_path, capfd, manner
):
    wandb_server.manner = manner
    timeout_s = 4.0
    tracker, trials = build("auto", timeout_s=timeout_s), [make_trial(0), make_trial(1)]
    begin = time.monotonic()
    for trial in trials:
        play(tracker, trial)
    assert time.monotonic() - begin < timeout_s  # it waits for no answer
    tracker.close(AMPLE_S)

    assert len(warnings) == 1
    assert "continues offline" in warnings[0]
    files = read_wandb_files(tmp_path)
    for trial in trials:
        assert trial.epochs in [
            list_metrics(file.history) for file in files if file.run.run_id == f"demo-1d-000{trial.number}"
        ]
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in "".join(warnings)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_fails_later_moves_running_trials_offline(
    build, wandb_server, warnings, read_wandb_files, tmp_path
):
    tracker, early, late = build("online"), make_trial(0), make_trial(1)
    play(tracker, early, num_epochs=2, state=State.RUNNING)
    wait_until(lambda: len(wandb_server.runs) > 0)
    wandb_server.manner = "refuse"
    play(tracker, late, state=State.RUNNING)
    for trial in (early, late):
        tracker.on_epoch(add_epoch(trial))
        trial.state = State.COMPLETE
        tracker.on_end(trial)
    tracker.close(AMPLE_S)

    assert len(warnings) == 1
    files = read_wandb_files(tmp_path)
    for trial in (early, late):
        rows = [row for file in files if file.run.run_id == f"demo-1d-000{trial.number}" for row in file.history]
        assert list_metrics(rows) == trial.epochs


@pytest.mark.usefixtures("wandb_home")
@pytest.mark.parametrize(
    ("mode", "key", "reason"), [("online", None, "no API key is set"), ("auto", "short", "must have 40+ characters")]
)
def test_a_missing_or_malformed_key_continues_offline(
    build, warnings, monkeypatch, read_wandb_files, tmp_path, mode, key, reason
):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    tracker, trial = build(mode), make_trial()
    play(tracker, trial)
    tracker.close(AMPLE_S)

    assert len(warnings) == 1
    assert reason in warnings[0]
    assert not key or key not in warnings[0]
    [file] = read_wandb_files(tmp_path)
    assert list_metrics(file.history) == trial.epochs


@pytest.mark.usefixtures("wandb_home")
def test_a_folder_that_cannot_be_written_ends_tracking_with_one_warning(build, warnings, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "wandb").write_text("a file where a folder should be")
    tracker = build("offline")
    play(tracker, make_trial(0))
    play(tracker, make_trial(1))
    tracker.close(AMPLE_S)

    assert len(warnings) == 1
    assert "tracking ends" in warnings[0]


@pytest.mark.usefixtures("wandb_home")
def test_a_full_disk_ends_tracking_with_one_warning(build, warnings, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "FREE_BYTES", 2**62)
    tracker = build("offline")
    play(tracker, make_trial(0))
    play(tracker, make_trial(1))
    tracker.close(AMPLE_S)

    assert len(warnings) == 1
    assert "MiB are free" in warnings[0]
    assert not (tmp_path / "results" / "wandb").exists()


def test_a_server_that_stops_answering_is_waited_for_once(build, wandb_server, warnings, read_wandb_files, tmp_path):
    tracker, trials = build("online", timeout_s=10.0), [make_trial(number) for number in range(3)]
    for trial in trials:
        play(tracker, trial, state=State.RUNNING)
    wait_until(lambda: len({run["name"] for run in wandb_server.runs}) == 3)
    wandb_server.manner = "hang"
    begin = time.monotonic()
    tracker.close(AMPLE_S)

    assert time.monotonic() - begin < 28.0  # 10 s for all runs together, not 10 s for each
    assert len(warnings) == 1
    assert [list_metrics(file.history) for file in read_wandb_files(tmp_path)] == [trial.epochs for trial in trials]


def list_rows(body: dict[str, Any]) -> list[str]:
    return body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])


def test_a_user_who_interrupts_waits_no_longer_than_told(build, wandb_server, read_wandb_files, tmp_path):
    tracker, trials = build("online"), [make_trial(number) for number in range(3)]
    for trial in trials:
        play(tracker, trial, state=State.RUNNING)
    wait_until(lambda: len({run["name"] for run in wandb_server.runs}) == 3)
    wandb_server.manner = "hang"
    begin = time.monotonic()
    tracker.close(5.0)

    assert time.monotonic() - begin < 30  # the server never answers
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("tracking")])
    assert [list_metrics(file.history) for file in read_wandb_files(tmp_path)] == [trial.epochs for trial in trials]


def test_runs_belong_to_a_sweep_over_the_space(build, wandb_server, tmp_path):
    tracker = build("auto")
    play(tracker, make_trial())
    tracker.close(AMPLE_S)
    again = build("auto")
    play(again, make_trial(1))
    again.close(AMPLE_S)

    [sweep] = wandb_server.list_variables("UpsertSweep")
    config = yaml.safe_load(sweep["config"])
    assert sweep["projectName"] == "cifake"
    assert config["metric"] == {"name": "best_accuracy", "goal": "maximize"}
    assert config["parameters"]["learning_rate"] == {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1}
    assert [wandb_server.describe(f"demo-1d-000{number}")["sweep"] for number in (0, 1)] == ["sweep0", "sweep0"]
    assert json.loads((tmp_path / "demo" / "sweep.json").read_text())["id"] == "sweep0"


@pytest.mark.parametrize("content", ["{", "[]", '{"server": 1, "project": "cifake"}'])
def test_a_damaged_record_of_the_sweep_is_replaced(build, wandb_server, tmp_path, warnings, content):
    path = tmp_path / "demo" / "sweep.json"
    path.parent.mkdir()
    path.write_text(content)
    tracker = build("online")
    play(tracker, make_trial())
    tracker.close(AMPLE_S)

    assert warnings == []
    assert wandb_server.describe("demo-1d-0000")["sweep"] == json.loads(path.read_text())["id"] == "sweep0"


def test_a_server_without_sweeps_still_takes_runs(build, wandb_server, warnings):
    wandb_server.refused = {"UpsertSweep"}
    tracker, trial = build("online", timeout_s=20.0), make_trial()
    play(tracker, trial)
    tracker.close(AMPLE_S)

    assert list_metrics(wandb_server.list_history("demo-1d-0000")) == trial.epochs
    assert warnings == []


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("wandb_server")
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_the_death_of_its_process_ends_tracking_with_one_warning(build, warnings, tmp_path, mode):
    tracker = build(mode)
    play(tracker, trial := make_trial(), state=State.RUNNING)
    wait_until(lambda: 0 in tracker._runs)
    for child in psutil.Process().children():
        if child.name().startswith("wandb-core"):
            child.kill()
    wait_until(lambda: tracker.on_epoch(add_epoch(trial)) or warnings)
    play(tracker, make_trial(1))
    tracker.close(AMPLE_S)
    cure = f"`python -m search sync {tmp_path}/demo` uploads what is missing"
    assert warnings == [f"Weights & Biases: its service died; tracking ends; {cure}"]
