"""A training function of the user in a worker, without Ray."""

import dataclasses
import hashlib
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
import torch

from search.cluster.job import Failure, Finished, Job, NodeError, Report
from search.cluster.worker import run_job
from search.record.checkpoints import load_key
from trainables import names
from trainables.checkpoint import save
from trainables.errors import InputError

SOURCE = """
import random


def walk(run, step: float = 1.0, last: int = 9):
    places = [0.0]
    for epoch in run.epochs(places):
        places.append(places[-1] + step * random.random())
        yield {"place": places[-1]}
        if epoch == last:
            return


def fall(run):
    for epoch in run.epochs():
        raise PermissionError(13, "no right")
        yield


def stop(run):
    return
    yield
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "walking.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "walking", raising=False)  # of the test before
    for name in list(names.IMPORTED):
        monkeypatch.delitem(names.IMPORTED, name)
    return Job(
        label="trial-3",
        number=3,
        architecture="walking:walk",
        params={"step": 0.5},
        seed=1,
        max_epochs=4,
        epochs=4,
        code=str(tmp_path),
        pack=None,
        val_fraction=0.1,
        max_train_images=None,
        split_seed=0,
        checkpoint=str(tmp_path / "trial-3.ckpt"),
        cpus=1,
        gpus=0,
    )


def run(job):
    return run_job(lambda: None, None, job)


def read(messages):
    assert all(isinstance(message, Report) for message in messages), messages
    return [(message.metrics["epoch"], message.metrics["place"]) for message in messages]


def test_a_function_continues_from_its_checkpoint(job, tmp_path):
    straight = read(list(run(dataclasses.replace(job, checkpoint=str(tmp_path / "straight.ckpt")))))
    assert [epoch for epoch, _ in straight] == [1, 2, 3, 4]
    assert read(list(islice(run(job), 2))) == straight[:2]
    assert read(list(run(dataclasses.replace(job, epochs_done=1)))) == straight[1:]


def test_a_checkpoint_that_another_user_or_machine_wrote_is_not_unpickled(job, tmp_path):
    """A stranger knows everything about a study but the key."""
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(ran),)

    straight = read(list(run(job)))
    for key in (b"", b"other" * 8, b"mine" * 8):
        mine = dataclasses.replace(job, key=b"mine" * 8, checkpoint=str(tmp_path / f"{key[:1]}.ckpt"))
        content = torch.frombuffer(bytearray(pickle.dumps(([Evil()], {}))), dtype=torch.uint8)
        known = {"epoch": 1, "history": [{"epoch": 1, "place": 0.0}], "pickled": content}
        save(tmp_path / f"{key[:1]}.ckpt", known | {"identity": job.describe()}, key)
        messages = list(run(mine))
        if key != mine.key:
            assert [message.is_new for message in messages] == [True] * 4
            assert read(messages) == straight
        assert ran.exists() == (key == mine.key), "the key alone keeps it out"


def test_the_key_of_a_user_is_made_once_and_no_other_user_can_read_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_key(), range(8)))
    assert [len(key) for key in keys] == [32]
    (file,) = (tmp_path / "state" / "cifake-search").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys == {file.read_bytes()}
    monkeypatch.setenv("XDG_STATE_HOME", str(file))
    with pytest.raises(InputError, match="set XDG_STATE_HOME"):
        load_key()


def test_a_job_does_not_show_its_key(job):
    assert "hush" not in repr(dataclasses.replace(job, key=b"hush"))


def test_a_function_that_ends_early_ends_its_job(job):
    *reports, last = run(dataclasses.replace(job, params={"last": 2}))
    assert len(read(reports)) == 2
    assert last == Finished()


def test_an_error_of_the_function_is_the_failure_of_its_trial_with_its_traceback(job):
    (failure,) = run(dataclasses.replace(job, architecture="walking:fall", params={}))
    assert isinstance(failure, Failure)
    assert failure.reason == "PermissionError: [Errno 13] no right"
    assert "in fall" in failure.traceback
    assert failure.disk_fault is None


def test_a_node_whose_module_differs_from_the_drivers_trains_nothing(job, tmp_path):
    own_hashes = {"walking.py": hashlib.sha256((tmp_path / "walking.py").read_bytes()).hexdigest()}
    assert len(list(run(dataclasses.replace(job, own_hashes=own_hashes)))) == 4
    with pytest.raises(NodeError, match=r"walking.py in .* differs from the driver's"):
        next(run(dataclasses.replace(job, own_hashes={"walking.py": "0" * 64})))


def test_a_function_that_yields_no_metric_is_refused_and_leaves_no_checkpoint(job, tmp_path):
    (failure,) = run(dataclasses.replace(job, metric="error"))
    assert failure.blames_function
    assert failure.reason == "epoch 1 yielded no error, only place: yield it, or set metric to one of them"
    assert not (tmp_path / "trial-3.ckpt").exists()


def test_a_function_without_an_epoch_is_a_failure(job):
    (failure,) = run(dataclasses.replace(job, architecture="walking:stop", params={}))
    assert failure.reason == "the function ended before its first yield"
