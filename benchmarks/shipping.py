"""Measures what an object store costs the driver: the same search into a folder and into a bucket, in turns.

python -m benchmarks.shipping [--trials 1000] [--epochs 4] [--rounds 3] [--short] [--json PATH]

A formula takes the place of training, so only the driver's own work is measured. thread_ms is the CPU time of the
thread that searches, per epoch; process_ms is that of all threads. The bucket is moto's, on this machine.
"""

import argparse
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from search.config.load import parse
from search.config.schema import StudyConfig
from search.record.journal import Journal
from search.record.mirror import Mirror
from search.record.remote import read_parts
from search.study import Study


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="50 trials, one round.")
    parser.add_argument("--json", type=Path, help="Write the figures there.")
    options = parser.parse_args()
    if options.short:
        options.trials, options.rounds = 50, 1
    rows: dict[str, list[dict[str, float]]] = {"folder": [], "bucket": []}
    server = _serve()
    try:
        for _ in range(options.rounds):
            for kind, found in rows.items():
                with tempfile.TemporaryDirectory() as folder:
                    found.append(_search(kind, Path(folder), options.trials, options.epochs))
    finally:
        server.kill()
    medians = {
        kind: {name: statistics.median(row[name] for row in found) for name in found[0]} for kind, found in rows.items()
    }
    table = Table(title=f"{options.trials} trials of {options.epochs} epochs, medians of {options.rounds} rounds")
    for heading in ("results in a", *rows["bucket"][0]):
        table.add_column(heading, justify="right")
    for kind, row in medians.items():
        table.add_row(kind, *(f"{row[name]:.4g}" if name in row else "" for name in medians["bucket"]))
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({"trials": options.trials, "epochs": options.epochs, **medians}))


def _search(kind: str, folder: Path, num_trials: int, num_epochs: int) -> dict[str, float]:
    """Run one search and return its times."""
    results = str(folder) if kind == "folder" else f"s3://bench/{secrets.token_hex(4)}"
    config = _build_config(results, folder, num_trials, num_epochs)
    config.directory.mkdir(parents=True)
    mirror = Mirror(config, print) if config.url else None
    study = Study(config, Journal(config.journal, config.name, note=print), [mirror] if mirror else [])
    if mirror:
        mirror.start(lambda: None)
    thread_s, process_s, wall_s = time.thread_time(), time.process_time(), time.perf_counter()
    while (trial := study.ask()) is not None:
        for epoch in range(1, num_epochs + 1):
            accuracy = 1 - trial.params["learning_rate"] / epoch
            measured = {"epoch": epoch, "accuracy": accuracy, "seconds": 1.0, "images_per_second": 1.0}
            study.report(trial.number, measured, "cpu")
    epochs = num_trials * num_epochs
    row = {
        "thread_ms": (time.thread_time() - thread_s) / epochs * 1e3,
        "process_ms": (time.process_time() - process_s) / epochs * 1e3,
        "wall_s": time.perf_counter() - wall_s,
    }
    if mirror is None:
        return row
    started = time.perf_counter()
    mirror.close()
    row["last_ship_s"] = time.perf_counter() - started
    store = mirror.store
    started = time.perf_counter()
    journal = read_parts(store)
    row["restore_s"] = time.perf_counter() - started
    assert journal == (config.directory / "study.journal").read_bytes(), "the bucket holds another journal"
    return row | {"parts": len(store.list("journal/")), "journal_mb": len(journal) / 1e6}


def _build_config(results: str, folder: Path, num_trials: int, num_epochs: int) -> StudyConfig:
    search = {"architectures": ["cnn"], "num_trials": num_trials, "max_epochs": num_epochs, "sampler": "random"}
    space = {"cnn": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}}
    document = {"name": "bench", "results": results, "data": {"cache": str(folder / "cache")}}
    return parse({**document, "search": {**search, "scheduler": "none"}, "space": space})


def _serve() -> subprocess.Popen[bytes]:
    """Start an S3 on this machine with a bucket, and put its address into the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    known = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}
    os.environ |= {f"AWS_{name}": value for name, value in {**known, "DEFAULT_REGION": "us-east-1"}.items()}
    import s3fs

    s3fs.S3FileSystem().mkdir("bench")
    return server


if __name__ == "__main__":
    main()
