"""Finds the pack of a folder or a zip of images in a machine's cache, or lets `trainables.packing` write it."""

import contextlib
import fcntl
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from trainables.durable import make_folder
from trainables.errors import InputError
from trainables.files import get_status
from trainables.layout import Settings
from trainables.pack_info import FORMAT, load_info
from trainables.source import Folder, describe_bad, open_source, require_source

Progress = Callable[[int, int], None]


def pack(
    source: Path,
    cache: Path,
    settings: Settings | None = None,
    *,
    on_bad_image: Literal["stop", "skip"] = "stop",
    progress: Progress | None = None,
) -> Path:
    """Pack a data set, unless the cache has its pack already.

    Several processes may call this: one packs, the others wait. The next packing deletes leftovers of a killed one.

    Args:
        source: Folder or zip in a layout that `trainables.layout` knows.
        cache: Folder for all packs of this machine; created if missing.
        settings: What else the pack depends on; None are those of CIFAKE.
        on_bad_image: Whether a file that is not an image stops the packing, or is skipped and listed.
        progress: Called with the number of files done and the number of all files.

    Returns:
        The pack's folder in `cache`, for `trainables.splits` to open.

    Raises:
        InputError: If the source, the cache or the pack in it cannot be used.
    """
    settings = settings or Settings()
    try:
        require_source(source)
        paths = settings.read_layout(Folder(source)).files if source.is_dir() else ("",)
        link = cache / f"source{FORMAT}-{_sign_source(source, settings.describe(), paths)}"
        if not link.is_dir():
            make_folder(cache)
            with lock_cache(cache):
                if not link.is_dir():
                    from trainables.packing import write_pack  # with Pillow, which finding a pack does not need

                    with open_source(source) as opened:
                        folder = write_pack(opened, cache, settings, on_bad_image, progress)
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


def _sign_source(source: Path, settings: str, paths: Iterable[str]) -> str:
    """Return a hash of names, sizes and times, which stays the same as long as the source is not changed.

    The change time is part of it, because copying tools restore the modification time.

    Args:
        source: Folder or zip.
        settings: The settings of the pack, as text.
        paths: Files in a folder that count; "" is the source itself.
    """
    digest = hashlib.sha256(f"{source.resolve()}{settings}".encode(errors="surrogateescape"))
    for name in paths:
        state = get_status(source / name)
        line = f"\0{name}\0{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]
