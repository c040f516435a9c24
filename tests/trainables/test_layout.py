"""Data of any two classes: layouts, sizes, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.config import TrainConfig
from trainables.errors import InputError
from trainables.layout import Settings, read_layout
from trainables.models.cnn.config import CnnConfig
from trainables.pack import pack
from trainables.pack_info import describe_images, load_info
from trainables.partition import split_train
from trainables.source import Folder
from trainables.splits import open_full_train, open_test, open_train
from trainables.train import predict, train

PETS = Settings(positive="dog")


@pytest.fixture
def pets(tmp_path, write_noise):
    """Write a data set of cats and dogs: pets({"train": 6, "test": 4}) has as many of each class."""

    def write(splits: dict[str, int], size: int = 32) -> Path:
        for place, (split, count) in enumerate(splits.items()):
            for label, name in enumerate(("cat", "dog")):
                for number in range(count):
                    path = tmp_path / "pets" / split / name / "deep" / f"{number}.png"
                    write_noise(path, 10_000 * place + 1000 * label + number, size=size)
        return tmp_path / "pets"

    return write


def zip_folder(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder.parent / "zipped"), "zip", folder))


@pytest.mark.parametrize(("positive", "classes"), [("dog", ("cat", "dog")), ("cat", ("dog", "cat"))])
def test_the_positive_class_has_label_1(pets, cache, positive, classes):
    packed = pack(pets({"train": 6, "test": 4}), cache, Settings(positive=positive))
    info, test = load_info(packed), open_test(packed)
    assert info.classes == classes
    assert info.counts == {"train": dict.fromkeys(classes, 6), "test": dict.fromkeys(classes, 4)}
    assert test.labels.tolist() == [classes.index(name) for name in ("cat", "dog") for _ in range(4)]


def test_a_positive_class_that_is_none_is_refused_with_the_names_found(pets, cache):
    with pytest.raises(InputError, match=r"^data.positive = 'REAL': .*pets has the classes cat and dog"):
        pack(pets({"train": 6, "test": 4}), cache)


def test_another_positive_class_or_size_is_another_pack(pets, cache):
    folder = pets({"train": 6, "test": 4})
    settings = [PETS, Settings(positive="cat"), Settings(positive="dog", size=64)]
    packs = [pack(folder, cache, each) for each in settings]
    assert len({each.name for each in packs}) == 3
    assert len({load_info(each).fingerprint for each in packs}) == 3


@pytest.mark.parametrize("names", [("Train", "TEST"), ("train", "test")])
@pytest.mark.parametrize("wraps", [False, True])
def test_splits_may_have_any_case_and_a_folder_around_them(pets, cache, tmp_path, names, wraps):
    plain = pack(pets({"train": 6, "test": 4}), cache, PETS)
    for before, after in zip(("train", "test"), names, strict=True):
        (tmp_path / "pets" / before).rename(tmp_path / "pets" / after)
    folder = tmp_path / "pets"
    if wraps:
        folder = tmp_path / "around"
        folder.mkdir()
        (folder / "README.md").write_text("pets")
        (tmp_path / "pets").rename(folder / "pets")
    for source in (folder, zip_folder(folder)):
        assert pack(source, cache, PETS) == plain


@pytest.mark.parametrize("name", ["Val", "valid", "Validation"])
def test_a_validation_split_of_the_data_set_validates(pets, cache, name):
    packed = pack(pets({"train": 6, name: 3, "test": 4}), cache, PETS)
    info = load_info(packed)
    assert info.counts["val"] == {"cat": 3, "dog": 3}
    learned, validated = split_train(packed, val_fraction=0.9, seed=0, max_images=None)
    assert (learned.tolist(), validated.tolist()) == (list(range(12)), list(range(12, 18)))
    full = open_full_train(packed, seed=0, max_images=None)
    assert full.indices.tolist() == list(range(18))
    assert full.labels.tolist() == [0] * 6 + [1] * 6 + [0] * 3 + [1] * 3
    assert any("val_fraction has no effect" in note for note in describe_images({"counts": info.counts}, None))


def test_a_test_split_is_carved_once_by_content_and_copies_fall_together(pets, cache):
    folder = pets({"": 40})
    carving = Settings(positive="dog", test_fraction=0.3)
    packed = pack(folder, cache, carving)
    info = load_info(packed)
    for name in ("cat", "dog"):
        assert info.counts["train"][name] + info.counts["test"][name] == 40
        assert 5 <= info.counts["test"][name] <= 20
    before = {image.numpy().tobytes() for image in open_test(packed).images}
    for number in range(40):
        shutil.copy(folder / "cat" / "deep" / f"{number}.png", folder / "cat" / f"copy{number}.png")
    again = pack(zip_folder(folder), cache, carving)
    assert {image.numpy().tobytes() for image in open_test(again).images} == before
    assert load_info(again).leaked == 0
    with pytest.raises(InputError, match=r"no train and test folders: set data\.test_fraction"):
        pack(folder, cache, PETS)


def test_a_carved_fraction_that_leaves_a_class_without_images_is_refused(pets, cache):
    with pytest.raises(InputError, match=r"with data.test_fraction = 1e-09 has no images in test/cat, test/dog"):
        pack(pets({"": 5}), cache, Settings(positive="dog", test_fraction=1e-9))


def test_a_test_fraction_of_data_with_a_test_split_is_refused(pets, cache):
    with pytest.raises(InputError, match=r"test_fraction = 0\.2: .* has a test split of its own"):
        pack(pets({"train": 6, "test": 4}), cache, Settings(positive="dog", test_fraction=0.2))


@pytest.mark.parametrize(("count", "names"), [(1, ["a"]), (3, ["a", "b", "c"])])
def test_other_numbers_of_classes_are_refused_with_the_folders(tmp_path, cache, write_noise, count, names):
    for split in ("train", "test"):
        for seed, name in enumerate(names):
            write_noise(tmp_path / "many" / split / name / "0.png", seed)
    told = ", ".join(f"'{name}'" for name in names)
    with pytest.raises(InputError, match=rf"has {count} classes \({told}\): a model tells exactly two apart"):
        pack(tmp_path / "many", cache, PETS)


def test_a_class_without_files_in_a_split_is_named(pets, cache):
    folder = pets({"train": 6, "val": 2, "test": 4})
    shutil.rmtree(folder / "val/dog")
    with pytest.raises(InputError, match="has no images in val/dog"):
        pack(folder, cache, PETS)


@pytest.mark.parametrize(("split", "again"), [("train", "TRAIN"), ("val", "valid"), ("valid", "validation")])
def test_two_folders_of_one_split_are_refused(pets, split, again):
    folder = pets(dict.fromkeys(dict.fromkeys(["train", "test", split]), 4))
    shutil.copytree(folder / split, folder / again)
    with pytest.raises(InputError, match="two folders of one split"):
        read_layout(Folder(folder))


def test_images_in_a_folder_beside_the_splits_are_refused_and_other_files_are_not(pets, cache):
    folder = pets({"train": 6, "test": 4})
    before = pack(folder, cache, PETS)
    (folder / "notes").mkdir()
    (folder / "notes/read.txt").write_text("no image")
    assert pack(folder, cache, PETS) == before
    shutil.copytree(folder / "test", folder / "holdout")
    for source in (folder, zip_folder(folder)):
        with pytest.raises(InputError, match="has images in 'holdout': name it train, val or test"):
            pack(source, cache, PETS)


def test_images_of_another_size_are_counted_and_said(pets, cache, write_noise):
    folder = pets({"train": 6, "test": 4}, size=64)
    write_noise(folder / "train/cat/small.png", 77, size=40)
    info = load_info(pack(folder, cache, Settings(positive="dog", size=64)))
    assert (info.size, info.resized) == (64, 1)
    notes = describe_images({"counts": info.counts, "resized": 1, "size": 64}, None)
    assert notes == ["1 of 21 images had another size and were resized to 64x64 pixels."]


def test_images_of_64_pixels_are_packed_to_the_bit_and_trained_on(pets, cache):
    folder = pets({"train": 8, "test": 4}, size=64)
    packed = pack(folder, cache, Settings(positive="dog", size=64))
    test = open_test(packed)
    assert test.images.shape == (8, 64, 64, 3)
    with Image.open(folder / "test/cat/deep/0.png") as image:
        assert np.array_equal(test.images[0].numpy(), np.asarray(image))
    split, held_out = open_train(packed, val_fraction=0.25, seed=0, max_images=None)
    config = TrainConfig(model=CnnConfig(filters=4), epochs=2, batch_size=4, size=64, cutout=40)
    *_, last = train(config, split, held_out, device=torch.device("cpu"))
    model = config.model.build(size=64)
    model.load_state_dict(last.state()["model"])
    logits = predict(model.eval(), held_out, device=torch.device("cpu"))
    assert logits.shape == (len(held_out),)
    right = (logits > 0) == held_out.labels[held_out.indices].bool()
    assert right.float().mean().item() == pytest.approx(last.metrics["accuracy"])
