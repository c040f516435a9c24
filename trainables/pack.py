"""Packs a folder or a zip of images, once per machine: all decoded, 32x32, in one file per split.

The images come in the published layout {train,test}/{REAL,FAKE}/*; whatever else lies there is left alone.
`trainables.data` describes the files that are written here, and opens them.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import itertools
import json
import lzma
import os
import shutil
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.functional import resize

from trainables.config import IMAGE_SIZE
from trainables.data import CLASSES, RECORD, SPLITS, load_info
from trainables.errors import InputError

FORMAT = 1
"""Version of the packed files; part of the names in the cache, so packs of other versions are not seen."""
CHUNK = 512
"""Files that a thread reads or decodes at a time."""
CLUTTER = ("__MACOSX", "Thumbs.db", "desktop.ini")
"""What file managers leave behind, besides hidden files."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
LAYOUT = "{train,test}/{REAL,FAKE}/*"
CORRUPT = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, UnicodeDecodeError)
"""What zipfile raises on a damaged zip."""
T = TypeVar("T")


def pack(
    source: Path,
    cache: Path,
    *,
    on_bad_image: Literal["stop", "skip"] = "stop",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Pack a data set, unless it is packed already.

    Several processes may call this at once: one packs, the others wait for it. What a killed packing leaves behind
    is never taken for a pack, and the next packing removes it. Grey and transparent images become RGB, images of
    other sizes are resized, and of animations the first frame counts.

    Args:
        source: Folder or zip in the layout {train,test}/{REAL,FAKE}/*.
        cache: Folder for all packs of this machine; created if missing.
        on_bad_image: What a file that is not an image does: stop the packing, or be skipped and listed.
        progress: Told, now and then, how many files are done, and how many there are.

    Returns:
        The pack's folder under `cache`, for `trainables.data` to open.

    Raises:
        InputError: If the source, the cache or the pack found there is not as it must be.
    """
    try:
        link = cache / f"source-{_sign(source)}"
        if not link.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with _lock(cache):
                if not link.is_dir():
                    with _open_source(source) as opened:
                        folder = _write_pack(opened, cache, on_bad_image, progress)
                    link.unlink(missing_ok=True)
                    link.symlink_to(folder.name)
        folder = cache / link.readlink()
    except OSError as error:
        raise InputError(f"cannot pack {source} into {cache}: {error}") from error
    if (skipped := load_info(folder).skipped) and on_bad_image == "stop":
        raise _blame(source, skipped[0])
    return folder


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One image file of a source."""

    name: str
    """SPLIT/CLASS/FILE."""
    crc: int
    """CRC-32 of the file's bytes."""
    size: int
    """Bytes."""


class Folder:
    """Images in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def list_members(self) -> list[Member]:
        """Return all image files; each is read for its CRC."""
        with ThreadPoolExecutor() as pool:
            return list(itertools.chain.from_iterable(pool.map(self._measure, _cut(_list_files(self.path)))))

    def read(self, name: str) -> bytes:
        """Return the bytes of one file."""
        return (self.path / name).read_bytes()

    def _measure(self, names: Sequence[str]) -> list[Member]:
        files = ((name, self.read(name)) for name in names)
        return [Member(name=name, crc=zlib.crc32(data), size=len(data)) for name, data in files]


class Archive:
    """Images in a zip."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self._file = file
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in file.infolist():
            name = PurePosixPath(entry.orig_filename)
            if problem := _find_problem(entry, name):
                raise InputError(f"{path}: its member {entry.orig_filename!r} {problem}: make the zip anew without")
            if not entry.is_dir() and _is_image(name.parts):
                self._entries[str(name)] = entry

    def list_members(self) -> list[Member]:
        """Return all image files, as the central directory has them."""
        return [Member(name=name, crc=entry.CRC, size=entry.file_size) for name, entry in self._entries.items()]

    def read(self, name: str) -> bytes:
        """Return the bytes of one file."""
        try:
            return self._file.read(self._entries[name])
        except CORRUPT as error:
            raise InputError(f"{self.path} is corrupt at {name} ({error}): fetch it again") from error


Source = Folder | Archive


def _is_image(parts: Sequence[str]) -> bool:
    """Whether a path inside the source is one of the images."""
    hidden = any(part.startswith(".") or part in CLUTTER for part in parts)
    return len(parts) > 2 and parts[0] in SPLITS and parts[1] in CLASSES and not hidden


def _find_problem(entry: zipfile.ZipInfo, name: PurePosixPath) -> str | None:
    """Say why a zip's member cannot be trusted or read."""
    if name.is_absolute() or ".." in name.parts or "\\" in str(name) or str(name)[1:2] == ":":
        return "leaves the folder or has a backslash"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a symbolic link"
    return "is encrypted" if entry.flag_bits & 1 else None


def _list_files(root: Path) -> list[str]:
    """Return the names of a folder's images, sorted."""
    names = []
    for split, label in itertools.product(SPLITS, CLASSES):
        if not (root / split / label).is_dir():
            continue
        for folder, _, files in os.walk(root / split / label, onerror=_fail):
            parts = Path(folder).relative_to(root).parts
            names += ["/".join((*parts, file)) for file in files if _is_image((*parts, file))]
    return sorted(names)


def _fail(error: OSError) -> None:
    raise error


def _sign(source: Path) -> str:
    """Return what is the same as long as nobody touches the source: a hash of names, sizes and times.

    The change time is part of it, because copying tools set the modification time back.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist: give the folder or zip of the images")
    digest = hashlib.sha256(f"{FORMAT} {source.resolve()}".encode(errors="surrogateescape"))
    for name in _list_files(source) if source.is_dir() else ("",):
        state = (source / name).stat()
        line = f"\0{name}\0{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def _open_source(path: Path) -> Iterator[Source]:
    if path.is_dir():
        yield Folder(path)
        return
    if path.suffix.lower() != ".zip" and not zipfile.is_zipfile(path):
        raise InputError(f"{path} is neither a folder nor a zip: give one with images in {LAYOUT}")
    try:
        file = zipfile.ZipFile(path)
    except CORRUPT as error:
        raise InputError(f"{path} is a corrupt zip ({error}): fetch it again") from error
    with file:
        yield Archive(path, file)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a thread made of a chunk of files."""

    images: NDArray[np.uint8]
    """(n, 32, 32, 3)."""
    labels: list[int]
    """n of them: 0 FAKE, 1 REAL."""
    hashes: list[bytes]
    """n of them: 64 bits of the image's pixels."""
    bad: list[str]
    """Names of the files that are not images."""


@contextlib.contextmanager
def _lock(cache: Path) -> Iterator[None]:
    """Hold the cache; the kernel lets go of it when the process dies."""
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_pack(source: Source, cache: Path, on_bad_image: str, progress: Callable[[int, int], None] | None) -> Path:
    """Write the pack, unless there is one; it gets its name when all of it is on the disk."""
    temporary = cache / "packing"
    shutil.rmtree(temporary, ignore_errors=True)
    members = sorted(source.list_members(), key=lambda member: member.name)
    present = {"/".join(member.name.split("/")[:2]) for member in members}
    _require_classes(source.path, present, "has no images in")
    lines = "".join(f"{member.name}\0{member.crc:08x}\0{member.size}\n" for member in members)
    fingerprint = hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
    target = cache / f"pack{FORMAT}-{fingerprint[:32]}"
    if target.is_dir():
        return target
    temporary.mkdir()
    try:
        with warnings.catch_warnings():
            # torchvision 0.29 announces the end of torchvision.io, for one more dependency (TorchCodec) instead
            warnings.filterwarnings("ignore", "The image decoding and encoding", DeprecationWarning)
            record = _write_splits(source, members, temporary, on_bad_image, progress)
        record |= {"fingerprint": fingerprint, "source": str(source.path.resolve())}
        (temporary / RECORD).write_text(json.dumps(record))
        _sync(temporary / RECORD)
        _sync(temporary)
        temporary.rename(target)
        _sync(cache)
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
    """Write images, labels and hashes of both splits, and return what the record says of them."""
    chunks = {split: _cut([member for member in members if member.name.startswith(f"{split}/")]) for split in SPLITS}
    batches = _decode_chunks(source, [*itertools.chain(*chunks.values())], on_bad_image, progress)
    with contextlib.closing(batches):
        labels, hashes, bad = zip(
            *(_write_split(itertools.islice(batches, len(chunks[split])), folder, split) for split in SPLITS),
            strict=True,
        )
    counts = [dict(zip(CLASSES, np.bincount(own, minlength=2).tolist(), strict=True)) for own in labels]
    present = {f"{split}/{label}" for split, own in zip(SPLITS, counts, strict=True) for label in own if own[label]}
    _require_classes(source.path, present, "has only files that are not images in")
    leaked, duplicates = _find_repeats(hashes[0], labels[0], hashes[1])
    return {
        "counts": dict(zip(SPLITS, counts, strict=True)),
        "skipped": [*itertools.chain(*bad)],
        "leaked": leaked,
        "duplicates": duplicates,
        "files": {path.name: _seal(path) for path in sorted(folder.iterdir())},
    }


def _write_split(
    batches: Iterable[Batch], folder: Path, split: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint64], list[str]]:
    """Write the files of one split; return its labels (N,), hashes (N,) and the names of bad files."""
    labels: list[int] = []
    digests: list[bytes] = []
    bad: list[str] = []
    with (folder / f"{split}.images").open("wb") as file:
        for batch in batches:
            file.write(batch.images.data)
            labels += batch.labels
            digests += batch.hashes
            bad += batch.bad
    (folder / f"{split}.labels").write_bytes(bytes(labels))
    (folder / f"{split}.hashes").write_bytes(b"".join(digests))
    return np.array(labels, dtype=np.uint8), np.frombuffer(b"".join(digests), dtype=np.uint64), bad


def _decode_chunks(
    source: Source,
    chunks: list[list[Member]],
    on_bad_image: str,
    progress: Callable[[int, int], None] | None,
) -> Generator[Batch, None, None]:
    """Decode on all cores, in order: torchvision lets go of the interpreter's lock while it decodes."""
    done, total = 0, sum(map(len, chunks))
    pool = ThreadPoolExecutor()
    try:
        for chunk, batch in zip(chunks, pool.map(functools.partial(_decode_chunk, source), chunks), strict=True):
            if batch.bad and on_bad_image == "stop":
                raise _blame(source.path, batch.bad[0])
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
    for member in members:
        data = source.read(member.name)
        if zlib.crc32(data) != member.crc:
            raise InputError(f"{source.path}: {member.name} changed while it was being packed: try again")
        try:
            planes[len(labels)] = _decode(data)
        except (RuntimeError, ValueError):
            bad.append(member.name)
        else:
            labels.append(CLASSES.index(member.name.split("/")[1]))
    images = images[: len(labels)]
    hashes = [hashlib.blake2b(image.data, digest_size=8).digest() for image in images]
    return Batch(images=images, labels=labels, hashes=hashes, bad=bad)


def _decode(data: bytes) -> Tensor:
    """Decode one file to uint8 (3, 32, 32).

    Raises:
        RuntimeError: If torchvision cannot read it.
        ValueError: If it is empty or a damaged PNG.
    """
    if data.startswith(PNG_SIGNATURE):
        _check_png(data)
    image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    if image.ndim == 4:
        image = image[0]
    if image.dtype == torch.uint16:
        image = (image.int() >> 8).byte()
    if image.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        image = resize(image, [IMAGE_SIZE, IMAGE_SIZE])
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


def _find_repeats(
    hashes: NDArray[np.uint64], labels: NDArray[np.uint8], test_hashes: NDArray[np.uint64]
) -> tuple[list[int], list[int]]:
    """Find the training images that are to be left out.

    Returns:
        Indices of the images that are also in test, and of the remaining ones that are second copies. An image in
        both classes has no right label, so every copy of it counts as one of those.
    """
    leaked = np.isin(hashes, test_hashes)
    repeated = np.ones(len(hashes), dtype=bool)
    repeated[np.unique(hashes, return_index=True)[1]] = False
    repeated |= np.isin(hashes, np.intersect1d(hashes[labels == 0], hashes[labels == 1]))
    return np.flatnonzero(leaked).tolist(), np.flatnonzero(repeated & ~leaked).tolist()


def _require_classes(source: Path, present: set[str], complaint: str) -> None:
    needed = (f"{split}/{label}" for split, label in itertools.product(SPLITS, CLASSES))
    if missing := [part for part in needed if part not in present]:
        raise InputError(f"{source} {complaint} {', '.join(missing)}: expected images in {LAYOUT}")


def _blame(source: Path, name: str) -> InputError:
    return InputError(
        f"{source}: {name} is not a sound JPEG, PNG, GIF or WebP image: remove it, or skip such files (on_bad_image)"
    )


def _cut(items: list[T]) -> list[list[T]]:
    return [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]


def _seal(path: Path) -> dict[str, int | str]:
    """Bring a written file to the disk; return its size and checksum."""
    _sync(path)
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
