"""Brings a pack from the driver's node to every other one, once per node, whenever the node joined.

A node that sees the driver's cache, on a shared folder, reads the pack there; any other asks the driver for its files,
in pieces, and checks them against the checksums in the pack's record.
"""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.config import StudyConfig
from trainables.data import RECORD, verify
from trainables.pack import lock_cache

PIECE = 16 * 2**20
"""Bytes sent at a time: a hundred nodes that ask at once take 1.6 GB of the head's memory, however large the pack."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Travels with a task; called on a node, it returns the folder of the pack there."""

    pack: str
    """Its folder on the driver's node."""
    cache: str
    """Folder of the packs on every other node."""
    depot: Any
    """Who sends the pack; None where there is no other node."""

    def __call__(self) -> str:
        """Return the pack's folder on this node, after fetching it if it is not there.

        Several processes may call this at once: one fetches, the others wait for it.

        Raises:
            InputError: If what arrived is not what was sent.
        """
        pack = Path(self.pack)
        if self.depot is None or (pack / RECORD).exists():
            return self.pack
        cache = Path(self.cache).expanduser()
        target = cache / pack.name
        if not target.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with lock_cache(cache):
                if not target.is_dir():
                    self._fetch(cache / "packing", target)
        return str(target)

    def _fetch(self, temporary: Path, target: Path) -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            for name, size in ray.get(self.depot.list_files.remote()).items():
                with (temporary / name).open("wb") as file:
                    for offset in range(0, size, PIECE):
                        file.write(ray.get(self.depot.read.remote(name, offset)))
                    file.flush()
                    os.fsync(file.fileno())
            verify(temporary)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class Depot:
    """An actor on the driver's node that hands out the files of a pack."""

    def __init__(self, pack: str) -> None:
        self._pack = Path(pack)

    def list_files(self) -> dict[str, int]:
        """Return the bytes of every file by name."""
        return {path.name: path.stat().st_size for path in sorted(self._pack.iterdir())}

    def read(self, name: str, offset: int) -> bytes:
        """Return one piece of a file."""
        with (self._pack / name).open("rb") as file:
            file.seek(offset)
            return file.read(PIECE)


def build_delivery(config: StudyConfig, packed: Path) -> Delivery:
    """Offer a pack to all nodes, for as long as this process is connected to them."""
    depot = None
    if config.cluster.address != "local":
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        depot = ray.remote(Depot).options(num_cpus=0, scheduling_strategy=here).remote(str(packed.resolve()))
    return Delivery(pack=str(packed.resolve()), cache=config.data.cache, depot=depot)
