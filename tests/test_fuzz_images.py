"""Damaged files of every accepted format: none crashes the decoder, and none makes it hang.

The test runs this file as a program, a process per format, so that a crash is seen and not suffered.
"""

import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.errors import ImageError
from trainables.pixels import FORMATS, decode, quiet_pillow

ROOT = Path(__file__).parent.parent
MUTATIONS = 300
"""Damaged files per format."""
BATCH = 50
"""Damaged files, after which a sound one must decode as before."""
MEMORY = 4 * 2**30
"""Bytes of address space; more than any file may need."""
MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "GIF": ("L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
}
OPTIONS = {
    "JPEG": ({}, {"progressive": True}),
    "WEBP": ({}, {"lossless": True}),
    "TIFF": (
        {},
        *({"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4")),
    ),
}


def draw_samples(form, generator):
    """Small sound files of a format, in all its modes, with orientation, some animated."""
    noise = np.random.default_rng(generator.getrandbits(32)).integers(256, size=(40, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in MODES[form]:
        image = Image.fromarray(noise)
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        for options in OPTIONS.get(form, ({},)):
            known = {} if form in ("GIF", "BMP") else {"exif": exif}
            several = {"save_all": True, "append_images": [image]} if form in ("GIF", "PNG", "WEBP") else {}
            for extra in (known, several):
                buffer = io.BytesIO()
                try:
                    image.save(buffer, form, **options, **extra)
                except (OSError, RuntimeError):  # a compression that this mode does not have
                    continue
                yield buffer.getvalue()


def damage(content, generator):
    """Change a file in one of the ways in which files are damaged, or made to do damage."""
    changed = bytearray(content)
    place = generator.randrange(len(changed))
    match generator.choice(["flip", "flip", "flip", "cut", "insert", "overwrite", "remove", "large"]):
        case "flip":
            for _ in range(generator.choice([1, 1, 4, 32])):
                changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
        case "cut":
            del changed[place:]
        case "insert":
            changed[place:place] = generator.randbytes(generator.choice([1, 2, 100]))
        case "overwrite":
            length = generator.choice([1, 4, 64])
            changed[place : place + length] = generator.randbytes(length)
        case "remove":
            del changed[place : place + generator.choice([1, 4, 64])]
        case "large":  # what a size or an offset becomes
            changed[place : place + 4] = generator.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\x40\0"])
    return bytes(changed)


def split_png(content):
    """Return the chunks of a PNG as (kind, body)."""
    chunks, start = [], 8
    while start < len(content):
        (length,) = struct.unpack_from(">I", content, start)
        chunks.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + length]))
        start += 12 + length
    return chunks


def damage_chunks(content, generator):
    """Damage a PNG inside its chunks, and give them sound lengths and checksums."""
    chunks = split_png(content)
    place = generator.randrange(len(chunks))
    match generator.choice(["body", "body", "body", "stream", "swap", "repeat", "drop"]):
        case "body":
            kind, body = chunks[place]
            chunks[place] = kind, damage(body, generator) if body else b"x"
        case "stream":  # sound compression of damaged rows
            places = [number for number, (kind, _) in enumerate(chunks) if kind == b"IDAT"]
            rows = zlib.decompress(b"".join(chunks[number][1] for number in places))
            chunks[places[0]] = b"IDAT", zlib.compress(damage(rows, generator))
        case "swap":
            other = generator.randrange(len(chunks))
            chunks[place], chunks[other] = chunks[other], chunks[place]
        case "repeat":
            chunks.insert(place, chunks[generator.randrange(len(chunks))])
        case "drop":
            del chunks[place]
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return content[:8] + b"".join(parts)


def fuzz(form):
    """Decode damaged files; return how many were images all the same, and how many bad images."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    generator = random.Random(f"images {form}")
    samples = list(draw_samples(form, generator))
    sound = [decode(sample).pixels for sample in samples]
    counts = {"image": 0, "bad": 0}
    for number in range(MUTATIONS):
        sample = generator.choice(samples)
        by_chunks = form == "PNG" and number % 2
        damaged = damage_chunks(sample, generator) if by_chunks else damage(sample, generator)
        try:
            found = decode(damaged)
        except ImageError:
            counts["bad"] += 1
        else:
            assert found.pixels.shape == (32, 32, 3)
            counts["image"] += 1
        if number % BATCH == BATCH - 1:
            for sample, pixels in zip(samples, sound, strict=True):
                assert np.array_equal(decode(sample).pixels, pixels)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_no_damaged_file_crashes_the_decoder_or_makes_it_hang(form):
    command = [sys.executable, __file__, form]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, f"ended by {done.returncode}: {done.stderr}"
    counts = json.loads(done.stdout)
    assert counts["image"] + counts["bad"] == MUTATIONS
    assert min(counts.values()) > 0


if __name__ == "__main__":
    with quiet_pillow():
        sys.stdout.write(json.dumps(fuzz(sys.argv[1])))
