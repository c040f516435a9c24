"""Measures what a large cluster costs the driver: many trials on as many simulated nodes as fit on this machine.

    python -m benchmarks.scale [--trials 500 1000 2000] [--nodes N] [--sampler tpe] [--epochs 1] [--json PATH] [--short]

Every node has a real raylet, agents and one worker, but reports a core that does not exist. A formula takes the place
of training, so the benchmark measures the driver, the journal and Ray's bookkeeping, as benchmarks.growth does. At the
end the journal is read, as a new head would do. LOG.md, 2026-11-24, extrapolates to a hundred nodes and 100,000 trials.
"""

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from benchmarks.growth import MEGABYTE, build_config, drive
from search.config.schema import ClusterConfig
from search.record.journal import Journal

NODE_BYTES = 260 * MEGABYTE
"""Memory of a simulated node with its worker. Source: LOG.md, 2026-11-24."""
STORE_BYTES = 80 * 2**20
"""Bytes of each node's object store, the smallest size that Ray accepts; this study stores nothing there."""
WEIGHING_S = 2.0
"""Seconds between two readings of the memory of all nodes."""
COLUMNS = (
    "nodes",
    "node, MB",
    "trials",
    "trials/s",
    "driver CPU, ms",
    "late to early",
    "driver, MB",
    "journal, MB",
    "replay, s",
)


def count_nodes() -> int:
    """Return how many nodes fit into three quarters of the free memory."""
    return max(1, int(0.75 * psutil.virtual_memory().available / NODE_BYTES))


def search(folder: Path, trials: int, nodes: int, sampler: str, epochs: int) -> dict[str, Any]:
    """Start the nodes, search once, and read the journal; all in this process and its children."""
    store = {"object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store})
    try:
        for _ in range(nodes):
            cluster.add_node(wait=False, num_cpus=1, **store)
        cluster.wait_for_nodes(timeout=60 + 10 * nodes)
        config = build_config(trials, nodes, sampler, epochs)
        config = dataclasses.replace(config, cluster=ClusterConfig(address=cluster.address, min_nodes=nodes))
        with weigh_children() as weights:
            figures: dict[str, Any] = drive(folder, config)
        figures["bytes_per_node"] = max(weights) / (nodes + 1)
    finally:
        cluster.shutdown()
    path = folder / "study.journal"
    began = time.perf_counter()
    found = Journal(path, config.name, note=print).load()
    assert len(found) == trials
    return figures | {"journal_bytes": path.stat().st_size, "replay_seconds": time.perf_counter() - began}


@contextlib.contextmanager
def weigh_children() -> Iterator[list[int]]:
    """Yield a list to which a thread adds, every few seconds, the memory of this process's children."""
    weights: list[int] = []
    stop = threading.Event()

    def weigh() -> None:
        while True:
            weights.append(sum(map(_weigh, psutil.Process().children(recursive=True))))
            if stop.wait(timeout=WEIGHING_S):
                return

    thread = threading.Thread(target=weigh)
    thread.start()
    try:
        yield weights
    finally:
        stop.set()
        thread.join()


def _weigh(process: psutil.Process) -> int:
    """Return a process's memory; shared pages are divided among the processes that share them."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0


def measure(trials: int, nodes: int, sampler: str, epochs: int) -> dict[str, Any]:
    """Search once, in a new process, and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.scale", "--drive", folder, "--trials", str(trials)]
        command += ["--nodes", str(nodes), "--sampler", sampler, "--epochs", str(epochs)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"nodes": nodes, "trials": trials, "trials_per_second": 1e3 / figures["milliseconds_per_trial"], **figures}


def main() -> None:
    """Measure every number of trials; print the figures and, if asked, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[500, 1000, 2000])
    parser.add_argument("--nodes", type=int, help="as many as the free memory holds by default")
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--epochs", type=int, default=1, help="of each trial")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--short", action="store_true", help="few trials on two nodes: does it run?")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    nodes = 2 if arguments.short else arguments.nodes or count_nodes()
    if arguments.drive is not None:
        figures = search(arguments.drive, arguments.trials[0], nodes, arguments.sampler, arguments.epochs)
        print(json.dumps(figures))
        return
    print("".join(f"{name:>15}" for name in COLUMNS))
    rows = []
    for trials in [20] if arguments.short else arguments.trials:
        rows.append(measure(trials, nodes, arguments.sampler, arguments.epochs))
        print(_format(rows[-1]), flush=True)
    if arguments.json:
        found = {"sampler": arguments.sampler, "epochs": arguments.epochs, "rows": rows}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def _format(row: dict[str, Any]) -> str:
    ratio = row["late_to_early"]
    cells = [f"{row['nodes']}", f"{row['bytes_per_node'] / MEGABYTE:.0f}", f"{row['trials']:,}"]
    cells += [f"{row['trials_per_second']:.1f}"]
    cells += [f"{row['cpu_milliseconds_per_trial']:.1f}", "" if ratio is None else f"{ratio:.2f}"]
    cells += [f"{row['driver_bytes'] / MEGABYTE:.0f}", f"{row['journal_bytes'] / MEGABYTE:.2f}"]
    return "".join(f"{cell:>15}" for cell in [*cells, f"{row['replay_seconds']:.2f}"])


if __name__ == "__main__":
    main()
