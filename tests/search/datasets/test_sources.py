"""Images from elsewhere: how they are packed, what is left out of them, and what is refused."""

import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from search.config.load import parse
from search.datasets.prepare import prepare_data
from search.datasets.sources import prepare_sources
from trainables.errors import InputError
from trainables.layout import Settings
from trainables.pack import pack
from trainables.pack_info import load_info, verify
from trainables.splits import open_elsewhere, open_test


@pytest.fixture
def prepare(image_folder, cache):
    """Prepare the sources of a study of `image_folder`: prepare({"name": path}) -> PackedSource of each."""

    def run(also, **data):
        config = parse(
            {
                "name": "x",
                "data": {"path": str(image_folder), "cache": str(cache), **data},
                "evaluation": {"also": {name: str(path) for name, path in also.items()}},
            }
        )
        console = Console(quiet=True)
        return prepare_sources(config, prepare_data(config, console), console)

    return run


@pytest.fixture
def other(tmp_path, write_noise):
    """Images of both classes that are in no other data set."""
    for label, name in enumerate(("FAKE", "REAL")):
        for number in range(5):
            write_noise(tmp_path / "other" / name / f"{number}.png", 9000 + 100 * label + number)
    return tmp_path / "other"


def brighten(path, target):
    """Write an image that a person would call the same."""
    with Image.open(path) as image:
        Image.fromarray(np.minimum(np.asarray(image), 243) + 12).save(target)


@pytest.mark.parametrize("place", [".", "test", "around", "around/test"])
def test_the_layouts_of_a_source_give_the_same_images(prepare, other, tmp_path, place):
    shutil.copytree(other, tmp_path / "moved" / place)
    (first, second) = prepare({"other": other, "moved": tmp_path / "moved"})
    assert second.pack == first.pack
    assert first.source.fingerprint == second.source.fingerprint
    assert (first.source.counts, first.left_out) == ((5, 5), ())
    split = open_elsewhere(first.pack)
    assert split.labels.tolist() == [0] * 5 + [1] * 5
    with Image.open(other / "REAL/3.png") as image:
        assert np.array_equal(split.images[8].numpy(), np.asarray(image))
    verify(first.pack)


def test_a_zip_is_a_source_too(prepare, other, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "zipped"), "zip", other)
    first, second = prepare({"a": other, "b": packed})
    assert first.pack == second.pack


def test_of_a_data_set_with_splits_the_test_split_is_the_source(prepare, other, tmp_path, write_noise):
    shutil.copytree(other, tmp_path / "both/test")
    write_noise(tmp_path / "both/train/FAKE/0.png", 9500)
    first, second = prepare({"other": other, "both": tmp_path / "both"})
    assert second.pack == first.pack


def test_a_source_may_have_one_class_alone(prepare, other, tmp_path):
    shutil.copytree(other / "FAKE", tmp_path / "one/FAKE/deep")
    (found,) = prepare({"one": tmp_path / "one"})
    assert found.source.counts == (5, 0)
    assert open_elsewhere(found.pack).labels.tolist() == [0] * 5


def test_copies_of_training_images_and_images_that_look_like_them_are_left_out(prepare, other, image_folder):
    shutil.copy(image_folder / "train/FAKE/2.png", other / "FAKE/1.png")
    shutil.copy(image_folder / "train/REAL/7.png", other / "FAKE/a copy in the other class.png")
    for number in (3, 4):
        brighten(image_folder / "train/REAL/3.png", other / f"REAL/{number}.png")
    (found,) = prepare({"other": other})
    source = found.source
    assert (source.copies, source.alike, source.counts) == (2, 2, (4, 3))
    assert found.left_out == (1, 5, 9, 10)
    split = open_elsewhere(found.pack, found.left_out)
    assert split.indices.tolist() == [0, 2, 3, 4, 6, 7, 8]
    whole = prepare({"other": other})[0]
    assert whole == found


def test_other_training_images_make_it_another_source(prepare, other, image_folder):
    (before,) = prepare({"other": other})
    shutil.copy(other / "REAL/0.png", image_folder / "train/REAL/new.png")
    (after,) = prepare({"other": other})
    assert after.pack == before.pack
    assert after.source.fingerprint != before.source.fingerprint
    assert (after.source.copies, after.source.counts) == (1, (5, 4))


def test_training_images_that_are_not_used_leave_nothing_out(prepare, other, image_folder):
    for split in ("train/FAKE", "train/REAL"):  # in both classes, so its label is unknown
        shutil.copy(other / "REAL/0.png", image_folder / split / "new.png")
    assert prepare({"other": other})[0].left_out == ()


def test_a_source_that_shares_an_image_with_the_test_split_is_refused_by_name(prepare, other, image_folder):
    shutil.copy(image_folder / "test/REAL/2.png", other / "FAKE/shared.png")
    (other / "FAKE/a bad one.png").write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        prepare({"other": other}, on_bad_image="skip")
    assert str(caught.value) == (
        f"evaluation.also.other: {other} shares 1 of its images with the test split, the first is FAKE/shared.png: "
        "remove them"
    )


def test_a_source_of_training_images_alone_is_refused(prepare, image_folder, tmp_path):
    shutil.copytree(image_folder / "train", tmp_path / "same")
    with pytest.raises(InputError, match=r"evaluation\.also\.same: the training images contain all images of .*same"):
        prepare({"same": tmp_path / "same"})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "there does not exist: give the folder or zip of the images"),
        (("note.txt",), "has no images of FAKE and REAL: expected FAKE and REAL, or one of them, in CLASS/"),
        (("FAKE/0.png", "REAL/"), "has no images of REAL: expected FAKE and REAL, or one of them"),
        (("FAKE/0.png", "real/0.png"), "has images of 'real': expected FAKE and REAL, or one of them"),
        (("cat/0.png", "dog/0.png"), "has images of 'cat', 'dog': expected FAKE and REAL"),
        (("train/FAKE/0.png",), r"has a train folder and no test folder: give CLASS/\*\* or test/CLASS"),
        (("FAKE/0.png", "REAL/bad.png"), "REAL/bad.png is not a sound JPEG"),
    ],
)
def test_a_source_of_another_kind_is_refused_in_one_sentence(prepare, tmp_path, write_noise, files, message):
    for number, name in enumerate(files):
        path = tmp_path / "there" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        elif name.endswith(("bad.png", ".txt")):
            path.write_text("nothing")
        else:
            write_noise(path, 9000 + number)
    with pytest.raises(InputError, match=rf"^evaluation\.also\.there: .*{message}") as caught:
        prepare({"there": tmp_path / "there"})
    assert "\n" not in str(caught.value)


def test_a_class_with_damaged_files_alone_is_refused_where_these_are_skipped(prepare, other):
    for path in (other / "REAL").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="has only files that are not images in source/REAL"):
        prepare({"other": other}, on_bad_image="skip")


def test_a_source_cannot_be_opened_as_a_test_split_nor_a_data_set_as_a_source(image_folder, other, cache):
    with pytest.raises(InputError, match=r"has no source\.images"):
        open_elsewhere(pack(image_folder, cache))
    with pytest.raises(InputError, match=r"has no test\.images"):
        open_test(pack(other, cache, Settings(classes=("FAKE", "REAL"))))


def test_what_a_pack_of_before_depends_on_is_unchanged(image_folder, cache):
    assert Settings().describe() == ""
    assert Settings(size=64).describe() == '{"size": 64, "positive": "REAL", "test_fraction": null}'
    assert load_info(pack(image_folder, cache)).counts.keys() == {"train", "test"}
