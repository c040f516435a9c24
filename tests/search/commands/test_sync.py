"""What the server lacks of a study is uploaded, once."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from search.commands.sync import main
from search.config.load import dump, parse
from search.config.yaml import write_yaml
from search.evaluation import result as found
from search.listeners.wandb.gallery import log_evaluation
from search.listeners.wandb.tracker import build_tracker
from search.record.journal import Journal
from search.record.manifest import load_manifest
from search.record.mirror import Mirror
from search.record.trial import State

APP = typer.Typer()
APP.command()(main)


def build_record(config):
    data = {"fingerprint": "f00d", "counts": {}, "skipped": [], "leaked": 0, "duplicates": 0}
    code = {"commit": "c0de", "dirty": False, "source": "0", "python": "3.11", "packages": {}}
    return {"config": dump(config), "data": data, "code": code}


@pytest.fixture
def config(tmp_path):
    space = {"cnn": {"learning_rate": {"low": 1e-4, "high": 0.1, "log": True}}}
    return parse({"name": "demo", "results": str(tmp_path), "space": space, "tracking": {"mode": "offline"}})


@pytest.fixture
def trials(config):
    return track_trials(config)


def track_trials(config):
    """Write a study of three trials, one under way, tracked offline, and return them."""
    config.directory.mkdir(parents=True)
    record = {"id": "1d", **build_record(config)}
    write_yaml(config.directory / "study.yaml", record)
    journal = Journal(config.directory / "study.journal", "demo", note=print)
    tracker = build_tracker(config, "1d", print)
    for number, state in enumerate((State.COMPLETE, State.FAIL, State.RUNNING)):
        trial = journal.add_trial("cnn", {"learning_rate": 0.01}, {})
        tracker.on_start(trial)
        for epoch in (1.0, 2.0):
            metrics = {"epoch": epoch, "accuracy": 0.5 + epoch / 10, "loss": 1 / epoch}
            journal.add_epoch(trial, metrics, device="cpu", elapsed_s=epoch)
            tracker.on_epoch(trial)
        if state is not State.RUNNING:
            journal.end_trial(trial, state, f"reason {number}", {"seconds": 1.5})
            tracker.on_end(trial)
    tracker.close()
    return journal.load()


def sync(path):
    result = CliRunner().invoke(APP, [str(path)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def list_metrics(history):
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in history]


def test_every_run_reaches_the_server_with_the_journals_values(trials, wandb_server, config):
    assert wandb_server.requests == []
    code, stdout, _ = sync(config.directory)

    assert code == 0
    assert "3 uploaded, 0 already there, 0 failed" in stdout
    for trial, state in zip(trials, ("finished", "failed", "killed"), strict=True):
        run_id = f"demo-1d-000{trial.number}"
        known = wandb_server.describe(run_id)
        assert list_metrics(wandb_server.list_history(run_id)) == trial.epochs
        assert (known["state"], known["sweep"], known["groupName"]) == (state, "sweep0", "demo")
        assert json.loads(known["config"])["learning_rate"]["value"] == 0.01
        assert known["tags"] == ["cnn", trial.state.value]
        if trial.state is not State.RUNNING:
            told = {key: known["summary"][key] for key in ("state", "reason", "seconds", "best_accuracy", "best_epoch")}
            best = {"best_accuracy": 0.7, "best_epoch": 2}
            assert told == {"state": trial.state.value, "reason": trial.reason, "seconds": 1.5, **best}


def test_a_study_in_an_object_store_is_uploaded_from_it(wandb_server, config, bucket, tmp_path):
    """Another machine than the one that searched: all it has is the URL."""
    cache = dataclasses.replace(config.data, cache=str(tmp_path / "cache"))
    config = dataclasses.replace(config, results=f"s3://{bucket}/studies", data=cache)
    trials = track_trials(config)
    copy = Mirror(config, print)
    copy.start(lambda: None)
    copy.put("study.yaml")
    copy.close()
    shutil.rmtree(config.directory)

    code, stdout, _ = sync(config.location)
    assert (code, "3 uploaded, 0 already there, 0 failed" in stdout) == (0, True), stdout
    for trial in trials:
        assert list_metrics(wandb_server.list_history(f"demo-1d-000{trial.number}")) == trial.epochs
    assert "0 uploaded, 3 already there" in sync(config.location)[1]
    assert "study.lock" not in copy.store.list()


def test_a_second_call_sends_nothing_again(trials, wandb_server, config):
    sync(config.directory)
    before = len(wandb_server.runs)
    code, stdout, _ = sync(config.directory)
    assert code == 0
    assert f"0 uploaded, {len(trials)} already there" in stdout
    assert len(wandb_server.runs) == before


def test_a_call_that_was_cut_is_continued(trials, wandb_server, config):
    sync(config.directory)
    kept = [request for request in wandb_server.requests if "demo-1d-0001" not in json.dumps(request)]
    wandb_server.requests[:] = kept
    _, stdout, _ = sync(config.directory)
    assert "1 uploaded, 2 already there, 0 failed" in stdout
    assert list_metrics(wandb_server.list_history("demo-1d-0001")) == trials[1].epochs
    assert len(wandb_server.list_variables("UpsertSweep")) == 1


@pytest.mark.usefixtures("wandb_server", "trials")
def test_nothing_that_is_left_holds_the_key(config):
    _, stdout, stderr = sync(config.directory)
    key = "0123456789" * 4
    assert key not in stdout + stderr
    assert not [path for path in config.directory.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


@pytest.mark.usefixtures("trials")
@pytest.mark.parametrize("manner", ["refuse", "fail"])
def test_a_server_that_does_not_accept_is_one_sentence(wandb_server, config, monkeypatch, manner):
    monkeypatch.setattr("search.commands.sync.TIMEOUT_S", 1.0)
    wandb_server.manner = manner
    code, _, stderr = sync(config.directory)
    assert code == 2
    assert "Failed to verify credentials" in stderr
    assert len(stderr.strip().splitlines()) == 1


@pytest.mark.usefixtures("wandb_home", "trials")
def test_without_a_key_it_says_how_to_set_one(config):
    code, _, stderr = sync(config.directory)
    assert code == 2
    assert "no W&B API key is set: set WANDB_API_KEY" in stderr


def test_a_folder_without_study_or_runs_is_one_sentence(config, tmp_path):
    code, _, stderr = sync(tmp_path / "nowhere")
    assert code == 2
    assert f"there is no study in {tmp_path}/nowhere" in stderr
    config.directory.mkdir()
    record = build_record(config)
    write_yaml(config.directory / "study.yaml", record)
    assert "has no id" in sync(config.directory)[2]
    write_yaml(config.directory / "study.yaml", {"id": "1d", **record})
    code, _, stderr = sync(config.directory)
    assert code == 2
    assert "has no study.journal: no search has started there" in stderr


@pytest.fixture
def result(config, trials):
    """An evaluation of one model, with its report and its files."""
    for name in (
        "report/report.html",
        "report/comparison.csv",
        "report/robustness.csv",
        "models/cnn-seed0.safetensors",
        "models/cnn-seed0.json",
    ):
        path = config.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("model,accuracy\ncnn,0.75\npaper,\n" if name.endswith("csv") else f"content of {name}")
    tested = found.TestedModel(
        label="cnn-seed0",
        architecture="cnn",
        rank=1,
        seed=0,
        trial=0,
        parameters=10,
        threshold=0.5,
        metrics={"accuracy": 0.75},
        confusion=((1, 1), (0, 2)),
        cost={"macs": 5.0},
    )
    return found.Result(
        study="demo",
        config=config,
        manifest=add_evaluation(config),
        models=[tested],
        trials=trials,
        labels=np.array([0, 0, 1, 1], np.uint8),
        predictions={"cnn-seed0": np.array([0.1, 0.6, 0.7, 0.9], np.float32)},
        mistakes={},
        notes=[],
    )


def add_evaluation(config):
    """Write into study.yaml that the winners were chosen, and return all that stands there."""
    record = load_manifest(config.directory)
    chosen = {"time": "2026-11-28T12:00:00+00:00", "commit": None, "dirty": None}
    choices = {"rule": "best", "seeds": len(record["evaluations"]) + 1, "top_k": 1, "threshold": 0.5, "winners": []}
    record["evaluations"].append({**choices, "fingerprint": "f00d", "chosen": chosen, "opened": None})
    write_yaml(config.directory / "study.yaml", record)
    return record


def track(config, result):
    tracker = build_tracker(config, "1d", print)
    tracker.on_evaluation(len(result.manifest["evaluations"]), functools.partial(log_evaluation, result=result))
    tracker.close(60)


def test_an_evaluation_made_offline_is_uploaded_too(result, wandb_server, config):
    track(config, result)
    code, stdout, _ = sync(config.directory)
    assert code == 0, stdout
    check_evaluation(wandb_server)
    before = len(wandb_server.runs)
    assert sync(config.directory)[0] == 0
    assert len(wandb_server.runs) == before


def test_a_later_evaluation_is_a_run_of_its_own_and_is_uploaded_last(result, wandb_server, config):
    track(config, result)
    sync(config.directory)
    better = dataclasses.replace(result.models[0], metrics={"accuracy": 1.0})
    track(config, dataclasses.replace(result, models=[better], manifest=add_evaluation(config)))
    code, stdout, _ = sync(config.directory)

    assert (code, "evaluation 2" in stdout, "evaluation 1" in stdout) == (0, True, False)
    for number, accuracy in ((1, 0.75), (2, 1.0)):
        [row] = [row for row in wandb_server.list_history(f"demo-1d-evaluation-{number}") if "models" in row]
        assert row["cnn/accuracy"] == accuracy
        told = json.loads(wandb_server.describe(f"demo-1d-evaluation-{number}")["config"])
        assert told["choices"]["value"]["seeds"] == number
    assert "0 failed" in sync(config.directory)[1]
    models = [artifact for artifact in list_artifacts(wandb_server) if artifact["artifactCollectionName"] == "demo-cnn"]
    assert len(models) == 2

    forgotten = [request for request in wandb_server.requests if "demo-1d-evaluation-1" in json.dumps(request)]
    wandb_server.requests[:] = [request for request in wandb_server.requests if request not in forgotten]
    _, stdout, _ = sync(config.directory)
    assert stdout.index("evaluation 1") < stdout.index("evaluation 2")  # so `best-cnn` stays with the one in force


def test_an_evaluation_that_the_server_took_half_of_is_uploaded_from_its_newest_file(result, wandb_server, config):
    online = parse({**dump(config), "tracking": {"mode": "online"}})
    half = config.directory / "wandb" / "run-20260101_000000-demo-1d-evaluation-1"
    half.mkdir(parents=True)
    (half / "run-demo-1d-evaluation-1.wandb").write_bytes(b"")
    wandb_server.manner = "refuse"
    track(online, result)
    assert wandb_server.runs == []
    wandb_server.manner = "accept"
    assert sync(config.directory)[0] == 0
    check_evaluation(wandb_server)


def check_evaluation(server):
    run_id = "demo-1d-evaluation-1"
    assert server.describe(run_id)["state"] == "finished"
    [row] = [row for row in server.list_history(run_id) if "models" in row]
    assert row["cnn/accuracy"] == 0.75
    assert row["report"]["_type"] == "html-file"
    tables = {path: json.loads(content) for path, content in server.uploads.items() if path.endswith("table.json")}
    contents = {path.split("/")[2].split("_")[0]: table for path, table in tables.items() if path.startswith("media")}
    assert contents["comparison"]["data"] == contents["robustness"]["data"] == [["cnn", 0.75], ["paper", None]]
    pages = [content for path, content in server.uploads.items() if path.endswith(".html")]
    assert pages == [b"content of report/report.html"]
    artifacts = {artifact["artifactCollectionName"]: artifact for artifact in list_artifacts(server)}
    model = artifacts["demo-cnn"]
    assert "best-cnn" in [alias["alias"] for alias in model["aliases"]]
    metadata = json.loads(model["metadata"])
    assert (metadata["data_fingerprint"], metadata["study"], metadata["trial"]) == ("f00d", "demo", 0)
    assert server.uploads["cnn-seed0.safetensors"] == b"content of models/cnn-seed0.safetensors"


def list_artifacts(server):
    return [variables.get("input", variables) for variables in server.list_variables("CreateArtifact")]


def test_an_evaluation_continuesline_at_once(result, wandb_server, config):
    warnings = []
    online = parse({**dump(config), "tracking": {"mode": "online"}})
    tracker = build_tracker(online, "1d", warnings.append)
    tracker.on_evaluation(len(result.manifest["evaluations"]), functools.partial(log_evaluation, result=result))
    tracker.close(60)
    assert warnings == []
    check_evaluation(wandb_server)
