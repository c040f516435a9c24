"""An object store, such as s3://bucket/prefix: an object is complete or does not exist, and there are no folders.

This is the only file that imports fsspec, and only if a study uses it. It is tested with S3. Other stores of fsspec
lack the condition of `swap`, which then reads and writes in two steps.
"""

import dataclasses
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.config.untrusted import check_object_name
from search.record.errors import StoreError
from trainables.durable import make_folder, replace_file
from trainables.errors import DISK_FULL, InputError

OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 2}},
    }
}
"""Kind of store -> options: no cached listings, and seconds after which a silent store counts as unreachable."""
PARALLEL = 16
"""Number of objects that are sent or fetched at a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """The objects below one URL; plain data, so that it can be sent to workers."""

    url: str

    def check(self) -> None:
        """Write, read and delete an object under `checkpoints/`, the only place where workers may delete.

        Raises:
            InputError: If that fails; the message has the reason and a cure.
        """
        try:
            probe = f"checkpoints/.reaching-{secrets.token_hex(4)}"
            self.write(probe, b"1")
            self.read(probe)
            self.delete([probe])
        except StoreError as error:
            raise InputError(str(error)) from None

    def read(self, name: str, *, limit: int | None = None) -> bytes | None:
        """Return an object's content, None if it does not exist; with a limit, at most one byte more."""
        with self._talk() as fs:
            try:
                content: bytes = fs.cat_file(self._place(name), start=None, end=limit and limit + 1)
            except FileNotFoundError:
                return None
            return content

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the content of several existing objects by name."""
        places = [self._place(name) for name in names]
        if not places:
            return {}
        with self._talk() as fs:
            found = fs.cat(places, batch_size=PARALLEL)
            return {self._name(fs, place): content for place, content in found.items()}

    def write(self, name: str, content: bytes) -> None:
        """Write an object, over an existing one of its name."""
        with self._talk() as fs:
            fs.pipe_file(self._place(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Create an object in one step; return False, and change nothing, if the name exists."""
        with self._talk() as fs:
            try:
                fs.pipe_file(self._place(name), content, mode="create")
            except OSError as error:
                if isinstance(error, FileExistsError) or _is_refused(error):
                    return False
                raise
            return True

    def swap(self, name: str, before: bytes, content: bytes) -> bool:
        """Replace an object whose content is still `before`; return False otherwise."""
        with self._talk() as fs:
            place = self._place(name)
            try:
                tag = fs.info(place).get("ETag")
                if fs.cat_file(place) != before:
                    return False
                fs.pipe_file(place, content, **({"IfMatch": tag} if self.url.startswith("s3://") else {}))
            except OSError as error:
                if isinstance(error, FileNotFoundError) or _is_refused(error):
                    return False
                raise
            return True

    def list(self, below: str = "") -> dict[str, str]:
        """Return the objects below a folder, each with a version that changes with its content.

        Raises:
            InputError: If a name cannot be the name of a file in the folder.
        """
        with self._talk() as fs:
            found = fs.find(self._place(below), detail=True)
            names = {self._name(fs, place): _get_version(info) for place, info in sorted(found.items())}
        for name in names:
            check_object_name(name, self.url)
        return names

    def upload(self, files: Mapping[str, Path]) -> None:
        """Upload files, by the names of their objects."""
        for path in files.values():
            path.stat()  # without this, a file deleted here would look like an object missing in the store
        if files:
            with self._talk() as fs:
                paths = [str(path) for path in files.values()]
                fs.put(paths, [self._place(name) for name in files], batch_size=PARALLEL)

    def download(self, files: Mapping[str, Path]) -> None:
        """Download objects into files, by the names of the objects; each file is written in one step."""
        if not files:
            return
        partials = {name: path.with_name(path.name + ".fetched") for name, path in files.items()}
        for name, path in partials.items():
            check_object_name(name, self.url)
            make_folder(path.parent)
            path.unlink(missing_ok=True)  # otherwise a link there would be written through
        with self._talk() as fs:
            fs.get(
                [self._place(name) for name in files], [str(path) for path in partials.values()], batch_size=PARALLEL
            )
        for name, partial in partials.items():
            replace_file(partial, files[name])

    def delete(self, names: Iterable[str]) -> None:
        """Delete existing objects."""
        if places := [self._place(name) for name in names]:
            with self._talk() as fs:
                fs.rm(places)

    def _place(self, name: str) -> str:
        root = self.url.rstrip("/").partition("://")[2]
        return f"{root}/{name}".rstrip("/")

    def _name(self, fs: Any, place: str) -> str:
        """Return the name of the object that fsspec means."""
        return place.removeprefix(f"{fs._strip_protocol(self.url)}/")

    @contextmanager
    def _talk(self) -> Iterator[Any]:
        """Yield fsspec's file system; turn its errors into StoreError."""
        try:
            yield _open(self.url.partition("://")[0])
        except InputError:
            raise
        except OSError as error:
            if error.errno in DISK_FULL:  # of this machine
                raise
            raise StoreError(f"{self.url}: {_explain(error)}") from error
        except Exception as error:  # each store has its own errors, without a common class
            raise StoreError(f"{self.url}: {_explain(error)}") from error


def _open(scheme: str) -> Any:
    try:
        import fsspec

        return fsspec.filesystem(scheme, **OPTIONS.get(scheme, {}))  # type: ignore[no-untyped-call]  # fsspec's
    except ImportError as error:
        raise InputError(
            f"results: {scheme}:// needs a library that is not installed ({error.name}): pip install '.[cluster]'"
        ) from None
    except ValueError as error:
        raise InputError(f"results: no object store is known as {scheme}:// ({error})") from None


def _get_version(info: Mapping[str, Any]) -> str:
    """Return a version that changes with the content: S3's tag, or size and time of other stores."""
    return str(info.get("ETag") or [info["size"], *(info[key] for key in ("LastModified", "created") if key in info)])


def _is_refused(error: OSError) -> bool:
    """Return whether the store refused because its condition did not hold."""
    answer = getattr(error.__cause__, "response", {})
    return answer.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict")


def _explain(error: Exception) -> str:
    """Return the reason with a cure."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if type(error).__name__ == "NoCredentialsError":
        return "no credentials are set: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
    if isinstance(error, PermissionError):
        return f"refused ({reason}): check the credentials, and that they may read, write, list and delete there"
    if isinstance(error, FileNotFoundError):
        return f"{reason}: create the bucket, or correct its name"
    return f"cannot be used ({reason}): check the address, AWS_ENDPOINT_URL and the network"
