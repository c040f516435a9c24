"""What can fail around a study: a folder that refuses, a store or a database that does not answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import optuna

from trainables.errors import DISK_FULL, InputError

StorageLost = optuna.exceptions.StorageInternalError
"""The database stopped answering; what it acknowledged is recorded."""


class StoreError(OSError):
    """The object store did not answer, or refused; what it acknowledged is stored."""


def describe_loss(error: BaseException) -> str:
    """Return in one line what the database's server, or its client library, reported."""
    reason = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
    return " ".join(str(reason).split())


@contextmanager
def explain_denied(task: str, cure: str) -> Iterator[None]:
    """Turn an error of the file system within the block into a sentence; a full disk and a store's error stay.

    Raises:
        InputError: The task, the reason and the cure.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise InputError(f"{task} ({(error.strerror or str(error)).lower()}): {cure}") from None
