"""Decodes the images of a source in parallel chunks; `trainables.pixels` decodes each image."""

import collections
import functools
import hashlib
import itertools
import os
import zlib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trainables.errors import ImageError, InputError
from trainables.pixels import decode, quiet_pillow
from trainables.source import Batch, Member, Source, describe_bad


def decode_chunks(
    source: Source,
    chunks: list[list[Member]],
    on_bad_image: str,
    progress: Callable[[int, int], None] | None,
    size: int,
) -> Generator[Batch, None, None]:
    """Decode chunks in order, in one thread per core and four more; Pillow releases the GIL while it decodes.

    At most two chunks for each thread are in memory, so a caller that writes slowly stops the decoding.

    Args:
        source: The source of all members.
        chunks: Members to decode together.
        on_bad_image: stop or skip at a file that is not an image.
        progress: Called after each chunk with the number of files done and the number of all files.
        size: Height and width of the decoded images in pixels.

    Raises:
        InputError: If `on_bad_image` is stop and a file is not an image, or a file changed since it was listed.
    """
    done, total = 0, sum(map(len, chunks))
    num_threads = min(32, (os.cpu_count() or 1) + 4)  # as ThreadPoolExecutor() has
    pool = ThreadPoolExecutor(num_threads)
    decode_chunk = functools.partial(_decode_chunk, source, size)
    try:
        with quiet_pillow():
            started = collections.deque(pool.submit(decode_chunk, chunk) for chunk in chunks[: 2 * num_threads])
            for chunk, following in itertools.zip_longest(chunks, chunks[2 * num_threads :]):
                batch = started.popleft().result()
                if following:
                    started.append(pool.submit(decode_chunk, following))
                if batch.bad and on_bad_image == "stop":
                    raise InputError(describe_bad(source.path, *next(iter(batch.bad.items()))))
                done += len(chunk)
                if progress:
                    progress(done, total)
                yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_chunk(source: Source, size: int, members: list[Member]) -> Batch:
    images = np.empty((len(members), size, size, 3), dtype=np.uint8)
    names: list[str] = []
    bad: dict[str, str] = {}
    resized: list[str] = []
    for member in members:
        try:
            data = source.read(member.path)
            if zlib.crc32(data) != member.crc:
                raise InputError(f"{source.path}: {member.path} changed while it was being read: try again")
            decoded = decode(data, size)
        except ImageError as error:
            bad[member.path] = str(error)
        else:
            images[len(names)] = decoded.pixels
            resized += [member.path] if "resized" in decoded.notes else []
            names.append(member.name)
    images = images[: len(names)]
    hashes = [hashlib.blake2b(image.data, digest_size=8).digest() for image in images]
    return Batch(images=images, names=names, hashes=hashes, bad=bad, resized=resized)
