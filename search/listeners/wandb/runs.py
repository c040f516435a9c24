"""The runs of a study in Weights & Biases: one per trial, in the study's sweep, and one per evaluation.

A run is named after the study, the id in its study.yaml, and the trial. So a resumed trial continues its run, and no
other study overwrites it, not even one of the same name. A run has nothing that the journal lacks.
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
from search.config.untrusted import parse_json, read_file
from search.record.trial import State, Trial
from trainables.durable import write_file

SERVER_TIMEOUT_S = 3.0
"""Seconds that the server may take to open or finish a run during a search."""
DISCONNECT_S = 2.0
"""Seconds that W&B's service may take to end if no run is open; it rarely takes 0.1."""
FREE_BYTES = 16 * 2**20
"""Fewest free bytes of a disk on which runs are opened: on a full disk W&B's service drops data silently."""
SWEEP_BYTES = 64 * 2**10
"""Most bytes of sweep.json, which has a hundred."""
TAG_LENGTH = 64
"""Most characters of a tag; W&B refuses a run with a longer one."""
EXIT_CODES = {State.COMPLETE: 0, State.PRUNED: 0, State.FAIL: 1, State.RUNNING: 255}
"""Exit codes of runs: W&B shows 0 as finished, 1 as failed, 255 as killed (an interrupted trial)."""
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
    "x_transaction_log_flush_interval": 1.0,  # seconds of a run's file that a kill can lose; W&B's default is 15
    "finish_timeout_raises": True,
    "stop_fn": lambda: None,  # by default a run's stop button interrupts the whole search
}
"""Settings of every run: no output, and nothing collected except what is logged."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the runs of one study are recorded."""

    config: StudyConfig
    identity: str
    """The study's id in study.yaml."""
    files: Path
    """Folder in which W&B writes its files, in wandb/."""
    timeout_s: float = SERVER_TIMEOUT_S
    """Seconds that the server may take to open or finish a run."""

    def name_run(self, what: str | int) -> str:
        """Return the id of the run of a trial, given its number, or of another run, given its name."""
        end = f"{what:04d}" if isinstance(what, int) else what
        return re.sub(r"[^\w.-]", "_", f"{self.config.name}-{self.identity}-{end}")


def connect() -> None:
    """Start W&B's service, which the other functions need."""
    import wandb

    logging.getLogger("wandb").setLevel(logging.CRITICAL)  # no debug.log, and no tracebacks if the disk is full
    wandb.setup(wandb.Settings(silent=True))


def disconnect(patience_s: float = DISCONNECT_S) -> None:
    """Stop W&B's service; it is killed after `patience_s` seconds, since a failing request can keep it alive."""
    import wandb
    from wandb.sdk import wandb_setup

    left: Any = wandb_setup.singleton()
    timer = threading.Timer(patience_s, kill_service)
    timer.start()
    try:
        wandb.teardown()
    except SystemExit:  # W&B ends the interpreter if its service was killed
        wandb.teardown()  # removes the rest of it
    except ConnectionError:  # the service died before; W&B's threads are daemons and notice it
        left._connection._proc.join()
    finally:
        timer.cancel()
        timer.join()


def kill_service() -> None:
    """Kill W&B's service; its files keep what the server did not receive."""
    from wandb.sdk import wandb_setup

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if not child.name().startswith("wandb-core"):
                continue
            child.kill()
            connection: Any = wandb_setup.singleton()._connection
            if connection is not None and connection._proc is not None:
                connection._proc.join()  # W&B started the process, so only W&B can wait for it


def is_dead(error: BaseException | str) -> bool:
    """Return whether an error means that W&B's service has died."""
    from wandb.sdk.mailbox import MailboxClosedError

    return isinstance(error, (ConnectionError, MailboxClosedError))


def log_in() -> bool:
    """Read the key from the environment, netrc or W&B's settings; return whether there is one.

    Raises:
        wandb.Error: If the key is malformed.
    """
    import wandb
    import wandb.apis.public  # now, because W&B's threads import it too: two threads or an interrupt could collide

    return bool(wandb.login(prompt=False, verify=False))


