"""What may be believed of a file that somebody else may have made, and how such a file is read.

A study's folder, a bucket, a model and a record may come from a stranger. The rules: nothing leads out of the folder,
no host is asked that the user did not name, no file is read into memory that is larger than such a file can be.
SECURITY.md says what each command guarantees. (Temporary files are created by trainables.durable.)
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
"""Environment variable with the URL of the database that the user trusts, where only a record names it."""
RECORD_BYTES = 8 * 2**20
"""Most bytes of a study.yaml or of a model's record, which take some kilobytes."""
WEIGHTS_BYTES = 4 * 2**30
"""Most bytes of a file of weights or predictions; a ResNet-50 takes 0.1 GB."""
LINE_BYTES = 64 * 2**20
"""Most bytes of a line of a journal, which takes some hundred."""
HOSTLESS = ("local", "auto")
"""Values of cluster.address that name no host: a Ray on this machine, or the one that this machine is part of."""
WANDB_SETTINGS = ("wandb/settings", ".wandb")
"""Files from which W&B would take the address of its server when it works in a folder."""
WANDB_LOG = "wandb/*/logs/debug-core.log"
"""The one link that may be in a study: W&B puts it there, to its log in the user's cache, and nothing reads it."""
DATABASE_OPTIONS = {
    "postgresql": ("application_name", "connect_timeout", "sslmode", "sslrootcert"),
    "mysql": ("charset", "connect_timeout", "ssl_ca"),
}
"""What a database's URL may say behind `?`. All else may name another host, file, plugin or command."""


def check_folder(folder: Path) -> None:
    """Check that nothing in a study's folder leads out of it; the folder itself may be a link, which the user gave.

    Raises:
        InputError: If a link, a device, a pipe or a settings file of W&B is in it, or it cannot be read.
    """
    for name in WANDB_SETTINGS:
        if os.path.lexists(folder / name):
            raise InputError(f"{folder / name} would tell W&B which server to use: remove it")
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                waiting += [Path(entry.path) for entry in entries if _is_folder(entry, folder)]
        except FileNotFoundError:  # deleted since by the search that is under way
            continue
        except OSError as error:
            raise InputError(
                f"cannot read {error.filename or folder}: {(error.strerror or str(error)).lower()}"
            ) from None


def read_file(path: Path, limit: int) -> bytes:
    """Read a file whole, if it is one.

    Args:
        path: Its path; its last part may be no link.
        limit: Most bytes to read.

    Raises:
        InputError: If it is a link, no file, or larger.
        OSError: If it cannot be read.
    """
    if path.is_symlink():
        raise InputError(f"{path} is a link: give the file it points to, or put that in its place")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"{path} is not a file: remove it")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InputError(f"{path} has more than {limit:,} bytes, which no such file has")
    return content


def parse_json(content: bytes) -> Any:
    """Parse JSON of numbers that are numbers.

    Raises:
        ValueError: If it is not JSON, too deep, or holds NaN, an infinity, half a character or an endless number.
    """
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def check_object_name(name: str, store: str) -> None:
    """Check that an object of a store can be a file below a study's folder.

    Raises:
        InputError: If its name is absolute, has empty parts, `..`, a backslash or a control character, or is too long.
    """
    parts = name.split("/")
    is_plain = name.isprintable() and "\\" not in name and len(name) <= 1024
    if not is_plain or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise InputError(f"{store} holds an object {name!r}, which is no file's name: delete it")


def check_options(kind: str, query: str) -> None:
    """Check what the URL of a database says behind `?`; the message repeats no value.

    Raises:
        InputError: If that is an option which is not in DATABASE_OPTIONS, or one that stands twice.
    """
    found = parse_qs(query, keep_blank_values=True)
    known = DATABASE_OPTIONS[kind]
    if wrong := [name for name, values in found.items() if name not in known or len(values) > 1]:
        raise InputError(
            f"storage: the option {wrong[0]!r} is not allowed in the URL; allowed once: {', '.join(known)}"
        )


def check_named(storage: str | None, settings: Collection[str]) -> None:
    """Check that the user, and not only a record, names the database that the record says to use.

    Args:
        storage: What the record says, if it does.
        settings: What the user set, such as `storage=URL`.

    Raises:
        InputError: If the user does not.
    """
    if storage is None or os.environ.get(STORAGE) == storage or _is_set("storage", settings):
        return
    raise InputError(
        f"the study's record is in the database {storage!r}: if you trust that server with your password, "
        f"name it too, as the environment variable {STORAGE}"
    )


def check_address(address: str, settings: Collection[str]) -> None:
    """Check that the user, and not only a record, names the cluster that the record says to use.

    Raises:
        InputError: If the user does not.
    """
    if address not in HOSTLESS and not _is_set("cluster.address", settings):
        raise InputError(
            f"study.yaml says that the study runs on the cluster {address!r}: if that is yours, name it too, "
            "with --set cluster.address=ADDRESS, or run here with --set cluster.address=local"
        )


def _is_folder(entry: os.DirEntry[str], study: Path) -> bool:
    """Answer whether an entry of a study's folder is a folder, once it is nothing that leads elsewhere."""
    if entry.is_dir(follow_symlinks=False):
        return True
    if entry.is_symlink() and not Path(entry.path).relative_to(study).match(WANDB_LOG):
        raise InputError(f"{entry.path} is a link: put what it points to in its place, or remove it")
    if not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
        raise InputError(f"{entry.path} is no file and no folder: remove it")
    return False


def _is_set(key: str, settings: Collection[str]) -> bool:
    return any(setting.partition("=")[0] == key for setting in settings)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
