"""Replays trained learning curves under simulated time, to choose sampler and scheduler.

    python -m benchmarks.replay [--repetitions 20] [--slots 1 4 16 64] [--arms NAME ...] [--epochs 360]
        [--source cifake|grown [--half all|even|odd|table]]
        [--source lcbench --lcbench FOLDER [--tasks confirm]]
        [--first-seed 0] [--processes 2] [--json PATH] [--plot PATH] [--short]

`benchmarks.simulation` runs the searches, `benchmarks.regret` makes the tables. Sources are CNNs trained on CIFAKE,
of two spaces (`benchmarks.curves`), and LCBench (`benchmarks.lcbench`). Equal commands give equal figures on
processors of one kind, with any number of processes.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks import curves
from benchmarks.arms import ARMS, BASELINE, DEFAULT, USUAL
from benchmarks.cifake import HALVES, Cifake
from benchmarks.lcbench import PARTS, list_tasks
from benchmarks.panels import draw
from benchmarks.peers.arms import PEERS, require_installed
from benchmarks.regret import list_searches, print_tables, summarize, trace
from benchmarks.simulation import list_plans, replay
from benchmarks.source import Source
from trainables.errors import InputError

TRAININGS = {1: 40, 4: 40, 16: 80, 64: 160}
"""Budget of a search by its slots, where none is named, in full trainings."""


def main() -> None:
    """Run the searches and print the tables."""
    options = _parse()
    arms = [BASELINE, DEFAULT] if options.short else list(dict.fromkeys([BASELINE, *options.arms]))
    repetitions = 8 if options.short else options.repetitions
    slots = [4] if options.short else options.slots
    try:
        require_installed(options.arms)
        sources: list[Source] = (
            [*list_tasks(options.lcbench, options.tasks)]
            if options.source == "lcbench"
            else [Cifake(options.half, options.source)]
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    whole = sources[0].max_epochs
    epochs = {width: options.epochs or whole * (20 if options.short else TRAININGS.get(width, 40)) for width in slots}
    started = time.perf_counter()
    plans = [
        plan
        for width in slots
        for plan in list_plans(arms, [width], repetitions, epochs[width], sources, options.first_seed)
    ]
    results = replay(plans, options.processes)
    rows = summarize(results)
    print_tables(rows)
    told = ", ".join(f"{count} epochs at {width}" for width, count in epochs.items())
    print(f"{len(plans)} searches of {told} slots, {time.perf_counter() - started:.0f} s")
    if options.plot:
        draw(trace(results), options.plot)
    if options.json:
        figures = {"sources": [source.name for source in sources], "epochs": epochs, "rows": rows}
        options.json.write_text(json.dumps(figures | {"searches": list_searches(results)}, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20, help="searches of each arm on each source")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--arms", nargs="+", default=USUAL, choices=[*ARMS, *PEERS])
    told = ", ".join(f"{count} at {width}" for width, count in TRAININGS.items())
    parser.add_argument("--epochs", type=int, help=f"budget of a search; by its slots full trainings: {told}")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--source", default="cifake", choices=[*curves.KINDS, "lcbench"])
    parser.add_argument("--half", default="all", choices=HALVES, help="of the configurations trained on CIFAKE")
    parser.add_argument("--lcbench", type=Path, help="folder with LCBench's model.onnx and encoding.json")
    parser.add_argument("--tasks", nargs="+", default=["confirm"], help=f"LCBench: task numbers, or {', '.join(PARTS)}")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--short", action="store_true", help="two arms, 8 repetitions, 4 slots")
    return parser.parse_args()


if __name__ == "__main__":
    main()
