import pytest
import torch

from search.config.load import parse
from search.record.checkpoints import Checkpoint, TrialCheckpoints, load_key
from search.record.journal import Journal
from search.record.object_store import Store
from search.record.trial import State, Trial
from search.study import Study
from trainables.checkpoint import save
from trainables.errors import InputError


def make_state(epoch):
    return {"epoch": epoch, "model": {"weight": torch.full((3,), float(epoch))}, "history": [{"epoch": epoch}]}


@pytest.fixture(params=["a folder", "a store"])
def build(request, tmp_path):
    """Build the checkpoint of a training on a node."""
    url = None
    if request.param == "a store":
        url = f"s3://{request.getfixturevalue('bucket')}/studies/mine"

    def build(identity="mine", node="one", name="trial-3"):
        return Checkpoint(path=tmp_path / node / f"{name}.ckpt", name=name, identity=identity, url=url)

    return build


def test_a_checkpoint_of_another_training_of_the_same_number_is_none(build):
    build("lost").save(make_state(5))
    assert build("mine").load() is None
    build("mine").save(make_state(1))
    assert build("mine").load()["epoch"] == 1


def test_a_training_continues_from_its_newest_checkpoint(build):
    for epoch in (1, 2, 3):
        build().save(make_state(epoch))
    state = build().load()
    assert state["epoch"] == 3
    assert torch.equal(state["model"]["weight"], torch.full((3,), 3.0))
    assert set(state) == set(make_state(1))


def test_a_deleted_checkpoint_is_gone(build):
    for epoch in (1, 2):
        build().save(make_state(epoch))
    build().delete()
    assert build().load() is None
    assert build(node="two").load() is None


@pytest.fixture
def url(bucket):
    return f"s3://{bucket}/studies/mine"


def test_another_node_finds_the_newest_in_the_store(tmp_path, url):
    one, two = (Checkpoint(path=tmp_path / node / "c", name="t", identity="mine", url=url) for node in ("one", "two"))
    one.save(make_state(1))
    assert two.load()["epoch"] == 1
    two.save(make_state(2))
    two.save(make_state(3))
    assert one.load()["epoch"] == 3, "the older one here is passed over"
    one.delete(stored=False)
    assert one.load()["epoch"] == 3


def test_a_store_keeps_two_checkpoints_of_a_training_and_none_of_its_predecessor(tmp_path, url):
    def save(identity, epoch):
        Checkpoint(path=tmp_path / "c", name="t", identity=identity, url=url).save(make_state(epoch))

    for epoch in range(1, 5):
        save("lost", epoch)
    assert [name[-6:] for name in Store(url).list("checkpoints/t/")] == ["000003", "000004"]
    save("mine", 1)
    assert [name[-6:] for name in Store(url).list("checkpoints/t/")] == ["000001"]


def test_a_damaged_object_is_skipped_and_the_previous_one_is_used(tmp_path, url):
    one, two = (Checkpoint(path=tmp_path / node / "c", name="t", identity="mine", url=url) for node in ("one", "two"))
    one.save(make_state(1))
    one.save(make_state(2))
    newest = list(Store(url).list("checkpoints/t/"))[-1]
    Store(url).write(newest, b"damaged")
    assert two.load()["epoch"] == 1


def test_a_store_that_is_away_stops_no_training(tmp_path, url):
    away = url.replace("bucket-", "no-bucket-")
    checkpoint = Checkpoint(path=tmp_path / "c", name="t", identity="mine", url=away)
    assert checkpoint.load() is None
    checkpoint.save(make_state(1))
    assert checkpoint.load()["epoch"] == 1
    checkpoint.delete()
    assert checkpoint.load() is None


def make_trial(number, state):
    return Trial(number=number, architecture="cnn", params={}, state=state)


def test_an_ended_trial_leaves_nothing_and_a_running_one_keeps_two(tmp_path):
    checkpoints = TrialCheckpoints(tmp_path / "checkpoints")
    for number in (0, 1):
        for _ in range(3):
            save(checkpoints.get_path(number), {"weights": torch.zeros(3)})
        checkpoints.get_path(number).with_name(f"trial-{number}.ckpt.partial").touch()
    checkpoints.on_end(make_trial(0, State.PRUNED))
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["trial-1.ckpt", "trial-1.ckpt.partial", "trial-1.ckpt.previous"]


def test_what_a_kill_left_of_an_ended_trial_is_deleted(tmp_path):
    checkpoints = TrialCheckpoints(tmp_path / "checkpoints")
    for number in (0, 1):
        save(checkpoints.get_path(number), {"weights": torch.zeros(3)})
    checkpoints.delete_leftovers([make_trial(0, State.COMPLETE), make_trial(1, State.RUNNING)])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["trial-1.ckpt"]
    checkpoints.close()
    checkpoints.on_end(make_trial(1, State.FAIL))
    checkpoints.close()
    assert list(tmp_path.iterdir()) == []


def test_a_study_never_holds_more_than_two_checkpoints_a_trial_under_way_and_none_at_its_end(tmp_path):
    space = {"shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}}
    config = parse({"name": "x", "search": {"num_trials": 30, "max_epochs": 9, "reduction_factor": 2}, "space": space})
    checkpoints = TrialCheckpoints(tmp_path / "checkpoints")
    study = Study(config, Journal(tmp_path / "study.journal", "x", note=print), [checkpoints])
    slots, running, most = 3, {}, 0
    while True:
        while len(running) < slots and (trial := study.ask()) is not None:
            running[trial.number] = trial
        if not running:
            break
        for trial in list(running.values()):
            epoch = len(trial.epochs) + 1
            save(checkpoints.get_path(trial.number), {"epoch": epoch})
            most = max(most, len(list((tmp_path / "checkpoints").iterdir())))
            accuracy = 1 - trial.params["learning_rate"] / epoch
            row = {"epoch": epoch, "accuracy": accuracy, "seconds": 0.5, "images_per_second": 9.0}
            if study.report(trial.number, row, "cpu"):
                del running[trial.number]
    assert most == 2 * slots
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_foreign_object_among_the_checkpoints_is_left_alone(tmp_path, url):
    checkpoint = Checkpoint(path=tmp_path / "c", name="t", identity="mine", url=url)
    checkpoint.save(make_state(1))
    [name] = Store(url).list("checkpoints/t/")
    Store(url).write(f"{name.rpartition('/')[0]}/backup.txt", b"x")
    checkpoint.save(make_state(2))
    (tmp_path / "c").unlink()
    assert checkpoint.load()["epoch"] == 2


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_key_of_another_length_signs_nothing(tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "cifake-search" / "checkpoint.key"
    assert load_key() == path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"checkpoint\.key has {len(content)} bytes and not 32: copy it again"):
        load_key()
