"""Training, audit and prediction see the same pixels of the same file, and the right ones.

KINDS holds files of every accepted format, mode and tag, with the pixels that they stand for.
"""

import csv
import io
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

from search.datasets.audit.images import read_images
from search.datasets.pictures import NOTES, read_picture
from search.evaluation.model_file import describe_preprocessing
from trainables.config import TrainConfig
from trainables.errors import ImageError, InputError
from trainables.metrics import to_probabilities
from trainables.models.cnn.config import CnnConfig
from trainables.pack import pack
from trainables.pack_info import load_info
from trainables.pixels import MAX_PIXELS, RULE, _Room, decode, quiet_pillow

ROOT = Path(__file__).parent.parent
RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(256, size=(32, 32, 3), dtype=np.uint8)
GREY = RANDOM.integers(256, size=(32, 32), dtype=np.uint8)
CLEAR = RANDOM.integers(2, size=(32, 32), dtype=np.uint8) * 255
"""An alpha channel that shows or hides a pixel."""
HALF = RANDOM.integers(256, size=(32, 32), dtype=np.uint8)
"""An alpha channel of every level."""
DEEP = RANDOM.integers(65536, size=(32, 32, 4), dtype=np.uint16)
UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image, 1),
}
"""What turns an image upright, by its orientation. Source: EXIF 2.32, table of tag 274."""


def save(image, form, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, form, **options)
    return buffer.getvalue()


