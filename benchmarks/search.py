"""Runs the same search with this project and with other libraries, in turns, and compares their use of the same cores.

    python -m benchmarks.search [--data PATH] [--trials 24] [--images 3000] [--epochs 3] [--slots 2] [--rounds 3]
        [--sides ours ray_tune optuna_alone syne] [--precision own] [--no-kills] [--json PATH] [--short]

All train the same fixed list of small CNNs for the same epochs, one core for each trial; schedulers and samplers are
active, but stop no trial. Figures are medians over interleaved rounds, each search in a new process:

wall        seconds from the start of the program to its end, packing the images included
first step  seconds from the start of the program to the first training step that any of its processes has done
training    seconds inside training, summed over the trials
efficiency  training / (slots x wall)
beyond      seconds of a slot that a trial costs beyond its training: (slots x wall - training) / trials
memory      largest sum of the proportional set sizes of all its processes
processes   most at a time
lost        epochs that the finished search lacks, or that were trained twice, after it was killed (SIGKILL, the
            whole tree) halfway and continued as its documentation says; `all` if that fails

With these sizes a trial takes a few seconds, so starting costs as much as training. For the efficiency of a search
whose trials last 20 seconds, use `--sides ours --images 12000 --epochs 10 --rounds 1 --no-kills`. Optuna and Syne Tune
track nothing, the other two write W&B's offline files. `--precision bfloat16` gives all sides the same precision, which
the peers' guides do not set. With `own`, ours is bfloat16 where the processor multiplies it natively, and theirs is
float32. Syne Tune is in the extra `peers`; if it is not installed, it is left out. Without --data, the images are
made-up JPEGs.
"""

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.plan import Plan
from benchmarks.processes import ROOT, kill_tree, look
from benchmarks.training import prepare

SIDES = ("ours", "ray_tune", "optuna_alone", "syne")
SAMPLE_S = 1.0
"""Seconds between two readings of memory and processes."""
LIMIT_S = 3600.0
"""A search that takes longer counts as failed."""
COLUMNS = ("wall, s", "first step, s", "training, s", "efficiency", "beyond, s", "memory, MB", "processes", "lost")


def draw_configs(count: int) -> list[dict[str, Any]]:
    """Return the fixed list of trials; all learning rates differ."""
    draw = random.Random(0)
    return [
        {
            "learning_rate": 10 ** draw.uniform(-3.5, -2.0),
            "batch_size": draw.choice((64, 128)),
            "num_blocks": draw.choice((2, 3)),
            "filters": draw.choice((16, 32)),
            "batch_norm": draw.choice((False, True)),
        }
        for _ in range(count)
    ]


