from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.errors import InputError
from trainables.pack_info import load_info, verify
from trainables.splits import Split, open_full_train, open_test, open_train

FAKE, REAL = 13, 24
"""Usable training images in the pack: one FAKE is leaked, two REAL are second copies."""


def _count(split) -> list[int]:
    return torch.bincount(split.labels[split.indices].long(), minlength=2).tolist()


@settings(deadline=None)
@given(
    val_fraction=st.floats(0.1, 0.9),
    seed=st.integers(0, 2**32),
    max_images=st.none() | st.integers(24, 60),
)
def test_train_and_validation_are_disjoint_stratified_and_make_up_full_train(packed, val_fraction, seed, max_images):
    train, validation = open_train(packed, val_fraction=val_fraction, seed=seed, max_images=max_images)
    full = open_full_train(packed, seed=seed, max_images=max_images)
    assert not set(train.indices.tolist()) & set(validation.indices.tolist())
    assert sorted(train.indices.tolist() + validation.indices.tolist()) == full.indices.tolist()
    assert len(full) == min(max_images or 60, FAKE + REAL)
    assert _count(full)[0] == pytest.approx(len(full) * FAKE / (FAKE + REAL), abs=0.5)
    for part, whole in zip(_count(validation), _count(full), strict=True):
        assert part == pytest.approx(val_fraction * whole, abs=0.5)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), max_images=st.integers(4, 37))
def test_the_draw_repeats_itself_and_grows_by_adding_images(packed, seed, max_images):
    small = open_full_train(packed, seed=seed, max_images=max_images)
    again = open_full_train(packed, seed=seed, max_images=max_images)
    assert torch.equal(small.indices, again.indices)
    large = open_full_train(packed, seed=seed, max_images=max_images + 5)
    assert set(small.indices.tolist()) <= set(large.indices.tolist())


def test_another_seed_draws_another_validation_split(packed):
    draws = [open_train(packed, val_fraction=0.5, seed=seed, max_images=None)[1].indices for seed in (0, 1)]
    assert not torch.equal(*draws)


def test_an_image_of_the_test_split_or_a_second_copy_is_never_trained_on(packed):
    info = load_info(packed)
    full, test = open_full_train(packed, seed=0, max_images=None), open_test(packed)
    assert (info.leaked, info.duplicates) == (1, 2)
    assert _count(full) == [FAKE, REAL]
    trained = {image.numpy().tobytes() for image in full.images[full.indices]}
    assert len(trained) == len(full)
    assert not trained & {image.numpy().tobytes() for image in test.images}


def test_the_test_split_stays_whole(packed):
    test = open_test(packed)
    assert _count(test) == [4, 6]
    assert test.images.shape == (10, 32, 32, 3)
    assert test.images.dtype == test.labels.dtype == torch.uint8


def test_opening_train_needs_no_file_of_the_test_split(pack_copy: Path):
    for path in pack_copy.glob("test.*"):
        path.unlink()
    train, _ = open_train(pack_copy, val_fraction=0.2, seed=0, max_images=None)
    assert len(train) > 0
    with pytest.raises(InputError, match=r"test\.images is missing: delete the folder"):
        open_test(pack_copy)


def test_images_are_mapped_and_what_is_written_to_them_stays_out_of_the_file(pack_copy: Path):
    train, _ = open_train(pack_copy, val_fraction=0.2, seed=0, max_images=None)
    if (maps := Path("/proc/self/maps")).exists():
        assert str(pack_copy / "train.images") in maps.read_text()
    train.images.zero_()
    verify(pack_copy)


META = torch.device("meta")
"""Stands in for an accelerator: tensors have a shape there and no content."""


def test_a_split_is_left_alone_by_the_device_it_is_on(packed):
    train, _ = open_train(packed, val_fraction=0.5, seed=0, max_images=None)
    assert train.to(torch.device("cpu")) is train
    moved = train.to(META)
    assert {moved.images.device, moved.labels.device, moved.indices.device} == {META}
    assert moved.to(META) is moved


def test_train_validation_and_the_trials_that_follow_share_one_upload(packed):
    moved = [part.to(META) for part in open_train(packed, val_fraction=0.5, seed=0, max_images=None)]
    moved += [part.to(META) for part in open_train(packed, val_fraction=0.2, seed=1, max_images=30)]
    moved += [open_full_train(packed, seed=0, max_images=None).to(META)]
    assert len({id(part.images) for part in moved}) == len({id(part.labels) for part in moved}) == 1
    assert moved[0].images.shape == (40, 32, 32, 3)


def test_train_and_test_are_on_a_device_at_the_same_time(packed):
    train = open_full_train(packed, seed=0, max_images=None).to(META)
    assert open_test(packed).to(META).images is not train.images
    assert open_full_train(packed, seed=0, max_images=None).to(META).images is train.images


def test_a_new_pack_at_the_same_path_is_uploaded_again(pack_copy: Path):
    before = open_full_train(pack_copy, seed=0, max_images=None).to(META)
    content = (pack_copy / "train.images").read_bytes()
    (pack_copy / "train.images").unlink()
    (pack_copy / "train.images").write_bytes(content)
    assert open_full_train(pack_copy, seed=0, max_images=None).to(META).images is not before.images


def test_a_split_that_is_in_no_file_moves_too():
    split = Split(images=torch.zeros(3, 32, 32, 3, dtype=torch.uint8), labels=torch.zeros(3), indices=torch.arange(2))
    moved = split.to(META)
    assert (moved.images.shape, moved.labels.shape, len(moved)) == ((3, 32, 32, 3), (3,), 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"val_fraction": 0.0}, "data.val_fraction = 0.0"),
        ({"val_fraction": 1.0}, "data.val_fraction = 1.0"),
        ({"val_fraction": float("nan")}, "data.val_fraction = nan"),
        ({"val_fraction": 0.01}, "data.val_fraction = 0.01 of 13 FAKE"),
        ({"val_fraction": 0.99}, "data.val_fraction = 0.99 of 13 FAKE"),
        ({"max_images": 1}, "data.max_train_images = 1 leaves train without FAKE"),
        ({"max_images": 0}, "data.max_train_images = 0"),
        ({"max_images": -5}, "data.max_train_images = -5"),
    ],
)
def test_a_draw_that_leaves_a_class_without_images_is_refused(packed, arguments, words):
    with pytest.raises(InputError, match=words):
        open_train(packed, **({"val_fraction": 0.2, "seed": 0, "max_images": None} | arguments))


def test_a_truncated_file_is_noticed_on_opening(pack_copy: Path):
    path = pack_copy / "train.images"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"has 122879 bytes instead of 122880: delete the folder"):
        open_full_train(pack_copy, seed=0, max_images=None)


@pytest.mark.parametrize("name", ["train.images", "train.labels", "train.hashes", "test.images"])
def test_one_altered_byte_is_noticed_by_verify(pack_copy: Path, name: str):
    content = bytearray((pack_copy / name).read_bytes())
    content[7] ^= 1
    (pack_copy / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} was altered after packing: delete the folder"):
        verify(pack_copy)


@pytest.mark.parametrize("content", [None, "", '{"fingerprint": "', "[]", "{}"])
def test_a_folder_without_a_whole_pack_json_is_not_a_pack(pack_copy: Path, content: str | None):
    (pack_copy / "pack.json").unlink()
    if content is not None:
        (pack_copy / "pack.json").write_text(content)
    with pytest.raises(InputError, match="delete the folder"):
        load_info(pack_copy)
