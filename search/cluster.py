"""Where trials run: starts or joins Ray, quietly, and checks that every trial fits some node."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import ray

from search.config import StudyConfig
from trainables.errors import InputError

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
}
"""Ray's own tables, loggers, snapshots and working folders: the journal and the live view take their place."""


@contextmanager
def connect(config: StudyConfig) -> Iterator[dict[str, float]]:
    """Start or join Ray for as long as the block lasts and yield the cluster's resources by name.

    Ray prints what its nodes report to standard output, so for as long as the block lasts that leads nowhere; who has
    something to say opens its console before.

    Raises:
        InputError: If no cluster answers at the address, or a trial fits no node.
    """
    os.environ.update(QUIET)
    _check_answer(config.cluster.address)
    local = config.cluster.address == "local"
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        try:
            ray.init(
                address=config.cluster.address,
                num_cpus=config.cluster.cpus if local else None,
                include_dashboard=False if local else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except ConnectionError as error:
            raise InputError(f"cluster.address: no Ray cluster answers at {config.cluster.address!r}") from error
        try:
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
            _check_fit(config, [node["Resources"] for node in ray.nodes() if node["Alive"]])
            yield ray.cluster_resources()
        finally:
            ray.shutdown()


def _check_answer(address: str) -> None:
    """Check that something listens at HOST:PORT; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"cluster.address: no Ray cluster answers at {address!r}") from error


def count_slots(config: StudyConfig, resources: dict[str, float]) -> int:
    """Return how many trials run at once: the config's number, or what the resources hold of the smallest trial."""
    if config.search.max_concurrent is not None:
        return config.search.max_concurrent
    slots = []
    for architecture in config.search.architectures:
        granted = config.get_resources(architecture)
        fits = [resources.get("CPU", 0) // granted.cpus] if granted.cpus else []
        fits += [resources.get("GPU", 0) / granted.gpus] if granted.gpus else []
        slots.append(int(min(fits)))
    return max(1, *slots)


def _check_fit(config: StudyConfig, nodes: list[dict[str, float]]) -> None:
    for architecture in config.search.architectures:
        granted = config.get_resources(architecture)
        if not any(node.get("CPU", 0) >= granted.cpus and node.get("GPU", 0) >= granted.gpus for node in nodes):
            largest = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise InputError(
                f"resources.{architecture}: a trial asks for {granted.cpus:g} CPUs and {granted.gpus:g} GPUs, "
                f"but the nodes have {largest}; lower it or use a larger node"
            )
