"""A local Ray that other users of the machine cannot use: its ports, its token, its files."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ray._common.utils import get_default_system_temp_dir
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # missing in its stub

TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""What says whether Ray demands a token, and which one; a user may have set them for a cluster."""


@contextmanager
def keep_private() -> Iterator[str]:
    """Make the Ray that is started in the block one of this user alone; yield the path of its folder, to be created.

    - Every port listens on 127.0.0.1. Ray replaces that address by one that other machines reach, but where its
      constant for macOS and Windows says that there are no other machines.
    - Every request needs a new random token. Ray's processes inherit it in their environment, which the system shows
      to the same user alone; it is in no file and on no command line.
    - Sockets, logs and spilled objects are below a folder that no other user can enter. Ray's own is open to all.

    A process that is killed leaves the folder. After the block all is as before, the user's own token too.
    """
    variables = {name: os.environ.pop(name, None) for name in TOKEN_VARIABLES}
    is_reachable = ray_constants.ENABLE_RAY_CLUSTER
    try:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        ray_constants.ENABLE_RAY_CLUSTER = False
        _read_variables()
        place = Path(get_default_system_temp_dir()).absolute()
        with TemporaryDirectory(prefix="ray-", dir=place, ignore_cleanup_errors=True) as folder:
            yield f"{folder}/r"  # which Ray opens to all users; short, for a socket's path has 107 bytes at most
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = is_reachable
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _read_variables()


def _read_variables() -> None:
    """Make Ray read the token's variables again: the mode first, or a thread of it could miss a token and abort."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