def load(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def grey(levels):
    return np.repeat(levels[..., None], 3, axis=2)


def on_white(colours, alpha):
    """Colours of 8 bits on white."""
    share = alpha[..., None].astype(float) / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


def orient(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_png(samples, depth, colour, *before, after=()):
    """Write a PNG by hand: samples (H, W) or (H, W, C) of a depth in bits and a PNG colour type, chunks around."""
    height, width = samples.shape[:2]
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        bits = samples[..., None] >> np.arange(depth - 1, -1, -1) & 1
        rows = [np.packbits(row).tobytes() for row in bits.reshape(height, -1)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + b"".join([header, *before, data, *after, chunk(b"IEND", b"")])


def write_tiff(data, bits, photometric=1, sample_format=1, extra=None):
    """Write a little-endian TIFF of 32x32 by hand, of one sample per pixel, or of two if `extra` says what one is."""
    samples = 1 if extra is None else 2
    tags = {256: [32], 257: [32], 258: [bits] * samples, 259: [1], 262: [photometric], 273: [0], 277: [samples]}
    tags |= {278: [32], 279: [len(data)], **({} if extra is None else {338: [extra]}), 339: [sample_format] * samples}
    tags[273] = [8 + 2 + 12 * len(tags) + 4]
    entries = b"".join(
        struct.pack("<HHI", tag, 3, len(values)) + struct.pack(f"<{len(values)}H", *values).ljust(4, b"\0")
        for tag, values in tags.items()
    )
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data


def list_plain():
    """Files without transparency, orientation or depth."""
    yield "grey.png", save(GREY, "PNG"), grey(GREY)
    yield "rgb.png", save(RGB, "PNG"), RGB
    for end, form, options in [("bmp", "BMP", {}), ("tiff", "TIFF", {}), ("webp", "WEBP", {"lossless": True})]:
        yield f"rgb.{end}", save(RGB, form, **options), RGB
    for end, form in [("bmp", "BMP"), ("tiff", "TIFF")]:
        yield f"grey.{end}", save(GREY, form), grey(GREY)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield f"{compression}.tiff", save(RGB, "TIFF", compression=compression), RGB
    for mode, end in itertools.product(("1", "P"), ("png", "bmp", "tiff", "gif")):
        content = save(Image.fromarray(RGB).convert(mode), end)
        yield f"{mode}.{end}", content, load(content)
    for mode in ("L", "RGB", "CMYK"):
        content = save(Image.fromarray(RGB).convert(mode), "JPEG")
        yield f"{mode}.jpg", content, load(content)
    content = save(RGB, "JPEG", progressive=True)
    yield "progressive.jpg", content, load(content)
    content = save(Image.fromarray(RGB).convert("CMYK"), "TIFF")
    yield "cmyk.tiff", content, load(content)
    content = save(RGB, "WEBP", quality=50)
    yield "lossy.webp", content, load(content)


def list_transparent():
    """Files with each form of transparency."""
    for name, alpha in (("clear", CLEAR), ("half", HALF)):
        coloured = np.dstack([RGB, alpha])
        for end, options in (("png", {}), ("tiff", {}), ("webp", {"lossless": True, "exact": True})):
            yield f"rgba-{name}.{end}", save(coloured, end, **options), on_white(RGB, alpha)
        levels = Image.fromarray(np.dstack([GREY, alpha]), "LA")
        for end in ("png", "tiff"):
            yield f"la-{name}.{end}", save(levels, end), on_white(grey(GREY), alpha)
    known = np.unique(RGB.reshape(-1, 3), axis=0)[0]
    hit = (known == RGB).all(axis=2)
    yield "rgb-key.png", save(RGB, "PNG", transparency=tuple(map(int, known))), np.where(hit[..., None], 255, RGB)
    colours = np.arange(768, dtype=np.uint8).reshape(256, 3)
    shown = colours[GREY]
    palette = Image.fromarray(GREY, "P")
    palette.putpalette(colours.tobytes())
    for end in ("png", "gif"):
        expected = np.where(GREY[..., None] == 7, 255, shown)
        yield f"palette-key.{end}", save(palette, end, transparency=7), expected
    alphas = np.arange(256, dtype=np.uint8)[::-1]
    yield "palette-alpha.png", save(palette, "PNG", transparency=alphas.tobytes()), on_white(shown, alphas[GREY])
    for depth in (1, 2, 4, 8):
        levels = GREY >> (8 - depth)
        expected = grey((levels.astype(int) * 255 // (2**depth - 1)).astype(np.uint8))
        content = write_png(levels, depth, 0, chunk(b"tRNS", struct.pack(">H", 1)))
        yield f"grey{depth}-key.png", content, np.where(levels[..., None] == 1, 255, expected)
    premultiplied = (GREY.astype(int) * HALF // 255).astype(np.uint8)
    content = write_tiff(np.dstack([premultiplied, HALF]).tobytes(), 8, extra=1)
    yield "premultiplied.tiff", content, grey(premultiplied + (255 - HALF))


def list_deep():
    """Files of more than 8 bits per sample."""
    upper = (DEEP >> 8).astype(np.uint8)
    yield "grey16.png", write_png(DEEP[..., 0], 16, 0), grey(upper[..., 0])
    yield "rgb16.png", write_png(DEEP[..., :3], 16, 2), upper[..., :3]
    yield "la16.png", write_png(DEEP[..., :2], 16, 4), on_white(grey(upper[..., 0]), upper[..., 1])
    yield "rgba16.png", write_png(DEEP, 16, 6), on_white(upper[..., :3], upper[..., 3])
    close = DEEP.copy()
    close[::2, :, :3] = 0x1234, 0x5678, 0x9ABC
    close[::4, :, :3] += 1  # the same in their upper 8 bits: another colour
    hit = np.arange(32) % 4 == 2
    for name, samples, colour in (("grey", close[..., 0], 0), ("rgb", close[..., :3], 2)):
        key = [0x1234, 0x5678, 0x9ABC][: 1 if colour == 0 else 3]
        content = write_png(samples, 16, colour, chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
        reduced = (samples >> 8).astype(np.uint8)
        expected = grey(reduced) if colour == 0 else reduced
        yield f"{name}16-key.png", content, np.where(hit[:, None, None], 255, expected)
    yield "grey16.tiff", save(DEEP[..., 0], "TIFF"), grey(upper[..., 0])
    yield "grey16-lzw.tiff", save(DEEP[..., 0], "TIFF", compression="tiff_lzw"), grey(upper[..., 0])
    yield "white-is-zero16.tiff", write_tiff(DEEP[..., 0].tobytes(), 16, photometric=0), grey(255 - upper[..., 0])
    twelve = (DEEP[..., 0] >> 4).reshape(-1, 2).astype(int)
    packed = twelve[:, 0] << 12 | twelve[:, 1]
    yield "grey12.tiff", write_tiff(b"".join(int(pair).to_bytes(3) for pair in packed), 12), grey(upper[..., 0])


def list_turned():
    """Files with each orientation, and of other sizes than 32x32."""
    wide = RANDOM.integers(256, size=(40, 100, 3), dtype=np.uint8)
    for number, image in itertools.product(UPRIGHT, (RGB, wide)):
        for end, form, options in (
            ("jpg", "JPEG", {}),
            ("png", "PNG", {}),
            ("webp", "WEBP", {"lossless": True}),
            ("tiff", "TIFF", {}),
            ("lzw.tiff", "TIFF", {"compression": "tiff_lzw"}),
        ):
            content = save(image, form, exif=orient(number), **options)
            plain = load(save(image, form, **options))
            upright = Image.fromarray(UPRIGHT[number](plain)).resize((32, 32), Image.Resampling.BILINEAR)
            yield f"turned{number}-{image.shape[1]}.{end}", content, np.asarray(upright)
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    yield "late-exif.png", write_png(RGB, 8, 2, after=[chunk(b"eXIf", exif)]), UPRIGHT[6](RGB)


def list_animated():
    """Files of several frames."""
    frames = [Image.fromarray(np.roll(RGB, number)) for number in range(3)]
    content = save(frames[0], "GIF")
    yield "moving.gif", save(frames[0], "GIF", save_all=True, append_images=frames[1:]), load(content)
    yield "moving.png", save(frames[0], "PNG", save_all=True, append_images=frames[1:]), RGB
    yield "moving.webp", save(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), RGB
    yield "pages.tiff", save(frames[0], "TIFF", save_all=True, append_images=frames[1:]), RGB


KINDS = {
    name: (content, expected)
    for made in (list_plain(), list_transparent(), list_deep(), list_turned(), list_animated())
    for name, content, expected in made
}


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory):
    """A data set of all KINDS in train/REAL, and a few images elsewhere."""
    folder = tmp_path_factory.mktemp("kinds") / "images"
    for number, part in enumerate(("train/REAL", "train/FAKE", "test/REAL", "test/FAKE")):
        (folder / part).mkdir(parents=True)
        (folder / part / "0.png").write_bytes(save(np.full((32, 32, 3), number, np.uint8), "PNG"))
    for name, (content, _) in KINDS.items():
        (folder / "train/REAL" / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_pixels_that_it_stands_for(name):
    content, expected = KINDS[name]
    with quiet_pillow():
        found = decode(content).pixels
    # Pillow rounds a mixture with white by its own rule
    tolerance = 1 if {"half", "alpha", "la16", "rgba16", "premultiplied"} & {*name.replace(".", "-").split("-")} else 0
    assert np.abs(found.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("zipped", [False, True])
def test_training_audit_and_prediction_see_the_same_pixels_to_the_bit(all_kinds, tmp_path, zipped):
    source = Path(shutil.make_archive(str(tmp_path / "kinds"), "zip", all_kinds)) if zipped else all_kinds
    packed = pack(source, tmp_path / "cache")
    names = sorted(path.name for path in (all_kinds / "train/REAL").iterdir())
    counts = load_info(packed).counts["train"]
    trained = np.fromfile(packed / "train.images", dtype=np.uint8).reshape(-1, 32, 32, 3)[counts["FAKE"] :]
    audited = read_images(source)
    rows = {name: row for row, name in enumerate(audited.names)}
    assert len(trained) == len(names) == len(KINDS) + 1
    for name, pixels in zip(names, trained, strict=True):
        predicted = read_picture(all_kinds / "train/REAL" / name).pixels
        assert np.array_equal(pixels, predicted), name
        assert np.array_equal(pixels, audited.pixels[rows[f"train/REAL/{name}"]]), name


def test_a_models_record_says_what_is_done_to_an_image():
    config = TrainConfig(model=CnnConfig(), epochs=1, size=48)
    known = describe_preprocessing(("cat", "dog"), config)
    assert known.items() >= RULE.items()
    assert (known["size"], known["classes"], known["positive"]) == ([48, 48], ["cat", "dog"], "dog")
    assert json.loads(json.dumps(known)) == known


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (save(Image.fromarray(DEEP[..., 0].astype(np.int32)), "TIFF"), "integer"),
        (write_tiff(DEEP[..., 0].tobytes(), 16, sample_format=2), "integer"),
        (save(Image.new("F", (32, 32), 0.5), "TIFF"), "floating point"),
    ],
)
def test_samples_without_a_known_range_are_refused(content, kind):
    with pytest.raises(ImageError, match=f"has {kind} pixels, whose range is not known"):
        decode(content)


def test_the_notes_of_an_image_are_those_that_prediction_explains():
    found = {note for content, _ in KINDS.values() for note in decode(content).notes}
    assert found == set(NOTES)


def measure_peak(script, *arguments):
    """Run a script in a process of its own; return what it printed, and the most memory that it took, in bytes."""
    report = "\nprint(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    command = [sys.executable, "-c", script + report, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    *lines, peak = done.stdout.splitlines()
    return lines, 1024 * int(peak)


def write_source(folder, content):
    """A data set with one image in each class, and a further file, train/REAL/bomb.png."""
    for number, part in enumerate(("train/REAL", "train/FAKE", "test/REAL", "test/FAKE")):
        (folder / part).mkdir(parents=True)
        (folder / part / "0.png").write_bytes(save(np.full((32, 32, 3), number, np.uint8), "PNG"))
    (folder / "train/REAL/bomb.png").write_bytes(content)
    return folder


PACK = """
import sys; from pathlib import Path; from trainables.pack import pack; from trainables.pack_info import load_info
try:
    info = load_info(pack(Path(sys.argv[1]), Path(sys.argv[2]), on_bad_image="skip"))
    print(info.skipped, info.reasons)
except ValueError as error:
    print(error)
"""


def test_an_image_of_too_many_pixels_is_refused_before_it_takes_memory(tmp_path):
    side = 16_000
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    body = zlib.compress(bytes(side * (1 + side // 8)))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    assert len(content) < 1_000_000
    source = write_source(tmp_path / "images", content)
    lines, peak = measure_peak(PACK, source, tmp_path / "cache")
    assert lines == [
        "['train/REAL/bomb.png'] ['has more than 89,478,485 pixels, as a decompression bomb has']",
    ]
    assert peak < 200_000_000
    with pytest.raises(InputError, match=r"train/REAL/bomb\.png has more than 89,478,485 pixels.*: remove it"):
        pack(source, tmp_path / "cache")


def write_tiled(side, kinds=((4, 32_000),), *, is_big=False):
    """Write a TIFF of 32x32, deflated in one tile, with an entry of each kind and value for each side of the tile."""
    tags = [(256, 3, 32), (257, 3, 32), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(tag, *known) for tag in (322, 323) for known in kinds]
    body = zlib.compress(bytes(side * side))
    start = (16 + 8 + 20 * (len(tags) + 2) + 8) if is_big else (8 + 2 + 12 * (len(tags) + 2) + 4)
    tags += [(324, 4, start), (325, 4, len(body))]
    if is_big:
        head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(tags))
        return head + b"".join(struct.pack("<HHQQ", tag, kind, 1, value) for tag, kind, value in tags) + bytes(8) + body
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    return head + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags) + bytes(4) + body


DECODE = """
import sys
from trainables.pixels import decode
try:
    print(decode(open(sys.argv[1], "rb").read()).pixels.shape)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("kinds", "is_big"),
    [
        (((4, 32_000),), False),
        (((3, 32_000),), True),
        (((3, 32), (3, 32_000)), False),
        (((17, 32_000), (3, 32)), True),  # a type that libtiff knows and Pillow does not
    ],
)
def test_a_small_tiff_of_one_large_tile_is_refused_before_it_takes_memory(tmp_path, kinds, is_big):
    path = tmp_path / "bomb.tiff"
    path.write_bytes(write_tiled(32_000, kinds, is_big=is_big))
    assert path.stat().st_size < 1_100_000
    lines, peak = measure_peak(DECODE, path)
    assert lines[0].startswith("is not a sound" if kinds[0][0] == 17 else "has more than 89,478,485 pixels")
    assert peak < 200_000_000


@pytest.mark.parametrize("is_big", [False, True])
def test_a_tiff_whose_tile_is_larger_than_the_image_is_decoded(is_big):
    assert decode(write_tiled(64, ((4, 64),), is_big=is_big)).pixels.shape == (32, 32, 3)


def test_a_file_of_too_many_bytes_is_not_read(tmp_path):
    source = write_source(tmp_path / "images", b"")
    with (source / "train/REAL/bomb.png").open("wb") as file:
        file.truncate(3_000_000_000)
    lines, peak = measure_peak(PACK, source, tmp_path / "cache")
    assert lines == ["['train/REAL/bomb.png'] ['has more than 100,000,000 bytes']"]
    assert peak < 200_000_000
    assert read_picture(source / "train/REAL/bomb.png").reason == "has more than 100,000,000 bytes"


@pytest.mark.parametrize("lies", [False, True])
def test_a_member_of_a_zip_is_not_inflated_beyond_the_limit_or_its_header(tmp_path, lies):
    source = write_source(tmp_path / "images", b"")
    (source / "train/REAL/bomb.png").unlink()
    path = Path(shutil.make_archive(str(tmp_path / "bomb"), "zip", source))
    size = 300_000_000
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file, file.open("train/REAL/bomb.png", "w") as member:
        for _ in range(size // 1_000_000):
            member.write(bytes(1_000_000))
    if lies:
        content = path.read_bytes()
        assert content.count(struct.pack("<I", size)) == 2
        path.write_bytes(content.replace(struct.pack("<I", size), struct.pack("<I", 1000)))
    lines, peak = measure_peak(PACK, path, tmp_path / "cache")
    if lies:
        assert "is corrupt at train/REAL/bomb.png" in lines[0]
    else:
        assert lines == ["['train/REAL/bomb.png'] ['has more than 100,000,000 bytes']"]
    assert peak < 200_000_000


def test_large_images_share_one_limit_however_many_threads_decode():
    room, here, most = _Room(MAX_PIXELS), [], []

    def hold():
        with room.take(MAX_PIXELS // 2):
            here.append(None)
            most.append(len(here))
            here.pop()

    threads = [threading.Thread(target=hold) for _ in range(8)]
    with room.take(MAX_PIXELS // 2 + 2):
        for thread in threads:
            thread.start()
        assert most == []
    for thread in threads:
        thread.join()
    assert len(most) == 8
    assert max(most) <= 2


def encode(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_a_jpeg_of_any_number_of_segments_or_scans_is_refused_before_it_takes_memory_or_time():
    content = encode(Image.new("L", (64, 64)), progressive=True)
    assert content.count(b"\xff\xda") > 5
    decode(content)
    head, end = content[:2], content.rindex(b"\xff\xd9")
    scan = content[content.rindex(b"\xff\xda") : end]
    for bad in (head + b"\xff\xe5\x00\x02" * 10_000 + content[2:], content[:end] + scan * 100 + content[end:]):
        with pytest.raises(ImageError, match="is not a sound JPEG"):
            decode(bad)


def test_markers_in_the_metadata_or_behind_the_image_are_no_scans():
    content = encode(Image.new("RGB", (64, 64)), comment=b"\xff\xda" * 1000)
    assert np.array_equal(
        decode(content + b"\xff\xda" * 1000).pixels, decode(encode(Image.new("RGB", (64, 64)))).pixels
    )


def test_a_png_of_any_number_of_chunks_is_refused_before_it_takes_memory():
    buffer = io.BytesIO()
    Image.new("L", (32, 32)).save(buffer, "PNG")
    content = buffer.getvalue()
    chunk = bytes(4) + b"teSt" + zlib.crc32(b"teSt").to_bytes(4)
    decode(content[:33] + chunk * 1000 + content[33:])
    with pytest.raises(ImageError, match="is not a sound JPEG"):
        decode(content[:33] + chunk * 100_000 + content[33:])


def test_a_png_with_sound_chunks_and_a_corrupt_stream_is_a_bad_image():
    sound = save(RGB, "PNG")
    start = sound.index(b"IDAT")
    length = int.from_bytes(sound[start - 4 : start])
    stream = bytearray(sound[start + 4 : start + 4 + length])
    stream[len(stream) // 2 :] = bytes(len(stream) - len(stream) // 2)
    damaged = sound[: start - 4] + chunk(b"IDAT", bytes(stream)) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="is not a sound JPEG, PNG, GIF, WebP, BMP or TIFF image"):
        decode(damaged)


STUDY = """
name: tiny
data: {path: images, max_train_images: null, val_fraction: 0.25, cache: cache, on_bad_image: skip}
search: {architectures: [cnn], num_trials: 1, max_epochs: 2}
space: {cnn: {filters: 4}, shared: {batch_size: 8}}
evaluation: {seeds: 1}
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_the_sealed_accuracy_is_what_predict_says_of_the_same_files(tmp_path, write_noise):
    for number, part in enumerate(("train/REAL", "train/FAKE")):
        for image in range(16):
            write_noise(tmp_path / "images" / part / f"{image}.png", 100 * number + image)
    chosen = [name for name in KINDS if name.split(".")[0] not in {"turned1-32", "turned1-100"}]
    for place, name in enumerate(chosen):
        path = tmp_path / "images/test" / ("REAL", "FAKE")[place % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(KINDS[name][0])
    (tmp_path / "images/train/REAL" / os.fsdecode(b"no text \xff.png")).write_bytes(b"no image")
    (tmp_path / "study.yaml").write_text(STUDY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "true", "WANDB_MODE": "offline"}

    def call(module, *arguments):
        command = [sys.executable, "-m", module, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call("search.run", "study.yaml", "--set", "tracking.mode=off")
    model = tmp_path / "results/tiny/models/cnn-seed0.safetensors"
    record = json.loads(model.with_suffix(".json").read_text())
    rows = list(csv.DictReader(io.StringIO(call("search", "predict", model, "images/test", "--csv"))))
    assert len(rows) == len(chosen)
    right = sum(row["label"] == row["file"].split("/")[2] for row in rows)
    assert right / len(rows) == record["tested"]["metrics"]["accuracy"]
    logits = safetensors.numpy.load_file(model.with_suffix(".predictions.safetensors"))["logits"]
    tested = to_probabilities(torch.from_numpy(logits)).numpy()
    assert [float(row["probability"]) for row in rows] == pytest.approx(tested.tolist(), abs=1e-6)
    assert len(np.unique(tested)) > len(rows) / 4
