"""The runs of a study in Weights & Biases, one per trial and one per evaluation, and the sweep that holds the trials'.

A run is named after the study, the id in its study.yaml and the trial: a resumed trial continues its run, and no other
study, not even one of the same name, ever writes over it. A run holds nothing that the journal does not.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import psutil

from search.config.schema import StudyConfig
from search.listeners.wandb.sweep import describe_sweep
from search.record.trial import State, Trial
from trainables.durable import write_file

SERVER_TIMEOUT_S = 3.0
"""Longest time that the server may take to open a run, or to take in the rest of one that ends, during a search."""
DISCONNECT_S = 2.0
"""Longest time that W&B's own process may take to end once no run is open; it rarely takes a tenth of a second."""
FREE_BYTES = 16 * 2**20
"""Where the disk has less than this left no run is opened, because W&B's own process drops data without a word."""
EXIT_CODES = {State.COMPLETE: 0, State.PRUNED: 0, State.FAIL: 1, State.RUNNING: 255}
"""W&B shows 0 as finished, 1 as failed and 255 as killed, which is what an interrupted search leaves."""
SETTINGS = {
    "silent": True,
    "console": "off",
    "symlink": False,
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": 1.0,  # what a kill can lose of a run's file; W&B's default is 15 s
    "finish_timeout_raises": True,
    "stop_fn": lambda: None,  # by default the stop button of one run interrupts the whole search
}
"""Of every run: no output, and nothing gathered beside what is logged."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Where the runs of one study go."""

    config: StudyConfig
    identity: str
    """The id in study.yaml."""
    directory: Path
    """The study's folder."""
    files: Path
    """W&B writes its files into wandb/ below this."""
    timeout_s: float = SERVER_TIMEOUT_S
    """Longest time that the server may take to open a run, or to take in the rest of one that ends."""

    def name_run(self, what: str | int) -> str:
        """Return the id of a trial's run, by its number, or of another run of the study."""
        end = f"{what:04d}" if isinstance(what, int) else what
        return re.sub(r"[^\w.-]", "_", f"{self.config.name}-{self.identity}-{end}")


def name_evaluation(number: int) -> str:
    """Return what the run is named after that shows an evaluation: its place in study.yaml, from 1."""
    return f"evaluation-{number}"


def connect() -> None:
    """Start W&B, which the other functions need."""
    import wandb

    logging.getLogger("wandb").setLevel(logging.CRITICAL)  # its debug.log, and tracebacks where the disk is full
    wandb.setup(wandb.Settings(silent=True))


def disconnect(patience_s: float = DISCONNECT_S) -> None:
    """Stop W&B's own process, which is killed after that many seconds: a request that a server fails can keep it."""
    import wandb
    from wandb.sdk import wandb_setup

    left: Any = wandb_setup.singleton()
    timer = threading.Timer(patience_s, kill_service)
    timer.start()
    try:
        wandb.teardown()
    except SystemExit:  # W&B leaves the interpreter where its process was killed
        wandb.teardown()  # what was left of it
    except ConnectionError:  # that process died before; W&B's threads, all daemons, notice it by themselves
        left._connection._proc.join()
    finally:
        timer.cancel()
        timer.join()


def kill_service() -> None:
    """End W&B's own process at once; its files keep what the server did not take in."""
    from wandb.sdk import wandb_setup

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if not child.name().startswith("wandb-core"):
                continue
            child.kill()
            connection: Any = wandb_setup.singleton()._connection
            if connection is not None and connection._proc is not None:
                connection._proc.join()  # W&B started the process, so only W&B can learn that it has ended


def is_dead(error: BaseException | str) -> bool:
    """Answer whether this is what W&B raises once its own process has died."""
    from wandb.sdk.mailbox import MailboxClosedError

    return isinstance(error, (ConnectionError, MailboxClosedError))


def log_in() -> bool:
    """Take the key from the environment, netrc or W&B's settings, and return whether there is one.

    Raises:
        wandb.Error: If it cannot be one.
    """
    import wandb
    import wandb.apis.public.sweeps  # now: amid an import, open_sweep must not be given up

    return bool(wandb.login(prompt=False, verify=False))


def open_sweep(board: Board) -> str:
    """Return the id of the study's sweep, which is created unless sweep.json in the study's folder names it.

    Raises:
        wandb.Error: If the server refuses or fails.
    """
    import wandb
    from wandb.apis.public.sweeps import _upsert_sweep  # what wandb.sweep calls; that one prints

    place = {"server": wandb.setup().settings.base_url, "project": board.config.tracking.project}
    path = board.directory / "sweep.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if known.items() >= place.items():
        return str(known["id"])
    before = {name: os.environ.get(name) for name in ("WANDB_ENTITY", "WANDB_PROJECT")}
    try:
        api = wandb.Api(timeout=max(1, int(board.timeout_s)))
        sweep, _ = _upsert_sweep(api, describe_sweep(board.config), project=board.config.tracking.project)
    finally:  # it sets them, for agents
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    write_file(path, json.dumps({**place, "id": sweep["name"]}).encode())
    return str(sweep["name"])


def open_run(board: Board, what: str | int, *, is_online: bool, sweep_id: str | None = None, **options: Any) -> Any:
    """Open a run of the study.

    Args:
        board: The study.
        what: Of which the run is: a trial's number or another name.
        is_online: Whether the server is told, or a file only.
        sweep_id: The sweep that the run belongs to, if any.
        options: More arguments of wandb.init.

    Raises:
        wandb.Error: If it cannot be opened.
        OSError: If the files cannot be written.
    """
    import wandb

    board.files.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(board.files).free) < FREE_BYTES:
        raise OSError(f"{free / 2**20:.1f} MiB are free on the disk of {board.files}")
    timeouts = {"init_timeout": board.timeout_s, "finish_timeout": board.timeout_s}
    return wandb.init(
        project=board.config.tracking.project,
        group=board.config.name,
        id=board.name_run(what),
        dir=board.files,
        mode="online" if is_online else "offline",
        reinit="create_new",
        settings={**SETTINGS, **timeouts, "sweep_id": sweep_id},
        **options,
    )


def open_trial(board: Board, trial: Trial, *, is_online: bool, sweep_id: str | None = None) -> Any:
    """Open a trial's run, continue it if there is one, and log the epochs that the server lacks.

    Raises:
        wandb.Error: If it cannot be opened.
        OSError: If the files cannot be written.
    """
    run = open_run(
        board,
        trial.number,
        is_online=is_online,
        sweep_id=sweep_id,
        job_type="trial",
        name=f"trial {trial.number} {trial.architecture}",
        tags=[trial.architecture, State.RUNNING.value],
        config={"architecture": trial.architecture, **trial.params},
        resume="allow" if trial.epochs else None,
    )
    run.define_metric("*", step_metric="epoch")
    run.define_metric("accuracy", step_metric="epoch", summary="max")
    run.define_metric("loss", step_metric="epoch", summary="min")
    if not run.offline:  # the server says how far it got before the search was cut
        for epoch in range(max(run.starting_step, 1), len(trial.epochs) + 1):
            run.log(trial.epochs[epoch - 1], step=epoch, commit=True)
    return run


def summarize(run: Any, trial: Trial) -> None:
    """Write into a trial's run how the trial ended."""
    summary = {"state": trial.state.value, "reason": trial.reason, **trial.attributes}
    if trial.epochs:
        summary["best_accuracy"], summary["best_epoch"] = trial.get_peak()
    run.summary.update(summary)
    run.tags = (trial.architecture, trial.state.value)
