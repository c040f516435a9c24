import pytest
import torch

from search.record.checkpoints import Shelf
from search.record.object_store import Store


def make_state(epoch):
    return {"epoch": epoch, "model": {"weight": torch.full((3,), float(epoch))}, "history": [{"epoch": epoch}]}


@pytest.fixture(params=["a folder", "a store"])
def build(request, tmp_path):
    """Build the shelf of a training on a node."""
    url = None
    if request.param == "a store":
        url = f"s3://{request.getfixturevalue('bucket')}/studies/mine"

    def build(identity="mine", node="one", name="trial-3"):
        return Shelf(path=tmp_path / node / f"{name}.ckpt", name=name, identity=identity, url=url)

    return build


def test_a_checkpoint_of_another_training_of_the_same_number_is_none(build):
    build("lost").save(make_state(5))
    assert build("mine").load() is None
    build("mine").save(make_state(1))
    assert build("mine").load()["epoch"] == 1


def test_a_training_goes_on_from_its_newest_checkpoint(build):
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
    one, two = (Shelf(path=tmp_path / node / "c", name="t", identity="mine", url=url) for node in ("one", "two"))
    one.save(make_state(1))
    assert two.load()["epoch"] == 1
    two.save(make_state(2))
    two.save(make_state(3))
    assert one.load()["epoch"] == 3, "the older one here is passed over"
    one.delete(stored=False)
    assert one.load()["epoch"] == 3


def test_a_store_keeps_two_checkpoints_of_a_training_and_none_of_its_predecessor(tmp_path, url):
    def save(identity, epoch):
        Shelf(path=tmp_path / "c", name="t", identity=identity, url=url).save(make_state(epoch))

    for epoch in range(1, 5):
        save("lost", epoch)
    assert [name[-6:] for name in Store(url).list("checkpoints/t/")] == ["000003", "000004"]
    save("mine", 1)
    assert [name[-6:] for name in Store(url).list("checkpoints/t/")] == ["000001"]


def test_a_damaged_object_is_passed_over_for_the_one_before(tmp_path, url):
    one, two = (Shelf(path=tmp_path / node / "c", name="t", identity="mine", url=url) for node in ("one", "two"))
    one.save(make_state(1))
    one.save(make_state(2))
    newest = list(Store(url).list("checkpoints/t/"))[-1]
    Store(url).write(newest, b"damaged")
    assert two.load()["epoch"] == 1


def test_a_store_that_is_away_stops_no_training(tmp_path, url):
    away = url.replace("bucket-", "no-bucket-")
    shelf = Shelf(path=tmp_path / "c", name="t", identity="mine", url=away)
    assert shelf.load() is None
    shelf.save(make_state(1))
    assert shelf.load()["epoch"] == 1
    shelf.delete()
    assert shelf.load() is None