def measure(side: str, plan: Plan, *, kill_after_s: float | None = None) -> dict[str, float]:
    """Search once, in a new process and folder, and return its figures.

    Args:
        side: One of SIDES.
        plan: The plan that all searches follow.
        kill_after_s: Seconds after which it is killed and started again in its folder; None does not kill it.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        (folder / "plan.json").write_text(json.dumps(asdict(plan)), encoding="utf-8")
        if kill_after_s is not None:
            _watch(side, folder, kill_after_s)
        began = time.time()
        figures, held = _watch(side, folder, None)
        steps = [float(line) for line in (folder / "stepped").read_text(encoding="utf-8").splitlines()]
        lines = set((folder / "trained").read_text(encoding="utf-8").splitlines())
    figures["training_seconds"] = sum(float(line.split()[2]) for line in lines)
    figures["epochs_lost"] = count_lost(lines, held, plan)
    figures["first_step_seconds"] = min(steps) - began
    granted = plan.slots * figures["wall_seconds"]
    figures["efficiency"] = figures["training_seconds"] / granted
    figures["seconds_beyond_per_trial"] = (granted - figures["training_seconds"]) / len(plan.configs)
    return figures


def count_lost(lines: Collection[str], held: int, plan: Plan) -> int:
    """Return how many epochs a finished search lacks or has trained again, as one number.

    A trial that was killed and never continues is missing with all its epochs, also those that were never trained.

    Args:
        lines: What `note` wrote: learning rate, epoch, seconds. An epoch that was reported twice and trained once has
            one line, because its seconds are the same.
        held: Number of epochs that the search reports to hold.
        plan: The plan that it had to follow.
    """
    num_again = len(lines) - len({tuple(line.split()[:2]) for line in lines})
    return len(plan.configs) * plan.epochs - held + num_again


def _watch(side: str, folder: Path, kill_after_s: float | None) -> tuple[dict[str, float], int]:
    """Run one program until it ends or is killed; return its figures and the number of epochs that it reports."""
    command = [sys.executable, "-m", f"benchmarks.peers.{side}", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
    memory, processes, began = 0.0, 0, time.monotonic()
    limit = LIMIT_S if kill_after_s is None else kill_after_s
    with (folder / "output").open("w+", encoding="utf-8") as output, (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=errors, start_new_session=True
        )
        try:
            while process.poll() is None and time.monotonic() - began < limit:
                found = look(process.pid)
                memory, processes = max(memory, found[0]), max(processes, found[1])
                time.sleep(min(SAMPLE_S, max(0.0, limit - (time.monotonic() - began))))
        finally:
            was_killed = process.poll() is None
            kill_tree(process)
        figures = {"wall_seconds": time.monotonic() - began, "memory_bytes": memory, "processes": float(processes)}
        if kill_after_s is not None:
            return figures, 0
        if was_killed or process.returncode:
            errors.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, stderr=errors.read()[-2000:])
        output.seek(0)
        held = [json.loads(line)["epochs_held"] for line in output if line.startswith('{"epochs_held"')]
    return figures, held[-1]


def _lose(side: str, plan: Plan, wall_s: float) -> int | None:
    """Return how many epochs a kill halfway costs; None if the search cannot be continued."""
    try:
        return int(measure(side, plan, kill_after_s=wall_s / 2)["epochs_lost"])
    except subprocess.CalledProcessError as error:
        print(f"{side}: cannot be continued after a kill: {_last_line(error)}", file=sys.stderr)
        return None


def _last_line(error: subprocess.CalledProcessError) -> str:
    return (error.stderr or "").strip().rpartition("\n")[2] or f"exit code {error.returncode}"


def compare(plan: Plan, sides: list[str], rounds: int, *, kills: bool = True) -> dict[str, dict[str, Any]]:
    """Return the medians of each side over interleaved rounds, and the epochs that a kill costs it."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            found[side].append(measure(side, plan))
    figures: dict[str, dict[str, Any]] = {}
    for side, runs in found.items():
        figures[side] = {
            name: statistics.median(run[name] for run in runs) for name in runs[0] if name != "epochs_lost"
        }
        if kills:
            figures[side]["epochs_lost"] = _lose(side, plan, figures[side]["wall_seconds"])
    return figures


def main() -> None:
    """Measure, print and, if asked, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder or zip in CIFAKE's layout")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--images", type=int, default=3000, help="training images, a fifth of them for validation")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--slots", type=int, default=2, help="trials that run at the same time, one core each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--precision", choices=("own", "float32", "bfloat16"), default="own", help="own: by side")
    parser.add_argument("--no-kills", action="store_true", help="leave out the last column")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--short", action="store_true", help="three trials of few images, one round: does it run?")
    arguments = parser.parse_args()
    sides, rounds = list(arguments.sides), arguments.rounds
    trials, images, epochs = arguments.trials, arguments.images, arguments.epochs
    if arguments.short:
        trials, images, epochs, rounds = 3, 400, 2, 1
    if "syne" in sides and importlib.util.find_spec("syne_tune") is None:
        print("Syne Tune is left out: it is not installed (pip install '.[peers]').")
        sides.remove("syne")
    with tempfile.TemporaryDirectory() as scratch:
        data = prepare(Path(scratch), arguments.data, images)
        plan = Plan(
            data=str(data),
            val_fraction=0.2,
            epochs=epochs,
            slots=arguments.slots,
            precision=arguments.precision,
            configs=draw_configs(trials),
        )
        figures = compare(plan, sides, rounds, kills=not arguments.no_kills)
    print(
        f"{trials} trials of {epochs} epochs on {images} images, {arguments.slots} at a time, precision "
        f"{arguments.precision}; medians of {rounds}"
    )
    print(f"{'':13}" + "".join(f"{name:>15}" for name in COLUMNS))
    for side, row in figures.items():
        lost = "all" if row.get("epochs_lost", 0) is None else str(row.get("epochs_lost", ""))
        cells = [f"{row['wall_seconds']:.1f}", f"{row['first_step_seconds']:.1f}", f"{row['training_seconds']:.1f}"]
        cells += [f"{row['efficiency']:.2f}", f"{row['seconds_beyond_per_trial']:.2f}"]
        cells += [f"{row['memory_bytes'] / 1e6:,.0f}", f"{row['processes']:.0f}", lost]
        print(f"{side:13}" + "".join(f"{cell:>15}" for cell in cells))
    if arguments.json:
        sizes = {"trials": trials, "images": images, "epochs": epochs, "slots": arguments.slots, "rounds": rounds}
        sizes["precision"] = arguments.precision
        arguments.json.write_text(json.dumps({**sizes, "sides": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
