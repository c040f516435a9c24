"""What can go wrong by nobody's mistake in the code.

ValueError
+-- InputError      the user can mend it: one sentence, exit code 2
+-- ImageError      one file is no image: stops the packing, or is skipped and listed
RuntimeError
+-- TrainingError   one trial cannot go on: recorded as its reason, the search continues
"""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the OSErrors that free space mends."""
DISK_FAULTS = (
    *DISK_FULL,
    errno.EIO,
    errno.EROFS,
    errno.EPERM,
    errno.EACCES,
    errno.ESTALE,
    errno.ENOTCONN,
)
"""Numbers of the OSErrors that a disk or its settings cause and no training does; the last is a file system in user
space that is gone."""


class InputError(ValueError):
    """Input that the user can mend; the message names the value and the cure."""


class ImageError(ValueError):
    """A file that is no image; the message is the reason, which follows the file's name in a sentence."""


class TrainingError(RuntimeError):
    """A training that cannot go on; the message is the reason that is recorded."""