def open_sweep(target: Target) -> str:
    """Return the id of the study's sweep; create the sweep unless sweep.json in the study's folder has its id.

    Raises:
        wandb.Error: If the server refuses or fails.
    """
    import wandb
    from wandb.apis.public.sweeps import _upsert_sweep  # wandb.sweep calls this, and also prints

    from search.listeners.wandb.sweep import describe_sweep

    place = {"server": wandb.setup().settings.base_url, "project": target.config.tracking.project}
    path = target.config.directory / "sweep.json"
    known: Any = None
    with contextlib.suppress(OSError, ValueError):  # there is none; or a stranger's is damaged, and is replaced
        known = parse_json(read_file(path, SWEEP_BYTES))
    if isinstance(known, dict) and known.items() >= place.items() and isinstance(known.get("id"), str):
        return str(known["id"])
    before = {name: os.environ.get(name) for name in ("WANDB_ENTITY", "WANDB_PROJECT")}
    try:
        api = wandb.Api(timeout=max(1, int(target.timeout_s)))
        sweep, _ = _upsert_sweep(api, describe_sweep(target.config), project=target.config.tracking.project)
    finally:  # W&B sets them for its agents
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    write_file(path, json.dumps({**place, "id": sweep["name"]}).encode())
    return str(sweep["name"])


def open_run(target: Target, what: str | int, *, is_online: bool, sweep_id: str | None = None, **options: Any) -> Any:
    """Open a run of the study.

    Args:
        target: The study.
        what: A trial's number, or the name of another run.
        is_online: Whether to send to the server, or write a file only.
        sweep_id: The sweep that the run belongs to, if any.
        options: More arguments of wandb.init.

    Raises:
        wandb.Error: If it cannot be opened.
        OSError: If the files cannot be written.
    """
    import wandb

    target.files.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(target.files).free) < FREE_BYTES:
        raise OSError(f"{free / 2**20:.1f} MiB are free on the disk of {target.files}")
    timeouts = {"init_timeout": target.timeout_s, "finish_timeout": target.timeout_s}
    return wandb.init(
        project=target.config.tracking.project,
        group=target.config.name,
        id=target.name_run(what),
        dir=target.files,
        mode="online" if is_online else "offline",
        reinit="create_new",
        settings={**SETTINGS, **timeouts, "sweep_id": sweep_id},
        **options,
    )


def open_trial(target: Target, trial: Trial, *, is_online: bool, sweep_id: str | None = None) -> Any:
    """Open or continue a trial's run and log the epochs that the server lacks.

    Raises:
        wandb.Error: If it cannot be opened.
        OSError: If the files cannot be written.
    """
    run = open_run(
        target,
        trial.number,
        is_online=is_online,
        sweep_id=sweep_id,
        job_type="trial",
        name=f"trial {trial.number} {trial.architecture}",
        tags=[trial.architecture[:TAG_LENGTH], State.RUNNING.value],
        config={"architecture": trial.architecture, **trial.params},
        resume="allow" if trial.epochs else None,
    )
    run.define_metric("*", step_metric="epoch")
    for name, best in {"accuracy": "max", "loss": "min", trial.metric: "min" if trial.sign < 0 else "max"}.items():
        run.define_metric(name, step_metric="epoch", summary=best)
    if not run.offline:  # the server knows how many epochs it received before the interruption
        for epoch in range(max(run.starting_step, 1), len(trial.epochs) + 1):
            run.log(trial.epochs[epoch - 1], step=epoch, commit=True)
    return run


def summarize(run: Any, trial: Trial) -> None:
    """Write the result of a trial into the summary of its run."""
    summary = {"state": trial.state.value, "reason": trial.reason, **trial.attributes}
    if trial.epochs:
        summary[f"best_{trial.metric}"], summary["best_epoch"] = trial.get_peak()
    run.summary.update(summary)
    run.tags = (trial.architecture[:TAG_LENGTH], trial.state.value)
