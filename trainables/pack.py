"""Packs a folder or a zip of images once per machine: all images decoded to 32x32, one file per split.

`trainables.source` reads the images; `trainables.pack_info` describes the files of a pack.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainables.config import IMAGE_SIZE
from trainables.durable import make_folder, sync, write_file
from trainables.errors import InputError
from trainables.pack_info import CLASSES, PACK_JSON, SPLITS, load_info
from trainables.source import Batch, Member, Source, cut, describe_bad, open_source, require_classes, sign_source

FORMAT = 2
"""Version of the packed files; it is part of the names in the cache, so packs of other versions are not found."""


def pack(
    source: Path,
    cache: Path,
    *,
    on_bad_image: Literal["stop", "skip"] = "stop",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Pack a data set, unless the cache has its pack already.

    Several processes may call this: one packs, the others wait. The next packing deletes leftovers of a killed one.

    Args:
        source: Folder or zip in the layout {train,test}/{REAL,FAKE}/*.
        cache: Folder for all packs of this machine; created if missing.
        on_bad_image: Whether a file that is not an image stops the packing, or is skipped and listed.
        progress: Called with the number of files done and the number of all files.

    Returns:
        The pack's folder in `cache`, for `trainables.splits` to open.

    Raises:
        InputError: If the source, the cache or the pack in it cannot be used.
    """
    try:
        link = cache / f"source{FORMAT}-{sign_source(source)}"
        if not link.is_dir():
            make_folder(cache)
            with lock_cache(cache):
                if not link.is_dir():
                    with open_source(source) as opened:
                        folder = _write_pack(opened, cache, on_bad_image, progress)
                    link.unlink(missing_ok=True)
                    link.symlink_to(folder.name)
        folder = cache / link.readlink()
    except OSError as error:
        raise InputError(f"cannot pack {source} into {cache}: {error}") from error
    info = load_info(folder)
    if info.skipped and on_bad_image == "stop":
        raise InputError(describe_bad(source, info.skipped[0], info.reasons[0]))
    return folder


@contextlib.contextmanager
def lock_cache(cache: Path) -> Iterator[None]:
    """Lock the cache; the kernel releases the lock when the process ends."""
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_pack(source: Source, cache: Path, on_bad_image: str, progress: Callable[[int, int], None] | None) -> Path:
    """Write the pack, unless it exists; it gets its name when all of it is on the disk."""
    temporary = cache / "packing"
    shutil.rmtree(temporary, ignore_errors=True)
    members = sorted(source.list_members(), key=lambda member: member.name)
    present = {"/".join(member.name.split("/")[:2]) for member in members}
    require_classes(source.path, present, "has no images in")
    lines = "".join(f"{member.name}\0{member.crc:08x}\0{member.size}\n" for member in members)
    fingerprint = hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
    target = cache / f"pack{FORMAT}-{fingerprint[:32]}"
    if target.is_dir():
        return target
    temporary.mkdir()
    try:
        info = _write_splits(source, members, temporary, on_bad_image, progress)
        info |= {"fingerprint": fingerprint, "source": str(source.path.resolve())}
        write_file(temporary / PACK_JSON, json.dumps(info).encode())
        temporary.rename(target)
        sync(cache)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed = len(members) * (IMAGE_SIZE * IMAGE_SIZE * 3 + 9) // 1_000_000 + 1
        raise InputError(f"no space left in {cache}: free {needed} MB there or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _write_splits(
    source: Source,
    members: list[Member],
    folder: Path,
    on_bad_image: str,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Write images, labels and hashes of both splits, and return their entries of pack.json."""
    from trainables.decode import decode_chunks  # imports Pillow, which finding a pack does not need

    chunks = {split: cut([member for member in members if member.name.startswith(f"{split}/")]) for split in SPLITS}
    batches = decode_chunks(source, [*itertools.chain(*chunks.values())], on_bad_image, progress)
    with contextlib.closing(batches):
        labels, hashes, bad = zip(
            *(_write_split(itertools.islice(batches, len(chunks[split])), folder, split) for split in SPLITS),
            strict=True,
        )
    counts = [dict(zip(CLASSES, np.bincount(own, minlength=2).tolist(), strict=True)) for own in labels]
    present = {f"{split}/{label}" for split, own in zip(SPLITS, counts, strict=True) for label in own if own[label]}
    require_classes(source.path, present, "has only files that are not images in")
    leaked, duplicates = _find_repeats(hashes[0], labels[0], hashes[1])
    return {
        "counts": dict(zip(SPLITS, counts, strict=True)),
        "skipped": [name for own in bad for name in own],
        "reasons": [reason for own in bad for reason in own.values()],
        "leaked": leaked,
        "duplicates": duplicates,
        "files": {path.name: _seal(path) for path in sorted(folder.iterdir())},
    }


def _write_split(
    batches: Iterable[Batch], folder: Path, split: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint64], dict[str, str]]:
    """Write the files of one split; return its labels (N,), its hashes (N,) and its bad files with their reasons."""
    labels: list[int] = []
    digests: list[bytes] = []
    bad: dict[str, str] = {}
    with (folder / f"{split}.images").open("wb") as file:
        for batch in batches:
            file.write(batch.images.data)
            labels += batch.labels
            digests += batch.hashes
            bad |= batch.bad
    (folder / f"{split}.labels").write_bytes(bytes(labels))
    (folder / f"{split}.hashes").write_bytes(b"".join(digests))
    return np.array(labels, dtype=np.uint8), np.frombuffer(b"".join(digests), dtype=np.uint64), bad


def _find_repeats(
    hashes: NDArray[np.uint64], labels: NDArray[np.uint8], test_hashes: NDArray[np.uint64]
) -> tuple[list[int], list[int]]:
    """Find the training images to leave out.

    Returns:
        Indices of the images that are also in test, and indices of the other repeated images. Of those the first copy
        stays, unless the image is in both classes: its label is unknown, so every copy is left out.
    """
    leaked = np.isin(hashes, test_hashes)
    repeated = np.ones(len(hashes), dtype=bool)
    repeated[np.unique(hashes, return_index=True)[1]] = False
    repeated |= np.isin(hashes, np.intersect1d(hashes[labels == 0], hashes[labels == 1]))
    return np.flatnonzero(leaked).tolist(), np.flatnonzero(repeated & ~leaked).tolist()


def _seal(path: Path) -> dict[str, int | str]:
    """Sync a file to the disk; return its size and checksum."""
    sync(path)
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
