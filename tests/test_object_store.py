"""A study in an object store, through the command line: real Ray, a real S3 endpoint, a head that vanishes."""

import contextlib
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import optuna
import psutil
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from benchmarks.processes import list_family
from search.record.object_store import Store
from search.record.remote import read_parts
from trainables.seed import derive_seed

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
evaluation: {{seeds: 1, perturbations: [flip]}}
"""

FUNCTION = """
import random
import time


def add(run, scale: float = 1.0):
    kept = {"sum": 0.0}
    for _ in run.epochs(kept):
        time.sleep(0.3)
        kept["sum"] += scale * random.random()
        yield {"accuracy": kept["sum"]}
"""
FUNCTION_STUDY = """
name: sums
results: s3://{bucket}/studies
trainable: sums:add
search: {{num_trials: 1, max_epochs: 20, scheduler: none, max_concurrent: 1}}
space: {{add: {{scale: {{low: 0.5, high: 2.0}}}}}}
"""


@pytest.fixture
def start(spawn):
    """Start a module of the project."""

    def start(module, *arguments):
        return spawn(
            [sys.executable, "-u", "-m", module, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "CI": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture
def finish(start):
    """Run a module of the project to its end and return what it printed."""

    def finish(module, *arguments, code=0):
        process = start(module, *arguments)
        output, _ = process.communicate()
        assert process.returncode == code, output
        return output

    return finish


def lose(head):
    """Kill all processes of a search: those of Ray have groups of their own, and write for a while after its end."""
    family = list_family(head.pid)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.communicate()
    psutil.wait_procs(family, 60)


def listen():
    """Listen on a port below those that the system gives to any program, so that it is free again after a cut."""
    while True:
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", 20_000 + secrets.randbelow(10_000)))


class Line:
    """What leads to the store, and can be cut; who calls meanwhile is refused."""

    def __init__(self, url):
        self._target = urlsplit(url)
        self._listening = listen()
        self._port = self._listening.getsockname()[1]
        self._open = []
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def cut(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self):
        self._listening = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def _accept(self, listening):
        with contextlib.suppress(OSError):
            while True:
                ends = listening.accept()[0], socket.create_connection((self._target.hostname, self._target.port))
                self._open += ends
                for here, there in (ends, ends[::-1]):
                    threading.Thread(target=self._carry, args=(here, there), daemon=True).start()

    def _carry(self, here, there):
        with here, contextlib.suppress(OSError):
            while content := here.recv(65536):
                there.sendall(content)
            there.shutdown(socket.SHUT_WR)


def load_trials(store, tmp_path, name="tiny"):
    path = tmp_path / "from-the-store.journal"
    path.write_bytes(read_parts(store))
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=name, storage=storage).trials


def test_a_study_whose_head_is_lost_continues_from_the_bucket_on_another_machine(tmp_path, bucket, start, finish):
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
    assert f"{url} is in use by process {head.pid} on " in refused
    assert json.loads(finish("search", "inspect", url, "--json"))["searched_by"].startswith(f"process {head.pid} ")
    lose(head)
    shutil.rmtree(tmp_path / "first" / "studies")

    shipped = read_parts(store)
    before = load_trials(store, tmp_path)
    assert 3 <= len(before) < 8
    output = finish("search.run", study, "--resume", "--set", f"data.cache={tmp_path / 'second'}")
    assert f"Open {url}/report/report.html" in output
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
    assert [name for name in names if "/further/" in name] == ["models/further/cnn-seed0.perturbation.flip.safetensors"]
    assert not [name for name in names if name.startswith(("checkpoints/", "study.lock", ".reaching"))]

    third = ["--set", f"data.cache={tmp_path / 'third'}"]
    assert "nothing to train" in finish("search", "evaluate", url, *third)
    finish("search", "evaluate", url, *third, "--report")
    assert "All trials have ended." in finish("search", "inspect", url)


def test_a_search_continues_while_its_store_cannot_be_reached_and_ships_afterwards(
    tmp_path, bucket, s3_server, monkeypatch, start
):
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.format(bucket=bucket))
    url, line = f"s3://{bucket}/studies/tiny", Line(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
    more = ("--set", f"data.cache={tmp_path / 'cache'}", "--set", "search.max_concurrent=1", "--plain")
    with start("search.run", study, *more) as head:
        lines = iter(head.stdout.readline, "")
        shown = list(itertools.takewhile(lambda text: "trial 1 cnn epoch 1/3" not in text, lines))
        line.cut()
        while "trial 4 cnn epoch 1/3" not in shown[-1]:
            shown.append(next(lines))
        line.mend()
        shown += lines
    line.cut()
    assert head.returncode == 0, "".join(shown)
    assert any("the search continues here and uploads the rest when the store answers again" in text for text in shown)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    trials = load_trials(Store(url), tmp_path)
    assert [(trial.state, len(trial.intermediate_values)) for trial in trials] == [(TrialState.COMPLETE, 3)] * 8
    assert Store(url).read("report/report.html") is not None


def test_a_training_function_continues_from_its_checkpoint_in_the_bucket_on_another_machine(
    tmp_path, bucket, start, finish
):
    study = tmp_path / "study.yaml"
    study.write_text(FUNCTION_STUDY.format(bucket=bucket))
    (tmp_path / "sums.py").write_text(FUNCTION)
    store = Store(f"s3://{bucket}/studies/sums")
    head = start("search.run", study, "--plain", "--set", f"data.cache={tmp_path / 'first'}")
    while head.poll() is None and b'"intermediate_value"' not in read_parts(store):
        time.sleep(0.05)
    lose(head)
    shutil.rmtree(tmp_path / "first")
    (before,) = load_trials(store, tmp_path, "sums")
    known = len(before.intermediate_values)
    assert 0 < known < 20
    output = finish("search.run", study, "--resume", "--plain", "--set", f"data.cache={tmp_path / 'second'}")
    assert f"trial 0 sums:add continues at epoch {known + 1}" in output
    for trial in load_trials(store, tmp_path, "sums"):
        generator = random.Random(derive_seed(0, f"trial {trial.number}"))
        drawn = [trial.params["add.scale"] * generator.random() for _ in range(20)]
        assert list(trial.intermediate_values.values()) == list(itertools.accumulate(drawn))
    names = list(store.list())
    assert "report/report.html" in names
    assert not [name for name in names if name.startswith("checkpoints/")]
