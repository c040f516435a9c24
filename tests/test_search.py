"""The whole system through its command line: real Ray, real training, real W&B files, a real kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
import safetensors.torch
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.config.yaml import read_yaml
from trainables.config import build_train_config
from trainables.models.model import build_model

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOT = Path(__file__).parent.parent
FIGURES = {"accuracy.png", "cnn_confusion.png", "cnn_curves.png"}
STUDY = """
name: tiny
data: {{path: sample, max_train_images: 200, val_fraction: 0.25, cache: {cache}}}
search:
  {{architectures: [cnn], num_trials: 4, max_epochs: 3, num_startup_trials: 2, scheduler: asha, reduction_factor: 2}}
space:
  shared: {{learning_rate: {{low: 1e-4, high: 1e-2, log: true}}, batch_size: 32}}
  cnn: {{filters: {{choice: [8, 16]}}}}
evaluation: {{seeds: 2}}
"""
SITECUSTOMIZE = '''
"""Notes whose checkpoints are written; kills the process between the two renames of a trial's second one."""

import os
import signal
import sys
from pathlib import Path

WRITTEN = Path(__file__).with_name("written")


def watch(event, arguments):
    if event == "os.rename" and (path := Path(arguments[1])).match("trial-*.ckpt"):
        with WRITTEN.open("a") as file:
            file.write(f"{path.name}\\n")
        if WRITTEN.read_text().split().count(path.name) == 2:
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(watch)
'''


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(cache=tmp_path / "cache"))
    return path


@pytest.fixture
def start(spawn):
    """Start a search: start(folder, *arguments, path=ROOT), where Python looks for modules in the path."""

    def start(folder, *arguments, path=ROOT):
        environment = {**os.environ, "PYTHONPATH": str(path), "CI": "true"}
        environment.pop("WANDB_API_KEY", None)
        return spawn(
            [sys.executable, "-u", "-m", "search.run", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def wait_for_line(process, words):
    """Read the output up to a line that holds the words, and return all lines so far."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError("".join(lines))


@pytest.fixture
def finish(start):
    """Run a search to its end and return what it printed."""

    def finish(folder, *arguments):
        process = start(folder, *arguments)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    return finish


def load_trials(folder):
    storage = JournalStorage(JournalFileBackend(str(folder / "results" / "tiny" / "study.journal")))
    return optuna.load_study(study_name="tiny", storage=storage).trials


def check_whole(trials, count):
    assert len(trials) == count
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        assert sorted(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
        assert set(trial.user_attrs) >= {"architecture", "params", "seconds", "device", "images_per_second"}


@pytest.mark.parametrize(
    ("moment", "more"),
    [("epoch 2/3", []), ("cnn-seed0: epoch 2/3", ["--set", "evaluation.max_train_images=all"])],
    ids=["trial", "retraining on all images"],
)
def test_a_killed_search_continues_to_the_same_end_as_one_that_was_not_killed(
    tmp_path, study, start, finish, moment, more
):
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    settings = ["--set", "search.max_concurrent=1", *more]
    output = finish(tmp_path / "straight", str(study), *settings)
    assert output.splitlines()[-1] == "Open results/tiny/report/report.html"

    killed = tmp_path / "killed"
    process = start(killed, str(study), *settings)
    before = wait_for_line(process, moment)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    refused = start(killed, str(study), *settings)
    assert "exists: --resume continues it" in refused.communicate()[0]
    assert refused.returncode == 2
    after = finish(killed, str(study), *settings, "--resume").splitlines(keepends=True)
    assert not [line for line in before if "/3" in line and line in after], "no epoch is trained twice"

    straight, resumed = load_trials(tmp_path / "straight"), load_trials(killed)
    check_whole(resumed, 4)
    for one, other in zip(straight, resumed, strict=True):
        assert one.params == other.params
        assert one.intermediate_values == other.intermediate_values
        assert one.state == other.state
    comparisons = [
        pd.read_csv(tmp_path / name / "results/tiny/report/comparison.csv") for name in ("straight", "killed")
    ]
    measured = ["training_seconds", "images_per_second_1", "images_per_second_256", "peak_memory_bytes"]
    pd.testing.assert_frame_equal(*(comparison.drop(columns=measured) for comparison in comparisons))
    for path in (tmp_path / "straight/results/tiny/models").glob("*.safetensors"):
        assert path.read_bytes() == (killed / path.relative_to(tmp_path / "straight")).read_bytes(), path.name


def test_ctrl_c_says_how_to_resume_and_the_study_can_be_extended(tmp_path, study, start, finish):
    process = start(tmp_path, str(study))
    wait_for_line(process, "epoch 1/3")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130
    assert output.strip().endswith("the same command with --resume continues from here")

    finish(tmp_path, "--resume", "--name", "tiny")
    check_whole(load_trials(tmp_path), 4)
    before = [(trial.params, trial.intermediate_values) for trial in load_trials(tmp_path)]
    finish(tmp_path, "--resume", "--name", "tiny", "--set", "search.num_trials=6")
    check_whole(load_trials(tmp_path), 6)
    assert [(trial.params, trial.intermediate_values) for trial in load_trials(tmp_path)[:4]] == before
    check_results(tmp_path / "results" / "tiny")


def test_a_killed_worker_costs_its_trial_no_epoch(tmp_path, study, start):
    """Every worker kills itself at its second checkpoint, so that nothing has to find it in time."""
    folder = tmp_path / "killer"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    settings = ["--set", "search.scheduler=none", "--set", "search.num_trials=2"]
    process = start(tmp_path, str(study), *settings, path=f"{folder}:{ROOT}")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    written = (folder / "written").read_text().split()
    assert sorted(written) == ["trial-0.ckpt"] * 3 + ["trial-1.ckpt"] * 3, "no epoch is trained twice"
    trials = load_trials(tmp_path)
    check_whole(trials, 2)
    assert [len(trial.intermediate_values) for trial in trials] == [3, 3]
    assert output.count("epoch 1/3: accuracy") == 2
    assert "died" not in output


def check_results(folder):
    """Check that every file that the README names exists, and that they agree."""
    record = read_yaml(folder / "study.yaml")
    assert set(record) == {"id", "command", "config", "data", "code", "evaluations"}
    assert len(pd.read_csv(folder / "trials.csv")) == 6
    comparison = pd.read_csv(folder / "report" / "comparison.csv")
    assert list(comparison["source"]) == ["this study", "ensemble"]
    assert comparison.loc[0, "seeds"] == 2
    assert (folder / "report" / "comparison.md").read_text().startswith("# ")
    assert "\\begin{tabular}" in (folder / "report" / "comparison.tex").read_text()
    assert {path.name for path in (folder / "report" / "figures").iterdir()} == FIGURES
    for seed in (0, 1):
        content = json.loads((folder / "models" / f"cnn-seed{seed}.json").read_text())
        assert content["retraining"]["fingerprint"] == record["data"]["fingerprint"]
        config = build_train_config("cnn", content["retraining"]["params"], epochs=1, seed=0)
        build_model(config.model).load_state_dict(
            safetensors.torch.load_file(folder / "models" / f"cnn-seed{seed}.safetensors")
        )
    assert len(list((folder / "wandb").glob("offline-run-*"))) >= 6
    assert not (folder / "checkpoints").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_two_trials_share_a_gpu_and_the_winner_is_retrained_on_it(tmp_path, study, finish):
    finish(tmp_path, str(study), "--set", "resources.cnn={cpus: 1, gpus: 0.5}")
    trials = load_trials(tmp_path)
    check_whole(trials, 4)
    assert {trial.user_attrs["device"] for trial in trials} == {torch.cuda.get_device_name()}
    records = [json.loads(path.read_text()) for path in (tmp_path / "results/tiny/models").glob("*.json")]
    assert [record["hardware"]["type"] for record in records] == ["cuda", "cuda"]
