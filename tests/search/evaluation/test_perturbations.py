import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from search.config.fields import PERTURBATIONS
from search.config.load import parse
from search.evaluation.perturbations import PERTURBED, describe_perturbation, perturb
from trainables.errors import InputError

PROGRAM = """
import hashlib, torch
from search.evaluation.perturbations import PERTURBED, perturb
torch.set_num_threads({threads})
images = torch.randint(256, (9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
for name in PERTURBED:
    print(name, hashlib.sha256(perturb(name, images, torch.arange(9)).numpy().tobytes()).hexdigest())
"""


def make_images(count=9, size=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def change(name, images):
    return perturb(name, images, torch.arange(len(images)))


def test_the_names_are_those_of_the_configuration_in_any_order():
    assert set(PERTURBED) == set(PERTURBATIONS)
    assert len(set(PERTURBATIONS)) == len(PERTURBATIONS) == 20


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_changed_image_is_the_same_in_every_batch(name):
    images = make_images()
    whole = change(name, images)
    assert (whole.shape, whole.dtype) == (images.shape, torch.uint8)
    assert not torch.equal(whole, images)
    parts = [perturb(name, images[indices], indices) for indices in torch.tensor([4, 3, 8, 0, 1, 2, 7, 6, 5]).split(4)]
    assert torch.equal(torch.cat(parts)[torch.tensor([3, 4, 5, 1, 0, 8, 7, 6, 2])], whole)


def test_changed_images_are_the_same_in_every_process_with_any_threads():
    def run(threads):
        return subprocess.check_output([sys.executable, "-c", PROGRAM.format(threads=threads)], text=True)

    first = run(1)
    assert len(set(first.split())) == 2 * len(PERTURBATIONS)
    assert run(2) == first


def test_each_image_has_its_own_noise_of_the_named_levels():
    grey = torch.full((64, 32, 32, 3), 128, dtype=torch.uint8)
    for levels in (2, 5, 10):
        noise = change(f"noise{levels}", grey).double() - 128
        assert noise.std().item() == pytest.approx(levels, rel=0.02)
        assert not torch.equal(noise[0], noise[1])


def test_changes_without_effect_keep_an_image_and_two_mirrorings_restore_it():
    images = make_images()
    grey = images[..., :1].expand_as(images).contiguous()
    plain = torch.full_like(images, 77)
    assert torch.equal(change("flip", change("flip", images)), images)
    assert torch.equal(change("grey", grey), grey)
    assert torch.equal(change("saturation0.8", grey), grey)
    for name in ("blur1.0", "scale0.5", "crop0.875", "contrast1.2", "jpeg90"):
        assert torch.equal(change(name, plain), plain), name


def test_lower_qualities_of_jpeg_change_an_image_more():
    smooth = torch.from_numpy(np.linspace(0, 255, 32 * 32 * 3).reshape(1, 32, 32, 3).astype(np.uint8))
    changes = [(change(f"jpeg{quality}", smooth).int() - smooth.int()).abs().sum() for quality in (90, 75, 50, 30)]
    assert changes == sorted(changes)
    assert changes[0] < changes[-1]


def test_sides_follow_the_size_of_the_images():
    image = make_images(1, size=64)
    inner = Image.fromarray(image[0].numpy()).crop((4, 4, 60, 60)).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(change("crop0.875", image)[0].numpy(), np.asarray(inner))
    assert describe_perturbation("crop0.875", 32) == "inner 28 pixels"
    assert [describe_perturbation(f"scale{share}", 32)[10:12] for share in (0.75, 0.5)] == ["24", "16"]
    assert describe_perturbation("scale0.75", 64) == "scaled to 48 pixels"
    assert describe_perturbation("blur1.0", 32) == "blur, sigma 1"
    assert len({describe_perturbation(name, 32) for name in PERTURBATIONS}) == len(PERTURBATIONS)


@pytest.mark.parametrize("wrong", [["jpg90"], ["jpeg90", "Jpeg75"], "jpeg90", [90], 3, ["all"]])
def test_an_unknown_one_is_one_sentence_that_lists_the_known_ones(wrong):
    with pytest.raises(
        InputError, match=r"evaluation\.perturbations = .*: expected all, or a list of jpeg90, "
    ) as error:
        parse({"name": "x", "evaluation": {"perturbations": wrong}})
    assert all(name in str(error.value) for name in PERTURBATIONS)


def test_all_and_repeated_names_count_once_in_the_order_of_the_report():
    def choose(wanted):
        return parse({"name": "x", "evaluation": {"perturbations": wanted}}).evaluation.list_perturbations()

    assert choose("all") == PERTURBATIONS
    assert choose(["grey", "jpeg90", "grey"]) == ("jpeg90", "grey")
    assert choose([]) == ()
