"""Copies the files that jobs read from the driver's node to every other node, once for each node.

They are the pack, and the ImageNet weights if the space names them. A node that sees the driver's cache in a shared
folder reads the pack there. Any other node fetches the files in pieces and verifies them: the pack by the checksums in
its record, the weights by the checksum of the driver's file. Before that, each process that trains is checked
(checks.py).
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.cluster.checks import Requirements, check_process, describe_driver
from search.cluster.probe import Probe
from search.config.schema import StudyConfig
from search.config.space import Choice, list_specs
from search.record.object_store import Store
from trainables.durable import create_file, make_folder, replace_file, sync
from trainables.errors import InputError
from trainables.files import hash_file
from trainables.pack import lock_cache
from trainables.pack_info import PACK_JSON, verify

PIECE = 16 * 2**20
"""Bytes sent at a time. A hundred nodes that fetch at once take 1.6 GB of the head's memory, for a pack of any size."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Is sent with each job; when it is called on a node, it returns the folder of the pack there."""

    pack: str | None
    """Folder of the pack on the driver's node; None if there is none."""
    cache: str
    """Folder of the packs on every other node."""
    weights: str | None
    """File of the ImageNet weights on the driver's node; None if no trial starts from them."""
    server: Any
    """Handle of the actor that sends files."""
    requirements: Requirements
    """What a process that trains must share with the driver."""

    def __call__(self) -> str | None:
        """Return the pack's folder on this node, if there is one, after fetching the files that it lacks.

        Several processes may call this at once: one fetches, the others wait for it.

        Raises:
            InputError: If a file differs from the driver's after it was fetched.
            NodeError: If this node has other code or versions than the driver, or does not share the results.
        """
        check_process(
            self.requirements,
            ray.util.get_node_ip_address(),
            arrives=lambda probe: bool(ray.get(self.server.has.remote(probe))),
            reaches=lambda url: bool(ray.get(self.server.reaches.remote(url))),
        )
        if self.weights is not None:
            from trainables.models.resnet50.weights import locate_imagenet  # imports torch, which this node needs

            self._copy_weights(self.weights, locate_imagenet())
        if self.pack is None or (Path(self.pack) / PACK_JSON).exists():
            return self.pack
        return str(self._copy_pack(Path(self.pack).name))

    def _copy_pack(self, name: str) -> Path:
        cache = Path(self.cache).expanduser()
        target = cache / name
        if not target.is_dir():
            make_folder(cache)
            with lock_cache(cache):
                if not target.is_dir():
                    self._fetch_pack(cache / "packing", target)
        return target

    def _fetch_pack(self, temporary: Path, target: Path) -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            for path in ray.get(self.server.list_files.remote()):
                self._fetch(path, temporary / Path(path).name)
            verify(temporary)
            sync(temporary)
            temporary.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _copy_weights(self, source: str, target: Path) -> None:
        """Copy the weights to where torchvision stores them, so that it finds them without the network."""
        if target.exists():
            return
        make_folder(target.parent)
        with lock_cache(target.parent):
            if target.exists():
                return
            temporary = target.with_name(f"{target.name}.partial")
            self._fetch(source, temporary)
            if hash_file(temporary) != ray.get(self.server.hash.remote(source)):
                raise InputError(f"{target.name}: its checksum differs from that of the driver's {source}: start again")
            replace_file(temporary, target)

    def _fetch(self, source: str, target: Path) -> None:
        size = ray.get(self.server.measure.remote(source))
        with create_file(target) as file:
            for offset in range(0, size, PIECE):
                file.write(ray.get(self.server.read.remote(source, offset)))
        sync(target)


class FileServer:
    """An actor on the driver's node that sends files."""

    def __init__(self, pack: str | None) -> None:
        self._pack = pack

    def list_files(self) -> list[str]:
        """Return the paths of the pack's files."""
        return [str(path) for path in sorted(Path(self._pack).iterdir())] if self._pack else []

    def measure(self, path: str) -> int:
        """Return the size of a file, in bytes."""
        return Path(path).stat().st_size

    def hash(self, path: str) -> str:
        """Return a file's checksum."""
        return hash_file(Path(path))

    def read(self, path: str, offset: int) -> bytes:
        """Return one piece of a file."""
        with Path(path).open("rb") as file:
            file.seek(offset)
            return file.read(PIECE)

    def has(self, probe: Probe) -> bool:
        """Return whether a file that a node wrote has arrived here."""
        return probe.has_arrived()

    def reaches(self, url: str) -> bool:
        """Return whether an object store can be used from here."""
        try:
            Store(url).check()
        except InputError:
            return False
        return True


def serve_files(config: StudyConfig, pack: str | None) -> Delivery:
    """Offer the pack, and the weights that the space names, to all nodes while this process is connected."""
    requirements = Requirements(
        versions=tuple(describe_driver().items()), folder=config.url or str(config.directory.resolve())
    )
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    server = ray.remote(FileServer).options(num_cpus=0, scheduling_strategy=here).remote(pack)
    weights = None
    if names_imagenet(config):
        from trainables.models.resnet50.weights import locate_imagenet  # with torch, which the driver avoids

        weights = str(locate_imagenet())
    return Delivery(pack=pack, cache=config.data.cache, weights=weights, server=server, requirements=requirements)


def names_imagenet(config: StudyConfig) -> bool:
    """Return whether a trial may start from ImageNet weights."""
    if config.trainable:
        return False
    specs = [list_specs(config.space, architecture).get("weights") for architecture in config.search.architectures]
    return any("imagenet" in (spec.choice if isinstance(spec, Choice) else [spec]) for spec in specs)
