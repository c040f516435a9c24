"""A study in an object store, through the command line: real Ray, a real S3 endpoint, a head that vanishes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.cluster.copy import read_parts
from search.cluster.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent
STUDY = """
name: tiny
results: s3://{bucket}/studies
data: {{path: sample, max_train_images: 200, val_fraction: 0.25}}
search: {{architectures: [cnn], num_trials: 8, max_epochs: 3, scheduler: none, num_startup_trials: 2}}
space:
  shared: {{learning_rate: {{low: 1e-4, high: 1e-2, log: true}}, batch_size: 32}}
  cnn: {{filters: 8, convs_per_block: 2}}
evaluation: {{seeds: 1}}
"""


def start(module, *arguments):
    return subprocess.Popen(
        [sys.executable, "-u", "-m", module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CI": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(module, *arguments, code=0):
    process = start(module, *arguments)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output


def load_trials(store, tmp_path):
    path = tmp_path / "from-the-store.journal"
    path.write_bytes(read_parts(store))
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name="tiny", storage=storage).trials


def test_a_study_whose_head_vanishes_goes_on_from_the_bucket_on_another_machine(tmp_path, bucket):
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.format(bucket=bucket))
    url = f"s3://{bucket}/studies/tiny"
    store = Store(url)
    first = ["--set", f"data.cache={tmp_path / 'first'}", "--set", "search.max_concurrent=1"]
    head = start("search.run", study, *first)
    while head.poll() is None and read_parts(store).count(b'"architecture"') < 3:  # so many trials have begun
        time.sleep(0.05)
    os.kill(head.pid, signal.SIGSTOP)  # so that it is still there when the next commands are
    assert f"{url} exists: --resume" in finish("search.run", study, *first, code=2)
    refused = finish("search.run", study, *first, "--resume", code=2)
    assert f"{url} is being searched by process {head.pid} on " in refused
    assert json.loads(finish("search.inspect", url, "--json"))["searched_by"].startswith(f"process {head.pid} ")
    os.killpg(head.pid, signal.SIGKILL)
    head.communicate()
    shutil.rmtree(tmp_path / "first" / "studies")

    shipped = read_parts(store)
    before = load_trials(store, tmp_path)
    assert 3 <= len(before) < 8
    output = finish("search.run", study, "--resume", "--set", f"data.cache={tmp_path / 'second'}")
    assert f"Report: {url}/report" in output
    assert read_parts(store).startswith(shipped)
    after = load_trials(store, tmp_path)
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * 8
    for trial in after:
        assert list(trial.intermediate_values) == [1, 2, 3]
        lines = [f"trial {trial.number} cnn epoch {epoch}/3" for epoch in (1, 2, 3)]
        known = len(before[trial.number].intermediate_values) if trial.number < len(before) else 0
        assert [output.count(line) for line in lines] == [0] * known + [1] * (3 - known)
    names = list(store.list())
    assert {"study.yaml", "trials.csv", "report/report.html", "models/cnn-seed0.json"} <= set(names)
    assert not [name for name in names if name.startswith(("checkpoints/", "study.lock", ".reaching"))]

    third = ["--set", f"data.cache={tmp_path / 'third'}"]
    assert "nothing to train" in finish("search.evaluate", url, *third)
    finish("search.evaluate", url, *third, "--report")
    assert "All trials have ended." in finish("search.inspect", url)
