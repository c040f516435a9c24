"""The command line that tells Weights & Biases what it lacks of a study.

python -m search sync results/NAME

The server is asked which runs and epochs it has; the rest is sent from the journal, and an evaluation from the file
that it left in wandb/. So a second call sends nothing twice, and one that was killed is simply repeated.
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
    Board,
    connect,
    disconnect,
    kill_service,
    log_in,
    name_evaluation,
    open_sweep,
    open_trial,
    summarize,
)
from search.record.journal import Journal, State, Trial
from search.record.lease import hold
from search.record.manifest import load_study
from search.record.mirror import Copy
from trainables.errors import InputError

PARALLEL = 8
"""Runs that are sent at a time."""
TIMEOUT_S = 60.0
"""Longest time that the server may take for one step."""
FINISHED = {State.COMPLETE: "finished", State.PRUNED: "finished", State.FAIL: "failed"}
"""What W&B calls a run that was told its end."""


def main(
    place: Annotated[str, typer.Argument(metavar="results/NAME", help="The study's folder, or its URL in a store.")],
) -> None:
    """Upload to Weights & Biases what it lacks of a study: runs, epochs, the sweep, the evaluation."""
    with explain_errors("the same command"):
        try:
            is_whole = sync(place, build_console())
        except KeyboardInterrupt:
            kill_service()
            raise
    if not is_whole:
        raise typer.Exit(1)


def sync(place: Path | str, console: Console) -> bool:
    """Send what the server lacks and return whether it has all of it now.

    Raises:
        InputError: If there is no study, no run or no key, or the server cannot be asked.
    """
    import wandb

    config, record = load_study(place)
    copy = Copy(config, console.print)
    directory = config.directory
    if "id" not in record:
        raise InputError(f"{config.location}/study.yaml has no id, which resuming the study once gives it")
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(hold(copy.lock, console.print))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="cifake-search-"))
        copy.restore()
        stack.callback(copy.close)
        copy.start(lock.check)
        journal = Journal.read(config.journal, config.name)
        trials = journal.load() if journal else []
        if not trials:
            raise InputError(f"{config.location} holds no run yet: there is nothing to upload")
        board = Board(
            config=config, identity=record["id"], directory=directory, files=Path(scratch), timeout_s=TIMEOUT_S
        )
        try:
            connect()
            if not log_in():
                raise InputError("no W&B API key is set: set WANDB_API_KEY, or run `wandb login` once")
            return _sync(board, trials, len(record["evaluations"]), console)
        except wandb.Error as error:
            raise InputError(f"Weights & Biases: {str(error).partition(chr(10))[0]}") from None
        finally:
            disconnect()


def _sync(board: Board, trials: Sequence[Trial], num_evaluations: int, console: Console) -> bool:
    sweep_id = open_sweep(board)
    known = _list_known(board)
    lacking = [trial for trial in trials if not _is_known(known.get(board.name_run(trial.number)), trial, sweep_id)]
    failures = 0
    with ThreadPoolExecutor(PARALLEL) as pool:
        pending = {pool.submit(_send, board, trial, sweep_id): trial for trial in lacking}
        for future in as_completed(pending):
            trial = pending[future]
            if error := future.exception():
                failures += 1
                console.print(f"trial {trial.number} was not uploaded: {escape(error)}")
            else:
                console.print(f"trial {trial.number} {trial.architecture}: {len(trial.epochs)} epochs, {trial.state}")
    there = len(trials) - len(lacking)
    refused = _send_evaluations(board, num_evaluations, known, console)
    console.print(f"{len(lacking) - failures} uploaded, {there} were there already, {failures + refused} failed")
    return not failures + refused


def _list_known(board: Board) -> dict[str, Any]:
    """Return the study's runs that the server has, by id."""
    import wandb

    found = wandb.Api(timeout=int(TIMEOUT_S)).runs(
        board.config.tracking.project, filters={"group": board.config.name}, per_page=500
    )
    try:
        return {run.id: run for run in found}
    except ValueError:  # there is no such project yet
        return {}


def _is_known(run: Any, trial: Trial, sweep_id: str) -> bool:
    """Answer whether a run on the server, if there is one, says all that the journal says."""
    if run is None or run.sweep_name != sweep_id or run.historyLineCount < len(trial.epochs):
        return False
    return trial.state is State.RUNNING or run.state == FINISHED[trial.state]


def _send(board: Board, trial: Trial, sweep_id: str) -> None:
    run = open_trial(board, trial, is_online=True, sweep_id=sweep_id)
    if trial.state is not State.RUNNING:
        summarize(run, trial)
    run.finish(EXIT_CODES[trial.state])


def _send_evaluations(board: Board, count: int, known: dict[str, Any], console: Console) -> int:
    """Send the evaluations from the first that the server lacks, in order: `best-cnn` goes to the model sent last.

    Returns:
        How many were not sent.
    """
    names = [name_evaluation(number) for number in range(1, count + 1)]
    runs = [known.get(board.name_run(name)) for name in names]
    there = [run is not None and run.state == "finished" for run in runs]
    first = there.index(False) if False in there else count
    return sum(not _send_file(board, name, console) for name in names[first:])


def _send_file(board: Board, name: str, console: Console) -> bool:
    """Send an evaluation, if it was tracked, from its newest file, by W&B's own command."""
    import wandb

    files = board.directory.glob(f"wandb/*/run-{board.name_run(name)}.wandb")
    newest = max(files, key=lambda path: path.parent.name.removeprefix("offline-"), default=None)
    if newest is None:
        return True
    # Into the user's own account, whatever the file names.
    account = [
        f"--entity={wandb.Api(timeout=int(TIMEOUT_S)).default_entity}",
        f"--project={board.config.tracking.project}",
    ]
    command = [sys.executable, "-m", "wandb", "sync", *account, str(newest.resolve())]
    # Without the address of this process's own W&B process; its logs go where the command runs.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=board.files, env=environment)
    shown = name.replace("-", " ")
    console.print(shown if not answer.returncode else f"{shown} was not uploaded: {answer.stderr}")
    return not answer.returncode
