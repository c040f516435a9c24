"""A search from start to end: read the study, open it, run its trials, evaluate the winners, write the report.

python -m search.run [CONFIG] [--set PATH=VALUE ...] [--name NAME] [--resume] [--accept-changes]
    [--dry-run] [--plain] [--code FOLDER]
"""

import contextlib
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from search.cluster.launch import build_delivery, run_trial
from search.cluster.nodes import Node, clear_nodes, connect, count_slots
from search.cluster.silence import Silence
from search.cluster.trials import build_job
from search.commands.terminal import CodeOption, build_console, explain_errors
from search.config.code import import_user_code
from search.config.load import apply_settings, load, parse
from search.config.schema import MANIFEST, StudyConfig
from search.config.untrusted import check_address, check_storage
from search.config.urls import is_url
from search.config.yaml import set_value
from search.datasets.prepare import prepare_data, prepare_weights
from search.listeners.log import build_live
from search.record.checkpoints import TrialCheckpoints, load_key
from search.record.folder import OpenStudy, check_absent, open_study
from search.record.journal import Journal
from search.record.manifest import load_manifest
from search.record.provenance import ROOT
from search.record.requests import Inbox, has_requests
from search.record.trial import Listener, State
from search.study import Study, check_search
from trainables.errors import InputError

DEFAULT_CONFIG = Path("configs/local.yaml")
"""Path below `ROOT`: the studies in configs/ are installed with the packages."""

SILENCE_CURE = "search.trial_timeout_s ends a trial that hangs; Ctrl-C ends the command, which can be resumed"


