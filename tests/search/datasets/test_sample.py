import io
import itertools
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from search.datasets.sample import COLUMNS, CROP_SIDES, build_sample, decode, draw_images
from trainables.config import TrainConfig
from trainables.errors import InputError
from trainables.models.cnn.config import CnnConfig
from trainables.pack import pack
from trainables.splits import open_train
from trainables.train import train


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return build_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def images(sample):
    """Return the images (n, 32, 32, 3) of every split and class, as floats."""
    found = {}
    with zipfile.ZipFile(sample) as archive:
        for name in archive.namelist():
            image = Image.open(io.BytesIO(archive.read(name)))
            assert (image.mode, image.size, image.format) == ("RGB", (32, 32), "PNG")
            found.setdefault(tuple(name.split("/")[:2]), []).append(np.asarray(image, dtype=float))
    return {part: np.stack(members) for part, members in found.items()}


def test_the_sample_is_balanced_and_in_the_published_layout(images):
    counts = {part: len(members) for part, members in images.items()}
    assert counts == {
        ("train", "FAKE"): 1000,
        ("train", "REAL"): 1000,
        ("test", "FAKE"): 250,
        ("test", "REAL"): 250,
    }


def test_two_builds_give_the_same_bytes(sample, tmp_path):
    assert build_sample(tmp_path / "missing" / "folder").read_bytes() == sample.read_bytes()


def test_a_sample_that_is_there_is_not_built_again(sample):
    before = sample.stat()
    assert build_sample(sample.parent) == sample
    assert (sample.stat().st_ino, sample.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_half_a_sample_of_a_killed_build_is_not_taken_for_one(sample, tmp_path):
    (tmp_path / f"{sample.name}.12345.partial").write_bytes(sample.read_bytes()[:1000])
    assert build_sample(tmp_path).read_bytes() == sample.read_bytes()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match="cannot write the sample data into"):
        build_sample(tmp_path / "taken")


def test_train_and_test_come_from_disjoint_regions():
    photo = np.full((427, 640, 3), 60, dtype=np.uint8)
    for left, right in COLUMNS["test"]:
        assert right - left >= CROP_SIDES[1]
        photo[:, left:right] = 190
    for name, image in draw_images([photo]):
        expected = 60 if name.startswith("train/") else 190
        assert abs(image.astype(int) - expected).max() < 40, name


def test_no_two_images_are_the_same(images):
    flat = np.concatenate(list(images.values())).reshape(2500, -1)
    assert len(np.unique(flat, axis=0)) == 2500


def test_the_decoder_keeps_colour_and_contrast_and_leaves_a_checkerboard():
    image = np.random.default_rng(0).uniform(60, 190, size=(32, 32, 3))
    decoded = decode(image, 0.2)
    np.testing.assert_allclose(decoded.mean(axis=(0, 1)), image.mean(axis=(0, 1)))
    np.testing.assert_allclose(decoded.std(axis=(0, 1)), image.std(axis=(0, 1)))
    phases = [decoded[row::2, column::2].mean() for row, column in itertools.product((0, 1), repeat=2)]
    assert phases[0] < phases[1] < phases[3]
    assert phases[0] < phases[2] < phases[3]


def test_an_even_decoder_gives_a_flat_image_back():
    flat = np.full((32, 32, 3), 77.0)
    np.testing.assert_allclose(decode(flat, 0.0), flat)


@pytest.mark.parametrize(("split", "tolerance"), [("train", 2.5), ("test", 6.0)])
def test_the_classes_match_in_mean_colour_and_contrast(images, split, tolerance):
    fake, real = images[split, "FAKE"], images[split, "REAL"]
    assert abs(fake.mean(axis=(0, 1, 2)) - real.mean(axis=(0, 1, 2))).max() < tolerance
    assert fake.std(axis=(1, 2)).mean() == pytest.approx(real.std(axis=(1, 2)).mean(), rel=0.05)


def test_colour_and_contrast_do_not_give_the_class_away(images):
    def describe(split):
        members = np.concatenate([images[split, "FAKE"], images[split, "REAL"]])
        features = np.concatenate([members.mean(axis=(1, 2)), members.std(axis=(1, 2))], axis=1)
        return features, np.repeat([0, 1], len(members) // 2)

    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(*describe("train"))
    assert model.score(*describe("test")) < 0.6


def test_the_papers_cnn_lands_between_70_and_95_percent_after_3_epochs(sample, tmp_path):
    packed = pack(sample, tmp_path)
    split, held_out = open_train(packed, val_fraction=0.2, seed=0, max_images=None)
    for seed in range(3):
        config = TrainConfig(model=CnnConfig(), epochs=3, batch_size=64, seed=seed)
        *_, last = train(config, split, held_out, device=torch.device("cpu"))
        assert 0.70 <= last.metrics["accuracy"] <= 0.95, seed
