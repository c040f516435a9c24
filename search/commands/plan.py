"""The plan of a study, printed by --dry-run: space, rungs, epochs, retrainings."""

import math
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from search.config.conditions import list_conditions
from search.config.load import dump
from search.config.printable import escape
from search.config.schema import StudyConfig, pick_seeds
from search.config.space import Choice, Range, Spec, count_points, list_specs
from search.config.yaml import format_yaml
from search.samplers.sampler import check_sampler
from search.samplers.shares import check_shares, list_shares
from search.schedulers.rungs import list_brackets, list_rungs
from search.schedulers.scheduler import HALVING, build_scheduler
from trainables.config import get_architecture, is_function
from trainables.names import is_own
from trainables.parameters import read_sentences


def describe_plan(config: StudyConfig, console: Console) -> None:
    """Print the resolved study, its space, rungs, resources and the number of epochs to expect."""
    check_shares(config)
    check_sampler(config)
    build_scheduler(config.search)
    console.print("Study", style="bold")
    console.print(format_yaml({key: value for key, value in dump(config).items() if key != "space"}).rstrip())
    for architecture in config.search.architectures:
        granted = config.get_resources(architecture)
        console.print()
        title = f"Space of {architecture}  ({granted.cpus:g} CPUs and {granted.gpus:g} GPUs per trial)"
        is_class = is_own(architecture) and not is_function(architecture)
        meaning = read_sentences(get_architecture(architecture)) if is_class else {}
        console.print(_tabulate(list_specs(config.space, architecture), title, meaning))
    search = config.search
    low, high = estimate_epochs(config)
    rungs = list_rungs(search.first_rung, search.reduction_factor, search.max_epochs)
    console.print()
    if search.scheduler in HALVING and not rungs:
        console.print(f"Rungs: none below epoch {search.max_epochs}, so no trial is stopped")
    elif search.scheduler in HALVING:
        console.print(f"Rungs: a trial may be stopped after epoch {', '.join(map(str, rungs))} of {search.max_epochs}")
    if search.scheduler == "hyperband" and rungs:
        brackets = list_brackets(search.first_rung, search.reduction_factor, search.max_epochs)
        told = ", ".join(f"{100 * share:.0f} % from epoch {first}" for first, share in brackets[:-1])
        console.print(f"Brackets: {told} on, {100 * brackets[-1][1]:.0f} % never")
    if search.scheduler == "median":
        console.print(f"Median: a trial may be stopped after any epoch from {search.first_rung} on")
    about = f"about {low:,} if the scheduler stops its share, " if search.scheduler in HALVING else ""
    console.print(f"Epochs: {about}at most {high:,}, in {search.num_trials} trials")
    better = "smaller" if search.sign < 0 else "larger"
    console.print(f"Compared by: {search.metric} on validation, {better} is better")
    for repetition in list_repetitions(config):
        console.print(repetition)
    if config.trainable:
        return
    console.print(_describe_evaluation(config))


def _describe_evaluation(config: StudyConfig) -> str:
    search, evaluation = config.search, config.evaluation
    models = sum(pick_seeds(evaluation.seeds, name) * evaluation.top_k for name in search.architectures)
    if evaluation.baselines:  # fewer if a recipe wins itself
        named = zip(search.first, config.recipes, strict=True)
        kept = [(path, recipe) for path, recipe in named if recipe.architecture in search.architectures]
        models += sum(pick_seeds(evaluation.seeds, recipe.architecture, Path(path).stem) for path, recipe in kept)
    front = ", and of the trials on the front" if evaluation.also else ""
    images = f" with {evaluation.max_train_images} images" if evaluation.max_train_images else ""
    length = f"{'' if images else 'up to '}{search.max_epochs} epochs{images}"
    return f"Evaluation: at most {models} retrainings of {length}{front}"


def list_repetitions(config: StudyConfig) -> list[str]:
    """Return a sentence for each space that has fewer points than trials."""
    search, shares = config.search, list_shares(config)
    points = {name: count_points(config.space, name, config.data.size) for name in shares}
    if search.divide == "trials":
        due = {name: round(search.num_trials * share / sum(shares.values())) for name, share in shares.items()}
    else:  # each architecture's number of trials depends on their duration
        known = [count for count in points.values() if count is not None]
        points = {"the study": sum(known) if len(known) == len(points) else None}
        due = {"the study": search.num_trials}
    return [
        f"Space: {name} has {count:,} distinct configuration{'' if count == 1 else 's'}, fewer than its share of "
        f"{due[name]:,} trials: some are trained more than once"
        for name, count in points.items()
        if count is not None and count < due[name]
    ]


def estimate_epochs(config: StudyConfig) -> tuple[int, int]:
    """Return the epochs of the search if one in reduction_factor trials survives each rung, and if all do.

    The median scheduler counts as stopping none, since that depends on the curves alone.
    """
    search = config.search
    most = search.num_trials * search.max_epochs
    brackets = {
        "asha": [(search.first_rung, 1.0)],
        "hyperband": list_brackets(search.first_rung, search.reduction_factor, search.max_epochs),
    }.get(search.scheduler, [(search.max_epochs, 1.0)])
    spared = min(len(config.recipes), search.num_trials) if search.spare_first else 0
    expected = float(spared * search.max_epochs)
    for first, share in brackets:
        survivors, before = share * (search.num_trials - spared), 0
        for rung in [*list_rungs(first, search.reduction_factor, search.max_epochs), search.max_epochs]:
            expected += survivors * (rung - before)
            survivors, before = max(min(1.0, survivors), survivors / search.reduction_factor), rung
    limit = search.max_total_epochs or math.inf
    return int(min(expected, most, limit)), int(min(most, limit))


def _tabulate(specs: dict[str, Spec], title: str, meaning: Mapping[str, str]) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=None, pad_edge=False)
    table.add_column("parameter")
    table.add_column("may be")
    if meaning:
        table.add_column("meaning")
    conditions = list_conditions(specs)
    for name, spec in sorted(specs.items(), key=lambda item: not isinstance(item[1], Range | Choice)):
        when = [
            f"{escape(other)} = {' | '.join(map(escape, values))}" for other, values in conditions.get(name, {}).items()
        ]
        values = _describe_spec(spec) + (f", when {' and '.join(when)}" if when else "")
        table.add_row(name, values, *([escape(meaning.get(name, ""))] if meaning else []))
    return table


def _describe_spec(spec: Spec) -> str:
    if isinstance(spec, Choice):
        return " | ".join(map(escape, spec.choice))
    if not isinstance(spec, Range):
        return f"= {escape(spec)}"
    step = f", step {spec.step:g}" if spec.step else ""
    return f"{spec.low:g} to {spec.high:g}{', log' if spec.log else ''}{step}"
