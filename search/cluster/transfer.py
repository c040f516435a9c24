"""Brings what trials read from the driver's node to every other one, once per node, whenever the node joined.

That is the pack, and the ImageNet weights where the space names them. A node that sees the driver's cache, on a shared
folder, reads the pack there; any other asks the driver for the files, in pieces, and checks them: the pack against the
checksums in its record, the weights against the checksum of the driver's. Before that, each process that trains is held
against the driver (agreement.py).
"""

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.cluster.agreement import Terms, agree, can_use, describe_driver, has_arrived
from search.config.schema import StudyConfig
from search.config.space import Choice, list_specs
from trainables.durable import create_file, make_folder, replace_file, sync
from trainables.errors import InputError
from trainables.pack import lock_cache
from trainables.pack_info import PACK_JSON, verify

PIECE = 16 * 2**20
"""Bytes sent at a time: a hundred nodes that ask at once take 1.6 GB of the head's memory, however large the pack."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Travels with a task; called on a node, it returns the folder of the pack there."""

    pack: str
    """Its folder on the driver's node."""
    cache: str
    """Folder of the packs on every other node."""
    weights: str | None
    """File of the ImageNet weights on the driver's node; None if no trial starts from them."""
    depot: Any
    """Who sends files; None where there is no other node."""
    terms: Terms | None
    """What a process must agree with that trains; None where there is no other node."""

    def __call__(self) -> str:
        """Return the pack's folder on this node, after fetching what is not there.

        Several processes may call this at once: one fetches, the others wait for it.

        Raises:
            InputError: If what arrived is not what was sent.
            NodeError: If this node has other code or versions than the driver, or cannot use the results.
        """
        if self.terms is None:
            return self.pack
        agree(
            self.terms,
            ray.util.get_node_ip_address(),
            arrives=lambda path, content: bool(ray.get(self.depot.has.remote(path, content))),
            reaches=lambda url: bool(ray.get(self.depot.reaches.remote(url))),
        )
        if self.weights is not None:
            from trainables.models.resnet50.weights import locate_imagenet  # with torch, which this node needs

            self._bring_weights(self.weights, locate_imagenet())
        if (Path(self.pack) / PACK_JSON).exists():
            return self.pack
        return str(self._bring_pack())

    def _bring_pack(self) -> Path:
        cache = Path(self.cache).expanduser()
        target = cache / Path(self.pack).name
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
            for path in ray.get(self.depot.list_files.remote()):
                self._fetch(path, temporary / Path(path).name)
            verify(temporary)
            sync(temporary)
            temporary.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _bring_weights(self, source: str, target: Path) -> None:
        """Put the weights where torchvision would have put them, so that it finds them and asks no network."""
        if target.exists():
            return
        make_folder(target.parent)
        with lock_cache(target.parent):
            if target.exists():
                return
            temporary = target.with_name(f"{target.name}.partial")
            self._fetch(source, temporary)
            if hash_file(temporary) != ray.get(self.depot.hash.remote(source)):
                raise InputError(f"{target.name} arrived otherwise than {source} is on the driver's node: start again")
            replace_file(temporary, target)

    def _fetch(self, source: str, target: Path) -> None:
        size = ray.get(self.depot.measure.remote(source))
        with create_file(target) as file:
            for offset in range(0, size, PIECE):
                file.write(ray.get(self.depot.read.remote(source, offset)))
        sync(target)


class Depot:
    """An actor on the driver's node that hands out files."""

    def __init__(self, pack: str) -> None:
        self._pack = Path(pack)

    def list_files(self) -> list[str]:
        """Return the paths of the pack's files."""
        return [str(path) for path in sorted(self._pack.iterdir())]

    def measure(self, path: str) -> int:
        """Return a file's bytes."""
        return Path(path).stat().st_size

    def hash(self, path: str) -> str:
        """Return a file's checksum."""
        return hash_file(Path(path))

    def read(self, path: str, offset: int) -> bytes:
        """Return one piece of a file."""
        with Path(path).open("rb") as file:
            file.seek(offset)
            return file.read(PIECE)

    def has(self, path: str, content: bytes) -> bool:
        """Answer whether a file that a node wrote has arrived here."""
        return has_arrived(path, content)

    def reaches(self, url: str) -> bool:
        """Answer whether an object store can be used from here."""
        return can_use(url)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_delivery(config: StudyConfig, packed: Path) -> Delivery:
    """Offer a pack, and the weights that the space names, to all nodes for as long as this process is connected."""
    depot = weights = terms = None
    if config.cluster.address != "local":
        place = config.url or str(config.directory.resolve())
        terms = Terms(versions=tuple(describe_driver().items()), place=place)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        depot = ray.remote(Depot).options(num_cpus=0, scheduling_strategy=here).remote(str(packed.resolve()))
        if names_imagenet(config):
            from trainables.models.resnet50.weights import locate_imagenet  # with torch, which the driver avoids

            weights = str(locate_imagenet())
    return Delivery(pack=str(packed.resolve()), cache=config.data.cache, weights=weights, depot=depot, terms=terms)


def names_imagenet(config: StudyConfig) -> bool:
    """Answer whether a trial may start from ImageNet weights."""
    specs = [list_specs(config.space, architecture).get("weights") for architecture in config.search.architectures]
    return any("imagenet" in (spec.choice if isinstance(spec, Choice) else [spec]) for spec in specs)
