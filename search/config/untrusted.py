"""Checks of data from outside: files, URLs and names that this program may not have written.

A study's folder, a bucket, a model and a journal may come from a stranger. So nothing may lead out of the folder, no
host is contacted that the user did not name, and no file is read into memory that is larger than its kind may be.
SECURITY.md says what each command guarantees. (trainables.durable creates temporary files.)
"""

import json
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from trainables.errors import InputError

STORAGE = "CIFAKE_SEARCH_STORAGE"
"""Environment variable with the URL of a database that the user trusts, if only study.yaml names it."""
MANIFEST_BYTES = 8 * 2**20
"""Most bytes of a study.yaml or of a model record, which usually have some kilobytes."""
WEIGHTS_BYTES = 4 * 2**30
"""Most bytes of a file of weights or predictions; a ResNet-50 takes 0.1 GB."""
MAX_TEST_IMAGES = 1_000_000
"""Most test images of a data set; the bootstrap takes 0.4 kB for each."""
LINE_BYTES = 64 * 2**20
"""Most bytes of a line of a journal, which usually has some hundred."""
HOSTLESS = ("local", "auto")
"""Values of cluster.address that name no host: a Ray on this machine, or the cluster that it belongs to."""
WANDB_SETTINGS = ("wandb/settings", ".wandb")
"""Settings files in a folder from which W&B would read the address of its server."""
WANDB_LOG = "wandb/*/logs/debug-core.log"
"""The only link that a study may contain. W&B makes it; it leads to W&B's log in the user's cache; nothing reads it."""
DATABASE_OPTIONS = {
    "postgresql": ("application_name", "connect_timeout", "sslmode", "sslrootcert"),
    "mysql": ("charset", "connect_timeout", "ssl_ca"),
}
"""Kind of database -> options that its URL may have. Others can name another host, file, plugin or command."""


def check_folder(folder: Path) -> None:
    """Check that nothing in a study's folder leads out of it; the folder itself, which the user named, may be a link.

    Raises:
        InputError: If it contains a link, a device, a pipe or a settings file of W&B, or cannot be read.
    """
    for name in WANDB_SETTINGS:
        if os.path.lexists(folder / name):
            raise InputError(f"{folder / name} could make W&B use another server: remove it")
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                waiting += [Path(entry.path) for entry in entries if _is_folder(entry, folder)]
        except FileNotFoundError:  # a running search has deleted it meanwhile
            continue
        except OSError as error:
            raise InputError(
                f"cannot read {error.filename or folder}: {(error.strerror or str(error)).lower()}"
            ) from None


def read_file(path: Path, limit: int) -> bytes:
    """Read a regular file whole.

    Args:
        path: Its path; the file itself must not be a link, its folders may be.
        limit: Most bytes that the file may have.

    Raises:
        InputError: If it is a link, not a regular file, or larger.
        OSError: If it cannot be read.
    """
    if path.is_symlink():
        raise InputError(f"{path} is a link: name the file it points to, or replace the link by that file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} is not a file: remove it")
        content = file.read(min(found.st_size, limit) + 1)  # reserves this memory; one byte more shows a larger file
    if len(content) > limit:
        raise InputError(f"{path} has more than {limit:,} bytes, the limit for such a file")
    return content


def parse_json(content: bytes) -> Any:
    """Parse strict JSON.

    Raises:
        ValueError: If it is not JSON, too deep, or contains NaN, an infinity, a lone surrogate or too long a number.
    """
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def check_object_name(name: str, store: str) -> None:
    """Check that the name of an object in a store is a path inside a study's folder.

    Raises:
        InputError: If it is absolute, has empty parts, `..`, a backslash or a control character, or is too long.
    """
    parts = name.split("/")
    is_plain = name.isprintable() and "\\" not in name and len(name) <= 1024
    if not is_plain or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise InputError(f"{store} contains an object {name!r}, which is not a valid file name: delete it")


def check_options(kind: str, query: str) -> None:
    """Check the options in the URL of a database; the message repeats no value.

    Args:
        kind: A key of DATABASE_OPTIONS.
        query: The part of the URL after `?`.

    Raises:
        InputError: If an option is not in DATABASE_OPTIONS, or is repeated.
    """
    found = parse_qs(query, keep_blank_values=True)
    known = DATABASE_OPTIONS[kind]
    if wrong := [name for name, values in found.items() if name not in known or len(values) > 1]:
        raise InputError(
            f"storage: the option {wrong[0]!r} is not allowed in the URL; allowed once: {', '.join(known)}"
        )


def check_storage(storage: str | None, settings: Collection[str]) -> None:
    """Check that the user, and not only study.yaml, names the database.

    Args:
        storage: URL of the database in study.yaml, or None.
        settings: The user's settings, such as `storage=URL`.

    Raises:
        InputError: If only study.yaml names it.
    """
    if storage is None or os.environ.get(STORAGE) == storage or _is_set("storage", settings):
        return
    raise InputError(
        f"study.yaml says that the journal is in the database {storage!r}: if you trust that server with your "
        f"password, put the URL into the environment variable {STORAGE}"
    )


def check_address(address: str, settings: Collection[str]) -> None:
    """Check that the user, and not only study.yaml, names the cluster.

    Args:
        address: `cluster.address` in study.yaml.
        settings: The user's settings, such as `cluster.address=auto`.

    Raises:
        InputError: If only study.yaml names it.
    """
    if address not in HOSTLESS and not _is_set("cluster.address", settings):
        raise InputError(
            f"study.yaml says that the study runs on the cluster {address!r}: if you trust it, add "
            "--set cluster.address=ADDRESS; to run on this machine, add --set cluster.address=local"
        )


def _is_folder(entry: os.DirEntry[str], study: Path) -> bool:
    """Return whether an entry of a study's folder is a folder; raise InputError if it leads out of the study."""
    if entry.is_dir(follow_symlinks=False):
        return True
    if entry.is_symlink() and not Path(entry.path).relative_to(study).match(WANDB_LOG):
        raise InputError(f"{entry.path} is a link: replace it by what it points to, or remove it")
    if not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
        raise InputError(f"{entry.path} is neither a file nor a folder: remove it")
    return False


def _is_set(key: str, settings: Collection[str]) -> bool:
    return any(setting.partition("=")[0] == key for setting in settings)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
