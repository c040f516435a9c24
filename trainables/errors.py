"""The errors that are no fault of this code. Those with a file name are defined there.

OSError
+-- StoreError      the object store cannot be read or written (search/record/errors.py)
ValueError
+-- InputError      the user can correct it: one sentence, exit code 2
+-- ImageError      a file is not an image: packing stops, or skips and lists it
RuntimeError
+-- TrainingError   a trial cannot continue: the reason is recorded, the search continues
+-- NodeError       a node cannot run trials: the search stops, --resume continues it (search/cluster/job.py)
InputError
+-- FunctionError   a training function is wrong for every trial: the search stops, --accept-changes continues it
KeyboardInterrupt
+-- Interrupted     a signal ends the command; --resume continues the study (search/cluster/signals.py)

A lost database is Optuna's own StorageInternalError, here StorageLost (search/record/errors.py).
"""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the OSErrors that end when there is free space."""
DISK_FAULTS = (
    *DISK_FULL,
    errno.EIO,
    errno.EROFS,
    errno.EPERM,
    errno.EACCES,
    errno.ESTALE,
    errno.ENOTCONN,
)
"""Numbers of the OSErrors that a disk or its settings cause, not a training. ENOTCONN: the process of a file system in
user space has ended."""


class InputError(ValueError):
    """Input that the user can correct; the message names the value and the cure."""


class FunctionError(InputError):
    """A training function that no configuration can run; the message says what to write instead."""


class ImageError(ValueError):
    """A file that is not an image; the message is a reason, such as `is not a file`, and follows the file's name."""


class TrainingError(RuntimeError):
    """A training that cannot continue; the message is the reason that is recorded."""


def check_field(config: object, name: str, holds: bool, expected: str) -> None:
    """Raise InputError, with the name and value of a configuration's field, if its check does not hold."""
    if not holds:
        raise InputError(f"{name} = {getattr(config, name)!r}: expected {expected}")


def check_batch(batch_size: int, *, is_single: bool) -> None:
    """Raise InputError for a batch of one image if batch normalisation sees 1x1 maps: it needs two values a channel."""
    if is_single and batch_size < 2:
        raise InputError(
            f"batch_size = {batch_size}: expected at least 2, because batch normalisation of 1x1 maps cannot train "
            "on single images"
        )
