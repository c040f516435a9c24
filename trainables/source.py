"""Finds and reads the images of a data set in a folder or a zip.

`trainables.layout` finds splits and classes by the names of the folders; all other files are ignored. A source may come
from a stranger: only regular files are opened, and no file is read beyond MAX_BYTES.
"""

import contextlib
import dataclasses
import errno
import itertools
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trainables.errors import ImageError, InputError
from trainables.files import MAX_BYTES, TOO_LONG, find_files, read_file

CHUNK = 512
"""Number of files that a thread reads or decodes at a time."""
CLUTTER = ("__MACOSX", "Thumbs.db", "desktop.ini")
"""Files that file managers create; hidden files are ignored too."""
LAYOUT = "{train,test}/{CLASS,CLASS}/**"
CORRUPT = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, NotImplementedError, OverflowError, ValueError),  # ValueError: an offset that no file can have
)
"""Errors of zipfile for a damaged zip."""
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One image file of a source."""

    name: str
    """SPLIT/CLASS/FILE."""
    path: str
    """Inside the source."""
    crc: int
    """CRC-32 of the bytes; 0 if the file must not be read."""
    size: int
    """Number of bytes; 0 if the file must not be read."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Decoded images of some members."""

    images: NDArray[np.uint8]
    """(n, size, size, 3)."""
    names: list[str]
    """n names, SPLIT/CLASS/FILE."""
    hashes: list[bytes]
    """n hashes of 64 bits, of the images' pixels."""
    bad: dict[str, str]
    """Path of each file that is not an image -> reason."""
    resized: list[str]
    """Paths of the images that had another size."""


class Folder:
    """Images in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def list_folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder."""
        return [each.name for each in (self.path / folder).iterdir() if each.is_dir() and not is_hidden(each.name)]

    def list_files(self, folder: str) -> list[str]:
        """Return the files below a folder, sorted."""
        found = (path.relative_to(self.path).as_posix() for path in find_files(self.path / folder))
        return sorted(name for name in found if not is_hidden(name))

    def measure(self, files: Mapping[str, str]) -> list[Member]:
        """Return files (path -> name) as members; each file is read to compute its CRC."""
        with ThreadPoolExecutor() as pool:
            measured = pool.map(lambda chunk: [self._measure(*each) for each in chunk], make_chunks([*files.items()]))
            return list(itertools.chain.from_iterable(measured))

    def read(self, path: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            ImageError: If it must not be read.
        """
        return read_file(self.path / path)

    def _measure(self, path: str, name: str) -> Member:
        try:
            data = self.read(path)
        except ImageError:  # the packing reads the file again and then gets the same error
            return Member(name=name, path=path, crc=0, size=0)
        return Member(name=name, path=path, crc=zlib.crc32(data), size=len(data))


class Archive:
    """Images in a zip."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self._file = file
        self._entries: dict[str, zipfile.ZipInfo] = {}
        self._children: dict[str, set[str]] = {}
        names = set()
        for entry in file.infolist():
            name = PurePosixPath(entry.orig_filename)
            problem = "is there twice" if name in names else _find_problem(entry, name)
            if problem:
                raise InputError(f"{path}: its member {entry.orig_filename!r} {problem}: make the zip again without it")
            if entry.is_dir():
                continue
            names.add(name)
            if not is_hidden(str(name)):
                self._entries[str(name)] = entry
                self._add(name)
        _check_overlap(path, file.infolist())

    def _add(self, name: PurePosixPath) -> None:
        """Take in the folders above a file."""
        while name.parts:
            folder = str(name.parent) if name.parent.parts else ""
            known = self._children.setdefault(folder, set())
            if name.name in known:
                return
            known.add(name.name)
            name = name.parent

    def list_folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder that are not empty."""
        start = f"{folder}/" if folder else ""
        return sorted(name for name in self._children.get(folder, ()) if start + name in self._children)

    def list_files(self, folder: str) -> list[str]:
        """Return the files below a folder, sorted."""
        found: list[str] = []
        left = [folder]
        while left:
            folder = left.pop()
            for name in self._children.get(folder, ()):
                (left if (path := f"{folder}/{name}") in self._children else found).append(path)
        return sorted(found)

    def measure(self, files: Mapping[str, str]) -> list[Member]:
        """Return files, given their names by their paths, as members, as the zip's central directory lists them."""
        sizes = {path: size if (size := self._entries[path].file_size) <= MAX_BYTES else 0 for path in files}
        return [
            Member(name=name, path=path, crc=self._entries[path].CRC if sizes[path] else 0, size=sizes[path])
            for path, name in files.items()
        ]

    def read(self, path: str) -> bytes:
        """Return the bytes of one file, at most as many as the central directory says.

        Raises:
            ImageError: If it must not be read.
            InputError: If the zip is corrupt at this file.
        """
        entry = self._entries[path]
        if entry.file_size > MAX_BYTES:
            raise ImageError(TOO_LONG)
        try:
            with self._file.open(entry) as file:
                return file.read(entry.file_size + 1)  # one byte more: zipfile reaches the end and compares the CRC
        except (OSError, *CORRUPT) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a negative offset causes EINVAL
                raise
            raise InputError(f"{self.path} is corrupt at {path} ({error}): fetch it again") from error


Source = Folder | Archive


def is_hidden(path: str) -> bool:
    """Return whether a path inside a source is hidden, or is a file that file managers create."""
    return any(part.startswith(".") or part in CLUTTER for part in path.split("/"))


def _check_overlap(path: Path, entries: Iterable[zipfile.ZipInfo]) -> None:
    """Raise InputError if members of a zip share bytes: then a small file can unpack to any size."""
    num_bytes = path.stat().st_size  # members beyond it are found corrupt when they are read
    known = (entry for entry in entries if 0 <= entry.header_offset < num_bytes)
    ordered = sorted(known, key=lambda entry: entry.header_offset)
    for entry, following in itertools.pairwise(ordered):
        if entry.header_offset + entry.compress_size > following.header_offset:
            raise InputError(f"{path}: its member {following.orig_filename!r} overlaps another: make the zip again")


def _find_problem(entry: zipfile.ZipInfo, name: PurePosixPath) -> str | None:
    """Return why a member of a zip is refused, or None."""
    if name.is_absolute() or ".." in name.parts or "\\" in str(name) or str(name)[1:2] == ":":
        return "leaves the folder or has a backslash"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a symbolic link"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by another method than deflate"  # Python decompresses the others without a limit
    return "is encrypted" if entry.flag_bits & 1 else None


def require_source(source: Path) -> None:
    """Raise InputError unless a source exists."""
    if not source.exists():
        raise InputError(f"{source} does not exist: give the folder or zip of the images")


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a folder or a zip.

    Raises:
        InputError: If it is neither, or a zip that is corrupt or has a member that must be refused.
    """
    require_source(path)
    if path.is_dir():
        yield Folder(path)
        return
    if not path.is_file() or (path.suffix.lower() != ".zip" and not zipfile.is_zipfile(path)):
        raise InputError(f"{path} is neither a folder nor a zip: give one with images in {LAYOUT}")
    try:
        file = zipfile.ZipFile(path)
    except CORRUPT as error:
        raise InputError(f"{path} is a corrupt zip ({error}): fetch it again") from error
    with file:
        yield Archive(path, file)


def describe_bad(source: Path, name: str, reason: str) -> str:
    """Return the message about a file that is not an image."""
    return f"{source}: {name} {reason}: remove it, or skip such files with data.on_bad_image=skip"


def make_chunks(items: list[T]) -> list[list[T]]:
    """Cut a list into chunks for the threads."""
    return [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
