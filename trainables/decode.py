"""Decodes image files to uint8 RGB of 32x32, on all cores."""

import functools
import hashlib
import warnings
import zlib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from trainables.config import IMAGE_SIZE
from trainables.errors import InputError
from trainables.record import CLASSES
from trainables.source import Batch, Member, Source, describe_bad

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def decode_chunks(
    source: Source,
    chunks: list[list[Member]],
    on_bad_image: str,
    progress: Callable[[int, int], None] | None,
) -> Generator[Batch, None, None]:
    """Decode in order, on all cores: torchvision lets go of the interpreter's lock while it decodes.

    Raises:
        InputError: If a file is not an image and `on_bad_image` is stop, or changed since it was listed.
    """
    done, total = 0, sum(map(len, chunks))
    pool = ThreadPoolExecutor()
    try:
        import torchvision.io  # noqa: F401 once, before the threads: two that import it at once meet it half made

        with warnings.catch_warnings():
            # torchvision 0.29 announces the end of torchvision.io, for one more dependency (TorchCodec) instead
            warnings.filterwarnings("ignore", "The image decoding and encoding", DeprecationWarning)
            for chunk, batch in zip(chunks, pool.map(functools.partial(_decode_chunk, source), chunks), strict=True):
                if batch.bad and on_bad_image == "stop":
                    raise InputError(describe_bad(source.path, batch.bad[0]))
                done += len(chunk)
                if progress:
                    progress(done, total)
                yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_chunk(source: Source, members: list[Member]) -> Batch:
    images = np.empty((len(members), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    planes = torch.from_numpy(images).permute(0, 3, 1, 2)
    labels: list[int] = []
    bad: list[str] = []
    resized: list[str] = []
    for member in members:
        data = source.read(member.name)
        if zlib.crc32(data) != member.crc:
            raise InputError(f"{source.path}: {member.name} changed while it was being read: try again")
        try:
            image = _decode(data)
            fits = image.shape[1:] == (IMAGE_SIZE, IMAGE_SIZE)
            planes[len(labels)] = fit(image)
        except (RuntimeError, ValueError):
            bad.append(member.name)
        else:
            resized += [] if fits else [member.name]
            labels.append(CLASSES.index(member.name.split("/")[1]))
    images = images[: len(labels)]
    hashes = [hashlib.blake2b(image.data, digest_size=8).digest() for image in images]
    return Batch(images=images, labels=labels, hashes=hashes, bad=bad, resized=resized)


def fit(image: Tensor) -> Tensor:
    """Resize an image (3, H, W) uint8 to 32x32, bilinear and antialiased, unless it has that size."""
    from torchvision.transforms.functional import resize

    fits = image.shape[1:] == (IMAGE_SIZE, IMAGE_SIZE)
    resized: Tensor = image if fits else resize(image, [IMAGE_SIZE, IMAGE_SIZE])
    return resized


def _decode(data: bytes) -> Tensor:
    """Decode one file to uint8 (3, H, W).

    Raises:
        RuntimeError: If torchvision cannot read it.
        ValueError: If it is empty or a damaged PNG.
    """
    from torchvision.io import ImageReadMode, decode_image  # two seconds, for which no packed data set waits

    if data.startswith(PNG_SIGNATURE):
        _check_png(data)
    image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    if image.ndim == 4:
        image = image[0]
    if image.dtype == torch.uint16:
        image = (image.int() >> 8).byte()
    return image


def _check_png(data: bytes) -> None:
    """Compare the checksums inside a PNG: a damaged one crashes the process in torchvision 0.29, here it raises.

    Raises:
        ValueError: If a chunk is damaged or the last one is missing.
    """
    start, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        end = start + 8 + int.from_bytes(data[start : start + 4])
        kind = data[start + 4 : start + 8]
        if len(data) < end + 4 or zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise ValueError("damaged PNG")
        start = end + 4
