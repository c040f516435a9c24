"""A local Ray: private to its user (ports, token, files), without the services of a cluster; why it cannot start."""

import errno
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray._common.utils import get_default_system_temp_dir
from ray._private import ray_constants
from ray._private.node import Node
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # missing in its stub

TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Environment variables for Ray's token; a user may have set them for a cluster."""
MAX_TMPDIR = 28
"""Most bytes of TMPDIR: the path of a socket has at most 107, and Ray's part, with 7 digits of a process, takes 79."""
ARGUMENTS: Mapping[str, Any] = {
    "object_store_memory": 128 * 2**20,
    "_system_config": {"preload_python_modules": ["torch", "ray.tune"]},
}
"""Arguments of `ray.init`.

Images come from memory-mapped files and messages are small, so the object store may be small. Ray needs a second to lay
out its default, a third of the memory. Workers load the libraries of every trial while the driver opens the study.
"""
SERVICES = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods of Ray's node that start a process: the dashboard's server, the autoscaler, the log monitor."""


@contextmanager
def keep_private() -> Iterator[str]:
    """Make a Ray that is started in the block private to this user; yield the path of its folder, which Ray creates.

    - Every port listens on 127.0.0.1. Ray replaces that address by one that other machines reach, unless its constant
      for macOS and Windows says that there are no other machines.
    - Every request needs a new random token. Ray's processes inherit it in their environment, which the system shows
      only to the same user; it is in no file and on no command line.
    - Sockets, logs and spilled objects are stored in a folder that no other user can enter. Ray's default is open to
      all.

    A process that is killed leaves the folder behind. After the block all settings are restored, also the user's token.
    """
    variables = {name: os.environ.pop(name, None) for name in TOKEN_VARIABLES}
    is_reachable = ray_constants.ENABLE_RAY_CLUSTER
    try:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        ray_constants.ENABLE_RAY_CLUSTER = False
        _read_variables()
        parent = Path(get_default_system_temp_dir()).absolute()
        with TemporaryDirectory(prefix="ray-", dir=parent, ignore_cleanup_errors=True) as folder:
            yield f"{folder}/r"  # Ray opens it to all users; the path of a socket has at most 107 bytes
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = is_reachable
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _read_variables()


def leave_out_services() -> AbstractContextManager[None]:
    """Start Ray within the block without its processes that serve a cluster.

    `ray.init` waits for the dashboard's server even if there is no dashboard, and has no argument for the others.
    """
    return replace_methods(Node, dict.fromkeys(SERVICES, lambda *_, **__: None))


@contextmanager
def replace_methods(owner: type, methods: Mapping[str, Callable[..., None]]) -> Iterator[None]:
    """Give a class other methods, by their names, within the block."""
    before = {name: getattr(owner, name) for name in methods}
    for name, method in methods.items():
        setattr(owner, name, method)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(owner, name, method)


def explain_start(error: Exception) -> str:
    """Return, for an error of Ray's start, why a local Ray cannot start, and the cure."""
    folder = get_default_system_temp_dir()
    reason = str(error).strip().partition("\n")[0]
    if "AF_UNIX path length" in reason:
        cure = f"set TMPDIR to a path of at most {MAX_TMPDIR} bytes"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        cure = f"free some space in {folder}, or set TMPDIR to a folder that has some"
    elif isinstance(error, OSError):
        cure = f"HOME and {folder} must be folders that you may write to; set TMPDIR to another one"
    elif "object store" in reason or "memory" in reason.lower():
        cure = "free some memory, or give this machine or container more"
    else:
        cure = "end the processes of an earlier Ray (`ray stop`), or free memory, then try again"
    return f"Ray cannot start on this machine ({reason}): {cure}"


def _read_variables() -> None:
    """Make Ray read the token's variables again: first the mode, because a thread that finds no token aborts."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
