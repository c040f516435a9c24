"""The command line of the evaluation: retrains the winners of a study, tests each once, writes the report.

python -m search evaluate results/NAME [--set evaluation.seeds=5 ...] [--architecture NAME ...] [--report]
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from search.cluster.checks import check_nodes
from search.cluster.nodes import connect
from search.commands.terminal import build_console, explain_errors
from search.config.schema import Architecture, StudyConfig, dump
from search.config.untrusted import check_address
from search.datasets.prepare import prepare_data, prepare_weights
from search.evaluation import evaluate as evaluation
from search.evaluation.choices import check_winners
from search.listeners.wandb.tracker import build_tracker
from search.record.journal import Journal, Trial
from search.record.lease import hold
from search.record.manifest import load_record, load_study
from search.record.mirror import Copy
from search.report.publish import publish_report
from trainables.errors import InputError
from trainables.record import load_info

MAY_SET = ("evaluation.", "resources.", "cluster.", "tracking.", "data.path=", "data.cache=")
"""How and where winners are retrained; all else is the study's."""


def main(
    study: Annotated[
        str, typer.Argument(metavar="results/NAME", help="Folder of a study, or its s3://BUCKET/PREFIX/NAME.")
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a key of evaluation or resources.")
    ] = None,
    architectures: Annotated[
        list[str] | None, typer.Option("--architecture", help="Evaluate this one only; may be repeated.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Write the report again from what is stored; train nothing.")
    ] = False,
) -> None:
    """Retrain a study's winners, test each once on the sealed split, and write the report."""
    with explain_errors("the same command"), contextlib.ExitStack() as stack:
        console = build_console()
        if report and (architectures or any(each.startswith("evaluation.") for each in settings or ())):
            raise InputError("--report writes what is stored: leave out --architecture and --set evaluation.*")
        config = _read_config(study, settings or [])
        copy = Copy(config, console.print)
        lock = stack.enter_context(hold(copy.lock, console.print))
        copy.restore()
        record = load_record(config.directory)
        _check_journal(config)
        journal = Journal(config.journal, config.name, note=console.print, check=copy.choose_check(lock.check))
        stack.callback(journal.close)
        stack.callback(copy.close)
        copy.start(lock.check)
        if report:
            publish_report(evaluation.load_result(config, record, journal), journal, console)
            return
        trials = journal.load()
        chosen = _select(config, architectures)
        _check_finished(chosen, trials)
        packed = prepare_data(config, console)
        _check_data(config, record, packed)
        if evaluation.is_trained(chosen, record, trials):
            console.print("Evaluated before with these choices; nothing to train.")
        else:
            prepare_weights(chosen)
            check_address(chosen.cluster.address, settings or [])
            check_nodes(chosen, stack.enter_context(connect(chosen)), console)
        record["config"]["evaluation"] = dump(config)["evaluation"]
        conclude(chosen, record, journal, packed, console, copy)


def conclude(
    config: StudyConfig,
    record: dict[str, Any],
    journal: Journal,
    packed: Path,
    console: Console,
    copy: Copy,
    notes: Sequence[str] = (),
) -> None:
    """Evaluate a study, write its report, and record the evaluation in Weights & Biases.

    Args and errors: see `search.evaluation.evaluate.evaluate`.
    """
    result = evaluation.evaluate(config, record, journal, packed, console, copy, notes)
    result = publish_report(result, journal, console)
    tracker = build_tracker(config, record["id"], console.print)
    tracker.on_evaluation(result)
    tracker.close()


def _read_config(study: str, settings: Sequence[str]) -> StudyConfig:
    """Read a study's configuration with overrides."""
    for setting in settings:
        if not setting.startswith(MAY_SET):
            known = ", ".join(f"{name}*" if name.endswith(".") else name.rstrip("=") for name in MAY_SET)
            raise InputError(f"--set {setting}: an evaluation may change {known} only; all else is the study's")
    return load_study(study, settings)[0]


def _check_journal(config: StudyConfig) -> None:
    if isinstance(config.journal, Path) and not config.journal.exists():
        raise InputError(f"{config.place} has no study.journal: nothing was searched there")


def _select(config: StudyConfig, architectures: Sequence[str] | None) -> StudyConfig:
    """Return the study with the architectures to evaluate alone."""
    known: dict[str, Architecture] = {str(name): name for name in config.search.architectures}
    if unknown := [name for name in architectures or () if name not in known]:
        raise InputError(f"--architecture {unknown[0]}: the study has {', '.join(known)}")
    wanted = tuple(name for text, name in known.items() if not architectures or text in architectures)
    return dataclasses.replace(config, search=dataclasses.replace(config.search, architectures=wanted))


def _check_finished(config: StudyConfig, trials: Sequence[Trial]) -> None:
    if missing := check_winners(config, trials):
        cure = "go on with the search, or name the others with --architecture"
        raise InputError(f"{' '.join(missing).rstrip('.')}: {cure}")


def _check_data(config: StudyConfig, record: dict[str, Any], packed: Path) -> None:
    if load_info(packed).fingerprint != record["data"].get("fingerprint"):
        cure = "--set data.path=PATH names the right ones"
        raise InputError(f"{config.data.path} holds other images than {config.place} was searched on: {cure}")
