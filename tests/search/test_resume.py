"""Kills at any moment, any number of times, with trials side by side: what must hold, for drawn kill points.

Training is a closed form, workers are simulated: each has a checkpoint that may be one epoch ahead of the record, which
is what a real worker's is after a kill.
"""

import random
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.config.load import parse
from search.record.journal import Journal
from search.record.trial import State
from search.schedulers.scheduler import SCHEDULERS
from search.study import Study

SPACE = {"shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}}
NUM_TRIALS = 10


class Killed(Exception):  # noqa: N818 it is what happens, not what went wrong
    pass


def open_study(path):
    search = {
        "num_trials": NUM_TRIALS,
        "max_epochs": 4,
        "scheduler": "asha",
        "reduction_factor": 2,
        "num_startup_trials": 3,
    }
    config = parse({"name": "x", "search": search, "space": SPACE})
    return Study(config, Journal(path, "x", note=lambda _: None))


def measure(trial, epoch):
    accuracy = 1 - trial.params["learning_rate"] / epoch
    return {"epoch": epoch, "accuracy": accuracy, "seconds": 1.0, "images_per_second": 1.0}


class Cluster:
    """Workers that outlive no kill, and a disk that does."""

    def __init__(self, path, seed):
        self.path = path
        self.draw = random.Random(seed)
        self.checkpoints = {}
        self.trained = []

    def run(self, slots, limit):
        """Search until the end, or raise Killed after `limit` steps."""
        study = open_study(self.path)
        running = {}
        while True:
            while len(running) < slots and (trial := study.ask()) is not None:
                running[trial.number] = trial
            if not running:
                return study
            trial = running[self.draw.choice(sorted(running))]
            epoch = len(trial.epochs) + 1
            if self.checkpoints.get(trial.number, 0) < epoch:
                self.step(limit)
                self.trained.append((trial.number, epoch))
                self.checkpoints[trial.number] = epoch
            self.step(limit)
            if study.report(trial.number, measure(trial, epoch), "cpu"):
                del running[trial.number]

    def step(self, limit):
        limit[0] -= 1
        if limit[0] < 0:
            raise Killed


def check(study, path):
    """Check all that a study must be at its end."""
    assert [trial.number for trial in study.trials] == list(range(NUM_TRIALS))
    for trial in study.trials:
        assert trial.state in (State.COMPLETE, State.PRUNED)
        assert trial.epochs == [measure(trial, epoch) for epoch in range(1, len(trial.epochs) + 1)]
    recorded = open_study(path)
    assert recorded.trials == study.trials
    journal = Journal(path, "x", note=print)
    journal.load()
    rebuilt = {name: SCHEDULERS["asha"](study.config.search, name) for name in study._schedulers}
    for number, epoch in journal.list_epochs():
        trial = study.trials[number]
        rebuilt[trial.architecture].report(number, epoch, trial.list_values()[epoch - 1])
    assert {name: asha.rungs for name, asha in rebuilt.items()} == {
        name: asha.rungs for name, asha in study._schedulers.items()
    }


SLOW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@SLOW
@given(kills=st.lists(st.integers(0, 25), max_size=8), slots=st.integers(1, 4), seed=st.integers(0, 2**16))
def test_any_number_of_kills_loses_and_doubles_nothing(kills, slots, seed):
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder) / "study.journal", seed)
        ended = {}
        for kill in kills:
            try:
                cluster.run(slots, [kill])
            except Killed:
                now = {trial.number: trial for trial in open_study(cluster.path).trials if trial.state != "RUNNING"}
                assert {number: now[number] for number in ended} == ended
                ended = now
        study = cluster.run(slots, [10**6])
        check(study, cluster.path)
        assert len(cluster.trained) == len(set(cluster.trained))
        assert len(cluster.trained) == study.num_epochs


@SLOW
@given(share=st.floats(0, 1), slots=st.integers(1, 3))
def test_a_journal_cut_off_at_any_byte_is_continued(share, slots):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.journal"
        Cluster(path, 0).run(slots, [10**6])
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        check(Cluster(path, 1).run(slots, [10**6]), path)


@SLOW
@given(kills=st.lists(st.integers(0, 30), max_size=6))
def test_one_trial_at_a_time_a_killed_study_equals_an_unkilled_one(kills):
    with tempfile.TemporaryDirectory() as folder:
        straight = Cluster(Path(folder) / "straight.journal", 0).run(1, [10**6])
        cluster = Cluster(Path(folder) / "killed.journal", 0)
        for kill in kills:
            try:
                cluster.run(1, [kill])
            except Killed:
                continue
        assert cluster.run(1, [10**6]).trials == straight.trials
