"""The function that Ray sends to workers; its module loads nothing that a worker does not need."""

from collections.abc import Callable, Iterator

from search.cluster.job import Failure, Finished, Job, Report


def run_trial(deliver: Callable[[], str | None], job: Job) -> Iterator[Report | Finished | Failure]:
    """Train a trial in a worker, as `search.cluster.worker.run_job` does."""
    from search.cluster.worker import run_job  # in the worker, with torch: the driver hands out trials without it

    return run_job(deliver, None, job)
