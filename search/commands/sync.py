"""Uploads what Weights & Biases lacks of a study.

python -m search sync results/NAME

The server is asked which runs and epochs it has. The rest is sent from the journal, and an evaluation from its offline
file in wandb/. So a second call sends nothing twice, and a killed call can be repeated.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from search.commands.terminal import build_console, explain_errors
from search.config.printable import escape
from search.listeners.wandb.runs import (
    EXIT_CODES,
    Target,
    connect,
    disconnect,
    kill_service,
    log_in,
    open_sweep,
    open_trial,
    summarize,
)
from search.record.folder import open_study
from search.record.reading import load_study
from search.record.trial import State, Trial
from trainables.errors import InputError

PARALLEL = 8
"""Number of runs that are sent at a time."""
TIMEOUT_S = 60.0
"""Seconds that the server may take for one step."""
FINISHED = {State.COMPLETE: "finished", State.PRUNED: "finished", State.FAIL: "failed"}
"""State of a trial -> state of its finished run in W&B."""


def main(
    place: Annotated[str, typer.Argument(metavar="results/NAME", help="The study's folder, or its URL in a store.")],
) -> None:
    """Upload the data of a study that Weights & Biases lacks: runs, epochs, the sweep, the evaluation."""
    with explain_errors("the same command"):
        try:
            is_whole = sync(place, build_console())
        except KeyboardInterrupt:
            kill_service()
            raise
    if not is_whole:
        raise typer.Exit(1)


def sync(place: Path | str, console: Console) -> bool:
    """Send the data that the server lacks; return whether it now has all data.

    Raises:
        InputError: If there is no study, no trial or no key, or the server does not answer.
    """
    import wandb

    config, manifest = load_study(place)
    if "id" not in manifest:
        raise InputError(f"{config.location}/study.yaml has no id: resume the study once, which sets one")
    with contextlib.ExitStack() as stack:
        study = stack.enter_context(open_study(config, console.print))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="cifake-search-"))
        trials = study.journal.load()
        if not trials:
            raise InputError(f"{config.location} has no trials yet: there is nothing to upload")
        target = Target(config=config, identity=study.manifest["id"], files=Path(scratch), timeout_s=TIMEOUT_S)
        try:
            connect()
            if not log_in():
                raise InputError("no W&B API key is set: set WANDB_API_KEY, or run `wandb login` once")
            return _sync(target, trials, len(study.manifest["evaluations"]), console)
        except wandb.Error as error:
            raise InputError(f"Weights & Biases: {str(error).partition(chr(10))[0]}") from None
        finally:
            disconnect()


def _sync(target: Target, trials: Sequence[Trial], num_evaluations: int, console: Console) -> bool:
    sweep_id = open_sweep(target)
    known = _list_known(target)
    lacking = [trial for trial in trials if not _is_known(known.get(target.name_run(trial.number)), trial, sweep_id)]
    failures = 0
    with ThreadPoolExecutor(PARALLEL) as pool:
        pending = {pool.submit(_send, target, trial, sweep_id): trial for trial in lacking}
        for future in as_completed(pending):
            trial = pending[future]
            if error := future.exception():
                failures += 1
                console.print(f"trial {trial.number} was not uploaded: {escape(error)}")
            else:
                console.print(f"trial {trial.number} {trial.architecture}: {len(trial.epochs)} epochs, {trial.state}")
    there = len(trials) - len(lacking)
    refused = _send_evaluations(target, num_evaluations, known, console)
    console.print(f"{len(lacking) - failures} uploaded, {there} already there, {failures + refused} failed")
    return not failures + refused


def _list_known(target: Target) -> dict[str, Any]:
    """Return the study's runs that the server has, by id."""
    import wandb

    found = wandb.Api(timeout=int(TIMEOUT_S)).runs(
        target.config.tracking.project, filters={"group": target.config.name}, per_page=500
    )
    try:
        return {run.id: run for run in found}
    except ValueError:  # there is no such project yet
        return {}


def _is_known(run: Any, trial: Trial, sweep_id: str) -> bool:
    """Return whether a run on the server has everything that the journal has."""
    if run is None or run.sweep_name != sweep_id or run.historyLineCount < len(trial.epochs):
        return False
    return trial.state is State.RUNNING or run.state == FINISHED[trial.state]


def _send(target: Target, trial: Trial, sweep_id: str) -> None:
    run = open_trial(target, trial, is_online=True, sweep_id=sweep_id)
    if trial.state is not State.RUNNING:
        summarize(run, trial)
    run.finish(EXIT_CODES[trial.state])


def _send_evaluations(target: Target, count: int, known: dict[str, Any], console: Console) -> int:
    """Send, in order, the evaluations from the first one that the server lacks; the last one gets the alias `best-cnn`.

    Returns:
        The number of those that failed.
    """
    names = [f"evaluation-{number}" for number in range(1, count + 1)]
    runs = [known.get(target.name_run(name)) for name in names]
    there = [run is not None and run.state == "finished" for run in runs]
    first = there.index(False) if False in there else count
    return sum(not _send_file(target, name, console) for name in names[first:])


def _send_file(target: Target, name: str, console: Console) -> bool:
    """Send an evaluation, if it was tracked, from its newest offline file, by W&B's own command."""
    import wandb

    files = target.config.directory.glob(f"wandb/*/run-{target.name_run(name)}.wandb")
    newest = max(files, key=lambda path: path.parent.name.removeprefix("offline-"), default=None)
    if newest is None:
        return True
    # Into the user's own account, not the one that the file names.
    account = [
        f"--entity={wandb.Api(timeout=int(TIMEOUT_S)).default_entity}",
        f"--project={target.config.tracking.project}",
    ]
    command = [sys.executable, "-m", "wandb", "sync", *account, str(newest.resolve())]
    # Without the address of this process's W&B service. The command writes its logs into its working folder.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=target.files, env=environment)
    shown = name.replace("-", " ")
    console.print(shown if not answer.returncode else f"{shown} was not uploaded: {answer.stderr}")
    return not answer.returncode
