import copy
import json
import re
import sys
import time
import urllib.request

import pytest
from tensorboardX.proto.event_pb2 import Event

from search.listeners.tensorboard import EventFiles
from search.record.trial import State, Trial


def make_trial(number=0, **changes):
    return Trial(number=number, architecture="cnn", params={"filters": 64, "learning_rate": 0.01}, **changes)


def add_epoch(trial, accuracy):
    trial.epochs.append({"epoch": len(trial.epochs) + 1, "accuracy": accuracy, "loss": 1 - accuracy})
    return trial


def read_events(folder):
    """Yield the events of all files of a folder: records of (length, its checksum, content, its checksum)."""
    for path in sorted(folder.glob("events.*")):
        content, position = path.read_bytes(), 0
        while position < len(content):
            length = int.from_bytes(content[position : position + 8], "little")
            yield Event.FromString(content[position + 12 : position + 12 + length])
            position += length + 16


def read_points(folder):
    """Return (tag, step, value) of every scalar."""
    return [
        (value.tag, event.step, round(value.simple_value, 6))
        for event in read_events(folder)
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value"
    ]


def test_metrics_are_points_by_epoch_and_parameters_are_hparams(tmp_path):
    files, trial = EventFiles(tmp_path), make_trial()
    files.on_start(trial)
    for accuracy in (0.5, 0.75, 0.625):
        files.on_epoch(add_epoch(trial, accuracy))
    trial.state = State.COMPLETE
    files.on_end(trial)
    files.close()
    folder = tmp_path / "trial-0000-cnn"
    points = read_points(folder)
    assert [point for point in points if point[0] == "accuracy"] == [
        ("accuracy", 1, 0.5),
        ("accuracy", 2, 0.75),
        ("accuracy", 3, 0.625),
    ]
    assert ("loss", 3, 0.375) in points
    assert points[-1] == ("best_accuracy", 2, 0.75)
    tags = [value.tag for event in read_events(folder) for value in event.summary.value]
    assert "_hparams_/session_start_info" in tags
    assert sorted(path.name.split(".")[0] for path in folder.iterdir()) == ["events", "finished"]


def test_a_trial_that_ends_before_it_is_handed_out_again_is_written_whole(tmp_path):
    """As one whose last epoch was recorded when the search was killed, or that a used budget ends."""
    trial = add_epoch(make_trial(state=State.PRUNED), 0.5)
    files = EventFiles(tmp_path)
    files.on_end(trial)
    assert ("accuracy", 1, 0.5) in read_points(tmp_path / "trial-0000-cnn")


def test_an_epoch_is_on_the_disk_when_it_was_reported(tmp_path):
    files, trial = EventFiles(tmp_path), make_trial()
    files.on_start(trial)
    files.on_epoch(add_epoch(trial, 0.5))
    assert ("accuracy", 1, 0.5) in read_points(tmp_path / "trial-0000-cnn")
    files.close()


def test_a_resumed_trial_has_every_point_once(tmp_path):
    trial = make_trial()
    killed = EventFiles(tmp_path)
    killed.on_start(trial)
    killed.on_epoch(add_epoch(trial, 0.5))
    killed.on_epoch(add_epoch(trial, 0.625))
    recorded = copy.deepcopy(trial)
    killed.close()
    resumed = EventFiles(tmp_path)
    resumed.write_missing([recorded])
    resumed.on_start(recorded)
    resumed.on_epoch(add_epoch(recorded, 0.75))
    recorded.state = State.COMPLETE
    resumed.on_end(recorded)
    points = [point for point in read_points(tmp_path / "trial-0000-cnn") if point[0] == "accuracy"]
    assert points == [("accuracy", 1, 0.5), ("accuracy", 2, 0.625), ("accuracy", 3, 0.75)]


@pytest.mark.parametrize("is_begun", [False, True])
def test_an_ended_trial_that_was_not_written_to_its_end_is_written_from_the_record(tmp_path, is_begun):
    trial = add_epoch(make_trial(), 0.5)
    if is_begun:
        killed = EventFiles(tmp_path)
        killed.on_start(trial)
        killed.close()
    trial.state = State.PRUNED
    files = EventFiles(tmp_path)
    files.write_missing([trial, make_trial(1)])
    before = sorted(tmp_path.rglob("events.*"))
    files.write_missing([trial])
    assert sorted(tmp_path.rglob("events.*")) == before
    assert read_points(tmp_path / "trial-0000-cnn")[-1] == ("best_accuracy", 1, 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["trial-0000-cnn"]


def test_a_trial_that_failed_at_once_has_an_empty_file(tmp_path):
    files, trial = EventFiles(tmp_path), make_trial()
    files.on_start(trial)
    trial.state = State.FAIL
    files.on_end(trial)
    assert read_points(tmp_path / "trial-0000-cnn") == []


@pytest.fixture
def ask_tensorboard(tmp_path, spawn):
    """Asks a TensorBoard of our own, which reads the folder, for a page of its HPARAMS plugin."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path), "--host", "127.0.0.1"]
    options = ["--port", "0", "--load_fast", "false", "--reload_interval", "1"]
    log = tmp_path.with_name(f"{tmp_path.name}-tensorboard")
    with log.open("w") as output:
        server = spawn([*command, *options], stderr=output)
    while (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())) is None:
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)

    def ask(page, **body):
        address = f"{found[0]}/data/plugin/hparams/{page}"
        request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    return ask


def test_tensorboard_shows_the_parameters_of_both_architectures(tmp_path, request):
    params = {"cnn": {"filters": 64, "learning_rate": 0.01}, "resnet50": {"stem": "cifar", "learning_rate": 0.02}}
    files = EventFiles(tmp_path)
    for number, architecture in enumerate(params):
        trial = Trial(number=number, architecture=architecture, params=params[architecture])
        add_epoch(trial, 0.5 + number / 4).state = State.COMPLETE
        files.on_end(trial)
    ask = request.getfixturevalue("ask_tensorboard")
    query = {"start_index": 0, "slice_size": 10, "allowed_statuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN"]}
    groups = []
    while len(groups) < len(params):  # it reads the folder in the background
        time.sleep(0.5)
        groups = ask("session_groups", **query)["sessionGroups"]
    shown = {info["name"] for info in ask("experiment", experiment_name="")["hparamInfos"]}
    assert shown == {"architecture", "state", "filters", "learning_rate", "stem"}
    found = {group["hparams"]["architecture"]: group for group in groups}
    for number, (architecture, known) in enumerate(params.items()):
        hparams = found[architecture]["hparams"]
        assert hparams == {"architecture": architecture, "state": "COMPLETE", **known}
        values = {value["name"]["tag"]: value["value"] for value in found[architecture]["metricValues"]}
        assert values["best_accuracy"] == 0.5 + number / 4
