"""What an audit finds in a data set into which it was planted; on CIFAKE, what is known of CIFAKE."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.datasets.audit.findings import audit
from search.datasets.audit.images import read_images
from trainables.errors import InputError
from trainables.pack import pack
from trainables.pack_info import load_info

PARTS = ("train/FAKE", "train/REAL", "test/FAKE", "test/REAL")
RELATIONS = (*PARTS, "train/FAKE and test/FAKE", "train/REAL and test/REAL", "FAKE and REAL")
CIFAKE = os.environ.get("CIFAKE_PATH")


def examine(path):
    return audit(read_images(path))


def list_repeats(found):
    """Return (same file, same pixels, near) of every relation that has any."""
    counts = {row.relation: (row.same_file, row.same_pixels, row.near) for row in found.repeats}
    assert tuple(counts) == RELATIONS
    return {relation: own for relation, own in counts.items() if any(own)}


def draw_smooth(seed):
    """An image with large shapes, as photos have them, and room above for brightness."""
    coarse = np.random.default_rng(seed).integers(20, 200, size=(5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC))


def move(image):
    return np.concatenate([image[:, :1], image[:, :-1]], axis=1)


def brighten(image):
    return np.minimum(image.astype(int) + 10, 255).astype(np.uint8)


def test_a_clean_data_set_has_counts_and_nothing_else(image_folder, image_zip):
    for source in (image_folder, image_zip):
        found = examine(source)
        assert {part.name: part.images for part in found.parts} == dict(zip(PARTS, (14, 26, 4, 6), strict=True))
        assert list_repeats(found) == {}
        assert (found.bad, found.resized, found.copies, found.near) == ([], [], [], [])
        assert found.source == str(source)


def test_copies_are_counted_where_they_lie(image_folder):
    shutil.copy(image_folder / "train/FAKE/0.png", image_folder / "train/FAKE/copy.png")
    shutil.copy(image_folder / "train/FAKE/0.png", image_folder / "train/FAKE/third.png")
    shutil.copy(image_folder / "test/REAL/0.png", image_folder / "test/REAL/copy.png")
    shutil.copy(image_folder / "train/REAL/5.png", image_folder / "test/REAL/leak.png")
    shutil.copy(image_folder / "train/REAL/6.png", image_folder / "train/FAKE/wrong.png")
    found = examine(image_folder)
    assert list_repeats(found) == {
        "train/FAKE": (2, 0, 0),
        "test/REAL": (1, 0, 0),
        "train/REAL and test/REAL": (1, 0, 0),
        "FAKE and REAL": (1, 0, 0),
    }
    assert found.copies == [
        ["train/FAKE/0.png", "train/FAKE/copy.png", "train/FAKE/third.png"],
        ["train/FAKE/wrong.png", "train/REAL/6.png"],
        ["train/REAL/5.png", "test/REAL/leak.png"],
        ["test/REAL/0.png", "test/REAL/copy.png"],
    ]


def test_a_copy_in_the_other_class_of_the_other_split_is_in_both_classes(image_folder):
    shutil.copy(image_folder / "train/FAKE/0.png", image_folder / "test/REAL/other.png")
    assert list_repeats(examine(image_folder)) == {"FAKE and REAL": (1, 0, 0)}


def test_the_same_pixels_in_another_file_differ_from_the_same_file(image_folder):
    for target in ("train/FAKE/again.png", "test/FAKE/again.png"):
        Image.open(image_folder / "train/FAKE/2.png").save(image_folder / target, compress_level=0)
    found = examine(image_folder)
    # the two new files are one file, so the leak is one by its bytes and one by its pixels alone
    assert list_repeats(found) == {"train/FAKE": (0, 1, 0), "train/FAKE and test/FAKE": (1, 1, 0)}
    assert found.copies == [["train/FAKE/2.png", "train/FAKE/again.png", "test/FAKE/again.png"]]


@pytest.mark.parametrize("change", [move, brighten, "jpeg"])
@pytest.mark.parametrize(
    ("first", "second", "relation"),
    [
        ("train/REAL/a", "train/REAL/b", "train/REAL"),
        ("train/FAKE/a", "test/FAKE/b", "train/FAKE and test/FAKE"),
        ("train/REAL/a", "test/FAKE/b", "FAKE and REAL"),
    ],
)
def test_near_duplicates_are_found_where_they_lie(image_folder, change, first, second, relation):
    image = draw_smooth(1)
    Image.fromarray(image).save(image_folder / f"{first}.png")
    Image.fromarray(draw_smooth(2)).save(image_folder / "train/FAKE/another.png")
    if change == "jpeg":
        Image.fromarray(image).save(image_folder / f"{second}.jpg", quality=80)
    else:
        Image.fromarray(change(image)).save(image_folder / f"{second}.png")
    found = examine(image_folder)
    assert list_repeats(found) == {relation: (0, 0, 1)}
    assert [name.rsplit(".")[0] for name in found.near[0].names] == [first, second]
    assert 0 < found.near[0].difference < 20
    assert found.near[0].correlation > 0.9


def test_a_copy_of_a_near_duplicate_is_not_a_second_pair(image_folder):
    image = draw_smooth(1)
    for name, content in (("a", image), ("b", image), ("c", brighten(image)), ("d", brighten(image))):
        Image.fromarray(content).save(image_folder / f"test/REAL/{name}.png")
    found = examine(image_folder)
    assert list_repeats(found) == {"test/REAL": (2, 0, 1)}
    assert found.near[0].names == ("test/REAL/a.png", "test/REAL/c.png")


def test_images_whose_hashes_agree_but_that_look_different_are_no_pair(image_folder):
    image = draw_smooth(1) // 2
    Image.fromarray(image).save(image_folder / "train/REAL/dark.png")
    Image.fromarray(image + np.uint8(100)).save(image_folder / "train/REAL/bright.png")
    assert examine(image_folder).near == []


def test_small_things_on_one_plain_background_are_no_pair(image_folder):
    # their hashes are those of the gradient, their pixels differ little, but the things are two
    sky = np.broadcast_to(np.linspace(120, 130, 32), (3, 32, 32)).T.round().astype(np.uint8)
    for name, place in (("a", 4), ("b", 20)):
        image = sky.copy()
        image[place : place + 6, place : place + 6] = 90
        Image.fromarray(image).save(image_folder / f"train/FAKE/{name}.png")
    assert examine(image_folder).near == []


def test_bad_and_odd_sized_files_are_named_and_the_others_keep_their_names(image_folder, write_noise):
    (image_folder / "train/FAKE/0.png").write_bytes(b"not an image")
    (image_folder / "test/REAL/1.png").write_bytes(b"")
    write_noise(image_folder / "train/REAL/3.png", 99, size=40)
    shutil.copy(image_folder / "train/FAKE/5.png", image_folder / "train/FAKE/copy.png")
    found = examine(image_folder)
    assert found.bad == ["train/FAKE/0.png", "test/REAL/1.png"]
    assert found.resized == ["train/REAL/3.png"]
    assert [part.images for part in found.parts] == [14, 26, 4, 5]
    assert found.copies == [["train/FAKE/5.png", "train/FAKE/copy.png"]]


def test_a_class_of_bad_files_alone_is_a_finding(image_folder):
    for path in (image_folder / "test/FAKE").iterdir():
        path.write_bytes(b"not an image")
    part = examine(image_folder).parts[PARTS.index("test/FAKE")]
    assert (part.images, part.colour, part.near_grey) == (0, None, None)


def test_colour_is_the_mean_and_near_grey_is_less_than_one_level_off_grey(image_folder):
    shutil.rmtree(image_folder / "test/FAKE")
    (image_folder / "test/FAKE").mkdir()
    for number, colour in enumerate([(100, 100, 100), (50, 51, 52), (50, 51, 53), (240, 0, 3)]):
        Image.new("RGB", (32, 32), colour).save(image_folder / f"test/FAKE/{number}.png")
    part = examine(image_folder).parts[PARTS.index("test/FAKE")]
    assert part.colour == pytest.approx((110, 50.5, 52))
    assert part.near_grey == 0.5


def test_progress_ends_at_the_number_of_files(image_folder):
    calls = []
    read_images(image_folder, lambda *call: calls.append(call))
    assert calls[-1] == (50, 50)


def test_an_audit_agrees_with_what_packing_leaves_out(image_folder, cache):
    shutil.copy(image_folder / "train/FAKE/0.png", image_folder / "train/FAKE/copy.png")
    shutil.copy(image_folder / "test/REAL/0.png", image_folder / "train/REAL/leak.png")
    info = load_info(pack(image_folder, cache))
    counts = list_repeats(examine(image_folder))
    assert (info.duplicates, info.leaked) == (counts["train/FAKE"][0], counts["train/REAL and test/REAL"][0]) == (1, 1)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: shutil.rmtree(folder / "test/REAL"), "has no images in test/REAL"),
    ],
)
def test_a_source_that_is_not_one_is_one_sentence(image_folder, break_it, message):
    break_it(image_folder)
    with pytest.raises(InputError, match=message):
        examine(image_folder)


@pytest.mark.slow
@pytest.mark.skipif(CIFAKE is None, reason="needs the real data: CIFAKE_PATH names no zip or folder")
def test_the_audit_of_cifake_agrees_with_what_is_known_of_it():
    found = examine(Path(CIFAKE))
    parts = {part.name: part for part in found.parts}
    assert (parts["train/FAKE"].images, parts["train/REAL"].images) == (50_000, 50_000)
    assert parts["train/FAKE"].near_grey == pytest.approx(0.127, abs=0.0005)
    assert parts["train/REAL"].near_grey == pytest.approx(0.015, abs=0.001)
    assert (found.bad, found.resized) == ([], [])
    exact = {row.relation: (row.same_file, row.same_pixels) for row in found.repeats}
    assert exact["train/FAKE"] == (920, 0)
    for relation in ("train/REAL", "test/REAL", "train/REAL and test/REAL", "FAKE and REAL"):
        assert exact[relation] == (0, 0), relation
    whole = parts["test/FAKE"].images == 10_000
    assert exact["train/FAKE and test/FAKE"][0] == 378 if whole else exact["train/FAKE and test/FAKE"][0] > 0
    assert exact["test/FAKE"][0] == 38 if whole else exact["test/FAKE"][0] > 0
    near = {row.relation: row.near for row in found.repeats}
    assert near["train/REAL and test/REAL"] > near["train/FAKE and test/FAKE"] > 0
    assert near["FAKE and REAL"] == 0