def main(
    config: Annotated[
        Path | None, typer.Argument(help=f"Study file, your own or a shipped one; by default {DEFAULT_CONFIG}.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a key.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study and of its folder in results/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the study of this name.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume although settings, data or code differ; this is recorded.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; train nothing.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="One line per event instead of the live view.")] = False,
    code: CodeOption = None,
) -> None:
    """Search, retrain the winners, test each once, and write the report."""
    with explain_errors("the same command with --resume"):
        overrides = [*(settings or []), *([f"name={json.dumps(name)}"] if name is not None else [])]
        stored = resume and config is None
        study = _read_stored(overrides, code) if stored else load(_locate(config), overrides)
        console = build_console()
        if dry_run:
            from search.commands.plan import describe_plan

            describe_plan(study, console)
        else:
            run_search(study, console, resume=resume, accept_changes=accept_changes, plain=plain)


def _locate(config: Path | None) -> Path:
    """Return a study's file: the shipped default, the named file, or the shipped file of that name if it is missing."""
    if config is None:
        return ROOT / DEFAULT_CONFIG
    return ROOT / config if config.parts[:1] == ("configs",) and not config.exists() else config


def _read_stored(overrides: list[str], code: Path | None = None) -> StudyConfig:
    """Return the configuration of the stored study that the overrides name, as it was last started.

    Files in them are named relative to the working directory.
    """
    wanted: dict[str, Any] = {"results": "results", "name": load(ROOT / DEFAULT_CONFIG).name}
    for override in overrides:
        set_value(wanted, override)
    if not isinstance(wanted["results"], str) or not isinstance(wanted["name"], str):
        raise InputError("name and results must be text")
    place = f"{wanted['results'].rstrip('/')}/{wanted['name']}"
    if is_url(place):
        from search.record.reading import fetch_manifest

        manifest = fetch_manifest(place)
    elif (Path(place) / MANIFEST).exists():
        manifest = load_manifest(Path(place))
    else:
        raise InputError(f"there is no study in {place} to resume: name its CONFIG to start it")
    before: dict[str, Any] = manifest["config"] | {"results": wanted["results"]}  # the study may have been moved
    apply_settings(before, overrides, Path())
    before["code"] = import_user_code(before, code, "name its CONFIG, or its folder with --code")
    config = parse(before)
    check_storage(config.storage, overrides)
    check_address(config.cluster.address, overrides)
    return config


def run_search(config: StudyConfig, console: Console, *, resume: bool, accept_changes: bool, plain: bool) -> Study:
    """Start or continue a study, evaluate it, and return it; Ray starts only if something is left to train.

    The options are those of the command line; without `resume`, no study of this name may exist.
    """
    check_absent(config, resume=resume)
    check_search(config)
    packed = None if config.trainable else prepare_data(config, console)
    sources: list[Any] = []
    if packed and config.evaluation.also:
        from search.datasets.sources import prepare_sources  # imports torch, so only if the study has sources

        sources = prepare_sources(config, packed, console)
    prepare_weights(config)
    with contextlib.ExitStack() as stack:
        nodes = []
        if accept_changes or not _is_over(config, packed, sources):
            nodes = stack.enter_context(connect(config))
            if config.cluster.address != "local":
                from search.cluster.checks import check_nodes

                check_nodes(config, nodes, console)
        opened = stack.enter_context(
            open_study(config, console.print, is_search=True, packed=packed, accept_changes=accept_changes)
        )
        study, halted = _search(opened, packed, nodes, console, plain=plain)
        from search.report.trials import write_trials

        for name in ("trials.csv", "trials.parquet"):
            write_trials(study.trials, config.directory / name)
        notes = [f"The search ended early: {halted}."] if halted else []
        evaluate(opened, packed, console, notes)
        return study


def _is_over(config: StudyConfig, packed: Path | None, sources: Sequence[Any]) -> bool:
    """Return whether a study in a folder has nothing left to search or to retrain."""
    journal = None
    if not config.url and (config.directory / MANIFEST).exists() and not has_requests(config.directory):
        with contextlib.suppress(InputError):  # opening it repairs or refuses it
            journal = Journal.read(config.journal, config.name)
    if journal is None:
        return False
    trials = journal.load()
    journal.close()
    if len(trials) < config.search.num_trials or State.RUNNING in {trial.state for trial in trials}:
        return False
    if packed is None:
        return True
    from search.evaluation.choices import check_winners
    from search.evaluation.evaluate import is_trained  # imports torch

    return not check_winners(config, trials) and is_trained(config, load_manifest(config.directory), trials, sources)


def _search(
    opened: OpenStudy, packed: Path | None, nodes: Sequence[Node], console: Console, *, plain: bool
) -> tuple[Study, str | None]:
    """Run the trials, if there are nodes; return the study, and why it halted early, or None."""
    config, journal = opened.config, opened.journal
    with contextlib.ExitStack() as stack:
        trials = journal.load()
        live = build_live(config, console=console, trials=trials, elapsed_s=journal.elapsed_s, plain=plain)
        stack.callback(live.close)
        checkpoints = TrialCheckpoints(config.directory / "checkpoints")
        listeners: list[Listener] = [*filter(None, [opened.mirror]), checkpoints]
        if config.tracking.mode != "off":
            from search.listeners.wandb.tracker import build_tracker

            listeners.append(tracker := build_tracker(config, opened.manifest["id"], live.note))
            stack.callback(tracker.close)
        stack.callback(checkpoints.close)
        listeners += [live, silence := Silence(config.search.trial_timeout_s, live.note, SILENCE_CURE)]
        stack.callback(silence.close)
        if config.tracking.tensorboard:
            from search.listeners.tensorboard import EventFiles

            listeners.append(events := EventFiles(config.directory / "tensorboard"))
            stack.callback(events.close)
            events.write_missing(trials)
        study = Study(config, journal, listeners, opened.learnt)
        checkpoints.delete_leftovers(study.trials)
        if opened.mirror:
            opened.mirror.delete_leftovers(study.trials)
        inbox = Inbox(config.directory, live.note)
        halted = _run_trials(study, opened, packed, nodes, checkpoints, inbox) if nodes else None
    return study, halted


def _run_trials(
    study: Study,
    opened: OpenStudy,
    packed: Path | None,
    nodes: Sequence[Node],
    checkpoints: TrialCheckpoints,
    inbox: Inbox,
) -> str | None:
    from search.cluster.runner import run_study  # imports Ray Tune while the workers of a new Ray start

    config = opened.config
    _clear_nodes(config, study)
    key = load_key() if config.trainable else b""
    halted = run_study(
        study,
        functools.partial(run_trial, build_delivery(config, packed)),
        lambda trial: build_job(
            config, trial, packed, checkpoints.get_path(trial.number), manifest=opened.manifest, key=key
        ),
        slots=count_slots(config, nodes),
        inbox=inbox,
    )
    _clear_nodes(config, study)
    return halted


def _clear_nodes(config: StudyConfig, study: Study) -> None:
    """Delete the checkpoints of ended trials on nodes with folders of their own."""
    if config.url and config.cluster.address != "local":
        kept = {trial.number for trial in study.trials if trial.state is State.RUNNING}
        clear_nodes(f"{config.working_folder}/checkpoints", kept)


def evaluate(opened: OpenStudy, packed: Path | None, console: Console, notes: Sequence[str]) -> None:
    """Evaluate the winners and write the report as the command `evaluate` does; for a function, report the search."""
    from search.commands.evaluate import conclude  # imports torch, pandas, matplotlib and plotly: no trial waits
    from search.report.publish import publish_search

    if packed is None:
        publish_search(opened, console, notes)
    else:
        conclude(opened, packed, console, notes)


if __name__ == "__main__":
    typer.run(main)
