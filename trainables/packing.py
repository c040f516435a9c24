"""Packs images once per machine: all of a folder or a zip decoded to one size, one file per split.

`trainables.layout` finds splits and classes, `trainables.source` reads the images, and `trainables.pack_info` describes
the files of a pack.
"""

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainables.decode import decode_chunks
from trainables.durable import sync, write_file
from trainables.errors import InputError
from trainables.files import hash_file
from trainables.layout import SOURCE, WHOLE, Layout, Settings, require_classes
from trainables.pack_info import FORMAT, PACK_JSON, read_pack_json
from trainables.source import Batch, Member, Source, make_chunks

FILES = {"train": "train", "val": "train", "test": "test"}
"""Split of a data set -> files of the pack that hold it. Those of a source are named as its split."""


def write_pack(
    source: Source,
    cache: Path,
    settings: Settings,
    on_bad_image: str,
    progress: Callable[[int, int], None] | None,
) -> Path:
    """Write the pack, and return it, or an earlier one with the same content; it gets its name when it is on the disk.

    A forged file can have the name, size and CRC of another. So the pack is written even if there is one, and compared.
    """
    temporary = cache / "packing"
    shutil.rmtree(temporary, ignore_errors=True)
    layout = settings.read_layout(source)
    members = _divide(source, layout, settings.test_fraction)
    lines = "".join(f"{member.name}\0{member.crc:08x}\0{member.size}\n" for member in members)
    fingerprint = hashlib.sha256((lines + settings.describe()).encode(errors="surrogateescape")).hexdigest()
    target = cache / f"pack{FORMAT}-{fingerprint[:32]}"
    temporary.mkdir()
    try:
        splits = layout.splits if SOURCE in layout.splits else FILES
        chunks = {
            split: make_chunks([each for each in members if each.name.startswith(f"{split}/")]) for split in splits
        }
        batches = decode_chunks(source, [*itertools.chain(*chunks.values())], on_bad_image, progress, settings.size)
        with contextlib.closing(batches):
            info = _write_splits(layout, temporary, batches, {name: len(own) for name, own in chunks.items()})
        present = {f"{split}/{label}" for split, own in info["counts"].items() for label in own if own[label]}
        require_classes(source, dict.fromkeys("/".join(each.name.split("/")[:2]) for each in members), present)
        info |= {"fingerprint": fingerprint, "source": str(source.path.resolve()), "size": settings.size}
        _place(temporary, target, info)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed = len(members) * (3 * settings.size**2 + 9) // 1_000_000 + 1
        raise InputError(f"no space left in {cache}: free {needed} MB there, or set another data.cache") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _place(temporary: Path, target: Path, info: Mapping[str, Any]) -> None:
    """Give a pack its name, unless an equal one has it."""
    if not target.is_dir():
        write_file(temporary / PACK_JSON, json.dumps(info).encode())
        temporary.rename(target)
        sync(target.parent)
    elif read_pack_json(target)["files"] != info["files"]:
        raise InputError(
            f"{info['source']} has the names, sizes and checksums of the images in {target}, but other images: one of "
            "the two is forged, or the pack is damaged; delete the folder, or set another data.cache"
        )


def _divide(source: Source, layout: Layout, test_fraction: float | None) -> list[Member]:
    """Return the files of a source by name; a test split is taken from a source without splits.

    A hash of the file decides, so copies fall together, and an image stays in its split when others are added.
    """
    is_whole = layout.splits == (WHOLE,)
    if is_whole and test_fraction is None:
        raise InputError(f"{source.path} has no train and test folders: set data.test_fraction, such as 0.2")
    if test_fraction is not None and not is_whole:
        raise InputError(
            f"data.test_fraction = {test_fraction}: {source.path} has a test split of its own: leave it null"
        )
    members = source.measure(layout.files)
    if test_fraction is not None:
        members = [_carve(member, test_fraction) for member in members]
        present = {"/".join(member.name.split("/")[:2]) for member in members}
        parts = [f"{split}/{label}" for split in ("train", "test") for label in layout.classes]
        require_classes(source, parts, present, f"with data.test_fraction = {test_fraction} has no images in")
    return sorted(members, key=lambda member: member.name)


def _carve(member: Member, test_fraction: float) -> Member:
    """Return a file of WHOLE as one of train or test."""
    digest = hashlib.blake2b(f"{member.crc} {member.size}".encode(), digest_size=8).digest()
    split = "test" if int.from_bytes(digest) < test_fraction * 2**64 else "train"
    return dataclasses.replace(member, name=member.name.replace(WHOLE, split, 1))


def _write_splits(layout: Layout, folder: Path, batches: Iterator[Batch], lengths: Mapping[str, int]) -> dict[str, Any]:
    """Write images, labels and hashes of the splits, and return their entries of pack.json.

    The batches follow each other split after split; `lengths` has their number in each.
    """
    files = {split: FILES.get(split, split) for split in lengths}
    hashes: dict[str, list[bytes]] = {name: [] for name in files.values()}
    labels: dict[str, list[int]] = {name: [] for name in files.values()}
    found: dict[str, list[str]] = {"skipped": [], "reasons": [], "resized": []}
    counts: dict[str, dict[str, int]] = {}
    for split, name in files.items():
        counts[split] = dict.fromkeys(layout.classes, 0)
        with (folder / f"{name}.images").open("ab") as file:
            for batch in itertools.islice(batches, lengths[split]):
                file.write(batch.images.data)
                hashes[name] += batch.hashes
                for member in batch.names:
                    label = member.split("/")[1]
                    counts[split][label] += 1
                    labels[name].append(layout.classes.index(label))
                found["skipped"] += batch.bad
                found["reasons"] += batch.bad.values()
                found["resized"] += batch.resized
    if "val" not in layout.splits:
        counts.pop("val", None)
    for name in labels:
        (folder / f"{name}.labels").write_bytes(bytes(labels[name]))
        (folder / f"{name}.hashes").write_bytes(b"".join(hashes[name]))
    leaked, duplicates = _find_repeats(folder) if "train" in labels else ([], [])
    return found | {
        "classes": layout.classes,
        "counts": counts,
        "leaked": leaked,
        "duplicates": duplicates,
        "files": {path.name: _seal(path) for path in sorted(folder.iterdir())},
    }


def _find_repeats(folder: Path) -> tuple[list[int], list[int]]:
    """Find the training images to leave out.

    Returns:
        Indices of the images that are also in test, and indices of the other repeated images. Of those the first copy
        stays, unless the image is in both classes: its label is unknown, so every copy is left out.
    """
    hashes, test_hashes = (np.fromfile(folder / f"{name}.hashes", dtype=np.uint64) for name in ("train", "test"))
    labels = np.fromfile(folder / "train.labels", dtype=np.uint8)
    leaked = np.isin(hashes, test_hashes)
    repeated = np.ones(len(hashes), dtype=bool)
    repeated[np.unique(hashes, return_index=True)[1]] = False
    repeated |= np.isin(hashes, np.intersect1d(hashes[labels == 0], hashes[labels == 1]))
    return np.flatnonzero(leaked).tolist(), np.flatnonzero(repeated & ~leaked).tolist()


def _seal(path: Path) -> dict[str, int | str]:
    """Sync a file to the disk; return its size and checksum."""
    sync(path)
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}
