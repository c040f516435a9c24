"""Evaluates a study: retrains the winners, tests each once, writes the report.

python -m search evaluate results/NAME [--set evaluation.seeds=5 ...] [--architecture NAME ...] [--report]
    [--code FOLDER]
"""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from search.cluster.checks import check_nodes
from search.cluster.nodes import connect
from search.commands.terminal import CodeOption, build_console, explain_errors
from search.config.code import import_user_code
from search.config.load import dump
from search.config.schema import StudyConfig
from search.config.untrusted import check_address
from search.datasets.prepare import prepare_data, prepare_weights
from search.datasets.sources import prepare_sources
from search.evaluation import evaluate as evaluation
from search.evaluation.choices import check_winners
from search.evaluation.result import Result
from search.listeners.wandb.tracker import build_tracker
from search.record.folder import OpenStudy, open_study
from search.record.provenance import hash_own, list_changed
from search.record.reading import load_classifiers
from search.report.publish import publish_report
from trainables.errors import InputError
from trainables.names import shorten
from trainables.pack_info import load_info

MAY_SET = ("evaluation.", "resources.", "cluster.", "tracking.", "data.path=", "data.cache=")
"""Keys that an evaluation may change."""
NAMES = ", ".join(f"{name}*" if name.endswith(".") else name.rstrip("=") for name in MAY_SET)
"""The same in words."""


def main(
    study: Annotated[str, typer.Argument(metavar="results/NAME", help="The study's folder, or its URL in a store.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help=f"Override one of {NAMES}."),
    ] = None,
    architectures: Annotated[
        list[str] | None, typer.Option("--architecture", help="Evaluate only this architecture; may be repeated.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Write the report again from the stored files; train nothing.")
    ] = False,
    code: CodeOption = None,
) -> None:
    """Retrain a study's winners, test each once on the sealed split, and write the report."""
    with explain_errors("the same command"), contextlib.ExitStack() as stack:
        console = build_console()
        if report and (architectures or any(each.startswith("evaluation.") for each in settings or ())):
            raise InputError("--report uses the stored evaluation: leave out --architecture and --set evaluation.*")
        config = _select(_read_config(study, settings or [], code, needs_code=not report), architectures)
        opened = stack.enter_context(open_study(config, console.print))
        if report:
            publish_report(evaluation.load_result(opened), opened.journal, console)
            return
        trials = opened.journal.load()
        if missing := check_winners(config, trials):
            cure = "continue the search, or name the others with --architecture"
            raise InputError(f"{' '.join(missing).rstrip('.')}: {cure}")
        packed = prepare_data(config, console)
        _check_same(config, opened.manifest, packed)
        if evaluation.is_trained(config, opened.manifest, trials, prepare_sources(config, packed, console)):
            console.print("Evaluated before with these choices; nothing to train.")
        else:
            prepare_weights(config)
            check_address(config.cluster.address, settings or [])
            nodes = stack.enter_context(connect(config))
            if config.cluster.address != "local":
                check_nodes(config, nodes, console)
        opened.manifest["config"] |= {key: dump(config)[key] for key in ("evaluation", "published")}
        conclude(opened, packed, console)


def conclude(study: OpenStudy, packed: Path, console: Console, notes: Sequence[str] = ()) -> None:
    """Evaluate a study, write its report, and record the evaluation in Weights & Biases.

    For arguments and errors see `search.evaluation.evaluate.evaluate`.
    """
    result = evaluation.evaluate(study, packed, console, notes)
    result = publish_report(result, study.journal, console)
    tracker = build_tracker(study.config, study.manifest["id"], console.print)
    tracker.on_evaluation(len(result.manifest["evaluations"]), functools.partial(_log, result))
    tracker.close()


def _log(result: Result, run: Any) -> None:
    from search.listeners.wandb.gallery import log_evaluation  # with wandb

    log_evaluation(run, result)


def _read_config(study: str, settings: Sequence[str], code: Path | None, *, needs_code: bool) -> StudyConfig:
    """Read a study's configuration with overrides, and import the code that it names."""
    for setting in settings:
        if not setting.startswith(MAY_SET):
            raise InputError(f"--set {setting}: an evaluation may change {NAMES} only")
    config = load_classifiers(study, settings)
    return dataclasses.replace(config, code=import_user_code(dump(config), code)) if needs_code else config


def _select(config: StudyConfig, architectures: Sequence[str] | None) -> StudyConfig:
    """Return the study with only the architectures to evaluate."""
    known = {shorten(name): name for name in config.search.architectures}
    if unknown := [name for name in architectures or () if name not in known]:
        raise InputError(f"--architecture {unknown[0]}: the study has {', '.join(known)}")
    wanted = tuple(name for short, name in known.items() if not architectures or short in architectures)
    return dataclasses.replace(config, search=dataclasses.replace(config.search, architectures=wanted))


def _check_same(config: StudyConfig, manifest: dict[str, Any], packed: Path) -> None:
    """Check that the images and the user's code are those of the search."""
    if load_info(packed).fingerprint != manifest["data"].get("fingerprint"):
        cure = "--set data.path=PATH names the right ones"
        raise InputError(f"{config.data.path} has other images than {config.location} was searched on: {cure}")
    if changed := list_changed(manifest["code"].get("own", {}), hash_own(config.code)):
        cure = "restore it, or continue the search with --accept-changes"
        raise InputError(f"your {changed[0]} has other content than {config.location} was searched with: {cure}")
