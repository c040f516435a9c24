"""Pictures as strangers make them: every mode, size and damage."""

import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from search.datasets.pictures import BadPicture, Picture, list_pictures, read_picture
from trainables.pixels import quiet_pillow

NOISE = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)


@pytest.fixture
def save(tmp_path):
    """Save an image and read it as a picture: save(image, name, **how Pillow saves)."""

    def call(image, name="picture.png", **options):
        image.save(tmp_path / name, **options)
        with quiet_pillow():
            return read_picture(tmp_path / name)

    return call


@pytest.mark.parametrize("end", ["jpg", "png", "bmp", "webp", "tiff", "gif"])
def test_every_accepted_format_is_read(save, end):
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}.get(end, {})
    picture = save(Image.fromarray(NOISE), f"picture.{end}", **options)
    assert picture.pixels.shape == (32, 32, 3)
    assert np.abs(picture.pixels.astype(int) - NOISE).mean() < 40  # a GIF has but 256 colours
    assert (picture.width, picture.height) == (32, 32)


@pytest.mark.parametrize("end", ["ppm", "tga", "qoi", "jp2", "pcx", "ico", "avif"])
def test_another_format_is_refused_and_the_accepted_ones_are_named(save, end):
    picture = save(Image.fromarray(NOISE), f"picture.{end}")
    assert picture.reason == "is not a sound JPEG, PNG, GIF, WebP, BMP or TIFF image"


def test_a_picture_of_32x32_is_not_touched(save):
    picture = save(Image.fromarray(NOISE))
    assert np.array_equal(picture.pixels, NOISE)
    assert picture.notes == []


def test_a_large_picture_is_resized_whole_as_in_training(save):
    large = np.random.default_rng(1).integers(256, size=(100, 300, 3), dtype=np.uint8)
    picture = save(Image.fromarray(large))
    expected = transforms.Resize((32, 32))(Image.fromarray(large))
    assert np.array_equal(picture.pixels, np.asarray(expected))
    assert (picture.notes, picture.width, picture.height) == (["resized"], 300, 100)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white_for_any_colour_under_them(save, mode):
    image = Image.fromarray(NOISE).convert(mode)
    image.putalpha(0)
    picture = save(image)
    assert (picture.pixels == 255).all()
    assert picture.notes == ["transparent"]


def test_half_transparent_pixels_are_mixed_with_white(save):
    picture = save(Image.new("RGBA", (32, 32), (0, 0, 0, 128)))
    assert (picture.pixels == 127).all()


def test_a_transparent_palette_entry_becomes_white(save):
    image = Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32) % 2, mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    picture = save(image, transparency=0)
    assert np.unique(picture.pixels.reshape(-1, 3), axis=0).tolist() == [[40, 50, 60], [255, 255, 255]]


def test_a_palette_gives_its_colours(save):
    image = Image.fromarray(np.zeros((32, 32), np.uint8), mode="P")
    image.putpalette([10, 20, 30])
    assert (save(image).pixels == [10, 20, 30]).all()


@pytest.mark.parametrize("end", ["png", "tiff"])
def test_of_16_bits_the_upper_8_count(save, end):
    levels = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    picture = save(Image.fromarray(levels), f"picture.{end}")
    assert np.array_equal(picture.pixels, np.repeat((levels >> 8)[..., None], 3, axis=2))


def test_16_bit_colour_is_read(tmp_path):
    rows = b"".join(b"\0" + struct.pack(">3H", 0x1234, 0x5678, 0x9ABC) * 32 for _ in range(32))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert (read_picture(tmp_path / "deep.png").pixels == [0x12, 0x56, 0x9A]).all()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_three_equal_channels(save, mode):
    pixels = save(Image.fromarray(NOISE).convert(mode)).pixels
    assert (pixels == pixels[..., :1]).all()
    assert len(np.unique(pixels)) > 1


def test_cmyk_is_not_inverted(save):
    picture = save(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "picture.jpg", quality=95)
    red, green, blue = picture.pixels[0, 0]
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("name", ["picture.gif", "picture.png", "picture.webp"])
def test_of_an_animation_the_first_frame_counts(save, name):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "lime")]
    picture = save(frames[0], name, save_all=True, append_images=frames[1:])
    assert picture.notes == ["animated"]
    assert (np.abs(picture.pixels.astype(int) - [255, 0, 0]) < 8).all()


def test_a_rotated_photo_is_turned_upright(save):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    picture = save(Image.fromarray(NOISE), exif=exif)
    assert picture.notes == ["rotated"]
    assert np.array_equal(picture.pixels, np.rot90(NOISE, -1))


def test_pixels_without_a_known_range_are_refused(save):
    picture = save(Image.new("F", (32, 32), 0.5), "picture.tiff")
    assert isinstance(picture, BadPicture)
    assert "floating point" in picture.reason


def test_a_decompression_bomb_is_named_and_not_unpacked(tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for name, side in (("warned.png", 10_000), ("refused.png", 60_000)):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        with quiet_pillow():
            assert "decompression bomb" in read_picture(tmp_path / name).reason


@pytest.mark.parametrize("end", ["png", "jpg", "gif", "webp", "tiff"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.7])
def test_a_truncated_file_is_bad(save, tmp_path, end, kept):
    path = tmp_path / f"picture.{end}"
    save(Image.fromarray(np.tile(NOISE, (4, 4, 1))), path.name)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    found = read_picture(path)
    assert isinstance(found, BadPicture)
    assert found.reason
    assert len(found.reason.splitlines()) == 1


def test_a_program_is_not_run(tmp_path):
    path = tmp_path / "picture.eps"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n")
    assert "is not a sound JPEG" in read_picture(path).reason


def test_what_is_no_file_is_bad(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert read_picture(tmp_path / "pipe.png").reason == "is not a file"
    assert read_picture(tmp_path / "nowhere.png").reason == "does not exist"
    (tmp_path / "away.png").symlink_to("/nowhere/gone.png")
    assert read_picture(tmp_path / "away.png").reason == "is not a file"


def test_damaged_exif_is_no_reason_to_refuse_or_to_warn(save):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        picture = save(Image.fromarray(NOISE), "picture.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12")
    assert isinstance(picture, Picture)
    assert heard == []


def test_a_folder_gives_its_pictures_and_those_below_in_order(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "sub/c.webp", ".hidden.png", "d.eps"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_pictures(tmp_path)]
    assert found == ["a.JPG", "b.png", "sub/c.webp"]
    assert list_pictures(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_a_linked_folder_is_followed_and_a_loop_is_not(tmp_path):
    for name in ("elsewhere/deep/c.png", "pictures/a.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "pictures/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/deep/up").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pictures/self").symlink_to(".")
    found = [path.relative_to(tmp_path / "pictures").as_posix() for path in list_pictures(tmp_path / "pictures")]
    assert found == ["a.png", "more/deep/c.png"]
