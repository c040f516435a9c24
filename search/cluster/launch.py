"""What Ray sends to workers with a job; the module loads nothing that a worker does not need."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from search.cluster.job import Failure, Finished, Job, Report
from search.config.schema import StudyConfig

Deliver = Callable[[], str | None]
"""Returns the folder of the packed images on the node that calls it; None for a training function of the user."""


def run_trial(deliver: Deliver, job: Job) -> Iterator[Report | Finished | Failure]:
    """Train a trial in a worker, as `search.cluster.worker.run_job` does."""
    from search.cluster.worker import run_job  # imports torch, which the driver does not need

    return run_job(deliver, None, job)


def build_delivery(config: StudyConfig, packed: Path | None) -> Deliver:
    """Offer the packed images to all nodes while this process is connected; other nodes than this one get copies."""
    pack = None if packed is None else str(packed.resolve())
    if config.cluster.address == "local":
        return functools.partial(_name, pack)
    from search.cluster.transfer import serve_files  # with checks of nodes, which a local Ray does not need

    return serve_files(config, pack)


def _name(pack: str | None) -> str | None:
    return pack
