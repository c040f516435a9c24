import pytest
import torch
from torch.nn import functional
from torchvision.transforms.functional import to_tensor

from trainables.augment import GREY, crop, cutout, flip, to_float


def draw_images(num: int) -> torch.Tensor:
    return torch.randint(0, 256, (num, 32, 32, 3), dtype=torch.uint8, generator=seed(9))


def seed(value: int) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def test_flipping_twice_with_the_same_draw_is_the_identity() -> None:
    images = draw_images(64)
    assert torch.equal(flip(flip(images, generator=seed(0)), generator=seed(0)), images)


def test_each_image_is_mirrored_or_left_alone_and_both_happen() -> None:
    images = draw_images(64)
    flipped = flip(images, generator=seed(0))
    kept = [torch.equal(*pair) for pair in zip(flipped, images, strict=True)]
    mirrored = [torch.equal(after, before.flip(1)) for after, before in zip(flipped, images, strict=True)]
    assert all(one != other for one, other in zip(kept, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48


def test_cropping_without_padding_is_the_identity() -> None:
    images = draw_images(8)
    assert torch.equal(crop(images, 0, generator=seed(0)), images)


@pytest.mark.parametrize("padding", [1, 4, 16])
def test_every_crop_is_a_window_of_the_reflected_image(padding: int) -> None:
    images = draw_images(8)
    cropped = crop(images, padding, generator=seed(0))
    assert cropped.shape == images.shape
    assert cropped.dtype == images.dtype
    for before, after in zip(images, cropped, strict=True):
        padded = functional.pad(before.permute(2, 0, 1)[None].float(), [padding] * 4, mode="reflect")
        windows = padded[0].unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 3, 4, 0)
        assert (windows == after.float()).flatten(2).all(dim=2).sum() == 1


def test_crops_reach_every_shift_on_both_axes() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).expand(2000, 32, 32)
    images = torch.stack([ramp, ramp.transpose(1, 2), ramp], dim=3)
    cropped = crop(images, 2, generator=seed(0)).int()
    assert set((cropped[:, 16, 16, 0] - 16).tolist()) == {-2, -1, 0, 1, 2}
    assert set((cropped[:, 16, 16, 1] - 16).tolist()) == {-2, -1, 0, 1, 2}


def test_cutting_out_nothing_is_the_identity() -> None:
    images = draw_images(8)
    assert torch.equal(cutout(images, 0, generator=seed(0)), images)


@pytest.mark.parametrize("size", [1, 8, 13, 32])
def test_every_cut_is_a_square_of_grey_that_may_hang_over_the_border(size: int) -> None:
    images = draw_images(2000).clamp(max=GREY - 1)
    cut = cutout(images, size, generator=seed(0))
    covered = (cut == GREY).all(dim=3)
    assert (cut.dtype, cut.shape) == (images.dtype, images.shape)
    assert torch.equal(torch.where(covered[..., None], images, cut), images)
    rows, columns = covered.any(dim=2), covered.any(dim=1)
    assert torch.equal(covered, rows[:, :, None] & columns[:, None, :])
    for axis in (rows, columns):
        counts = axis.sum(dim=1)
        last = 31 - axis.flip(1).int().argmax(dim=1)
        assert torch.equal(last - axis.int().argmax(dim=1) + 1, counts)
        assert set(counts.tolist()) == set(range((size + 1) // 2, size + 1))


def test_the_centre_of_a_cut_reaches_every_pixel_as_often() -> None:
    covered = cutout(torch.zeros(20_000, 32, 32, 1, dtype=torch.uint8), 1, generator=seed(0)).sum(dim=(0, 3)) / GREY
    assert covered.sum() == 20_000
    assert 0 < covered.min() < 20 < covered.max() < 45


def test_the_same_seed_draws_the_same_augmentation_and_another_does_not() -> None:
    images = draw_images(32)
    for augment in (
        lambda generator: flip(images, generator=generator),
        lambda generator: crop(images, 4, generator=generator),
        lambda generator: cutout(images, 8, generator=generator),
    ):
        assert torch.equal(augment(seed(1)), augment(seed(1)))
        assert not torch.equal(augment(seed(1)), augment(seed(2)))


def test_floats_equal_those_of_torchvisions_to_tensor() -> None:
    images = draw_images(4)
    floats = to_float(images)
    assert torch.equal(floats, torch.stack([to_tensor(image.numpy()) for image in images]))
    assert floats.is_contiguous(memory_format=torch.channels_last)
