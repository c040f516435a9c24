"""One trial of benchmarks.peers.syne, in a process of its own."""

import argparse
from pathlib import Path

from syne_tune import Reporter
from syne_tune.utils import add_config_json_to_argparse, load_config_json

from benchmarks.peers.plan import Plan
from benchmarks.peers.training import train


def main() -> None:
    """Train, and report each epoch."""
    parser = argparse.ArgumentParser()
    add_config_json_to_argparse(parser)
    arguments, _ = parser.parse_known_args()
    config = load_config_json(vars(arguments))
    report = Reporter()
    folder = Path(config["folder"])
    for metrics, _ in train(config, Plan.read(folder), folder):
        report(**metrics)


if __name__ == "__main__":
    main()
