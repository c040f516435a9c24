"""The plan of a study, printed by --dry-run: space, rungs, epochs, retrainings."""

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from rich.console import Console
from rich.table import Table

from search.config.conditions import drop_inactive, is_active, list_conditions
from search.config.load import dump
from search.config.printable import escape
from search.config.rungs import list_brackets, list_rungs
from search.config.schema import StudyConfig, pick_seeds
from search.config.search import SearchConfig
from search.config.space import Choice, Range, Space, Spec, describe, get_hint, list_specs
from search.config.yaml import format_yaml
from search.samplers.shares import COUNTED, list_shares
from search.schedulers.scheduler import HALVING
from search.study import check_search
from trainables.config import (
    IMAGE_SIZE,
    Value,
    get_architecture,
    is_function,
    list_defaults,
    list_rules,
    list_without_effect,
)
from trainables.names import is_own
from trainables.parameters import read_sentences


def describe_plan(config: StudyConfig, console: Console) -> None:
    """Print the resolved study, its space, rungs, resources and the number of epochs to expect."""
    check_search(config)
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
    console.print()
    for sentence in _describe_stops(search):
        console.print(sentence)
    halved = f"about {low:,} if one trial in {search.reduction_factor:g} survives each rung, "
    about = halved if search.scheduler in HALVING else ""
    console.print(f"Epochs: {about}at most {high:,}, in {search.num_trials} trials")
    console.print(describe_budget(config, low))
    better = "smaller" if search.sign < 0 else "larger"
    console.print(f"Compared by: {search.metric} on validation, {better} is better")
    for repetition in list_repetitions(config):
        console.print(repetition)
    if config.trainable:
        return
    console.print(_describe_evaluation(config))


def _describe_stops(search: SearchConfig) -> Iterator[str]:
    """Yield a sentence about where trials may be stopped, for each length of trials."""
    lengths: dict[int, list[str]] = {}
    for name in search.architectures:
        lengths.setdefault(search.count_epochs(name), []).append(name)
    for whole, names in lengths.items():
        of = f" of {' and '.join(names)}" if len(lengths) > 1 else ""
        first = search.find_first_rung(names[0])
        rungs = list_rungs(first, search.reduction_factor, whole)
        if search.scheduler in HALVING and not rungs:
            yield f"Rungs{of}: none below epoch {whole}, so no trial is stopped"
        elif search.scheduler in HALVING:
            yield f"Rungs{of}: a trial may be stopped after epoch {', '.join(map(str, rungs))} of {whole}"
        if search.scheduler == "hyperband" and rungs:
            brackets = list_brackets(first, search.reduction_factor, whole)
            told = ", ".join(f"{100 * share:.0f} % from epoch {rung}" for rung, share in brackets[:-1])
            yield f"Brackets{of}: {told} on, {100 * brackets[-1][1]:.0f} % never"
        if search.scheduler == "median":
            yield f"Median{of}: a trial may be stopped after any epoch from {first} on"


def describe_budget(config: StudyConfig, epochs: int) -> str:
    """Return a sentence about `epochs` as a number of full trainings, the number of slots, and the first rung.

    Slots are those of `search.max_concurrent`, or, for trials without a GPU, as many as the cores of this machine hold.
    """
    search, shares = config.search, list_shares(config)
    length = sum(share * search.count_epochs(name) for name, share in shares.items()) / sum(shares.values())
    granted = [config.get_resources(name) for name in shares]
    slots = search.max_concurrent
    if slots is None and config.cluster.address == "local" and not any(each.gpus for each in granted):
        slots = max(1, int((config.cluster.cpus or os.cpu_count() or 1) / min(each.cpus for each in granted)))
    first = dict.fromkeys(str(search.find_first_rung(name)) for name in shares)
    return (
        f"The budget holds {'at most' if search.max_hours else 'about'} {epochs / length:.0f} full trainings"
        + (f" on {slots} slot{'' if slots == 1 else 's'}" if slots else "")
        + (f"; first rung at epoch {' or '.join(first)}" if search.scheduler in HALVING else "")
    )


def _describe_evaluation(config: StudyConfig) -> str:
    search, evaluation = config.search, config.evaluation
    models = sum(pick_seeds(evaluation.seeds, name) * evaluation.top_k for name in search.architectures)
    if evaluation.baselines:  # fewer if a recipe is itself a winner
        named = zip(search.first, config.recipes, strict=True)
        kept = [each for each in named if each[1].architecture in search.architectures]
        models += sum(
            pick_seeds(evaluation.seeds, recipe.architecture, Path(path).stem)
            for path, recipe in kept
            if evaluation.is_baseline(path)
        )
    front = ", and of the trials on the front" if evaluation.front else ""
    images = f" with {evaluation.max_train_images} images" if evaluation.max_train_images else ""
    length = f"{'' if images else 'up to '}{search.describe_epochs()}{images}"
    changes = len(evaluation.list_perturbations())
    further = [f"{changes} kinds of changed test images"] if changes else []
    further += [f"images of {', '.join(evaluation.also)}"] if evaluation.also else []
    scored = f", each scored on {' and on '.join(further)}" if further else ""
    return f"Evaluation: at most {models} retrainings of {length}{front}{scored}"


def list_repetitions(config: StudyConfig) -> list[str]:
    """Return a sentence for each space that has fewer points than trials."""
    search, shares = config.search, list_shares(config)
    points = {name: count_points(config.space, name, config.data.size) for name in shares}
    if search.divide in COUNTED:
        due = {name: round(search.num_trials * share / sum(shares.values())) for name, share in shares.items()}
    else:  # each architecture's number of trials depends on their duration
        known = [count for count in points.values() if count is not None]
        points = {"the study": sum(known) if len(known) == len(points) else None}
        due = {"the study": search.num_trials}
    then = (
        "some are trained more than once"
        if search.repeat
        else "each is trained at most once; search.repeat=true allows more"
    )
    return [
        f"Space: {name} has {count:,} distinct configuration{'' if count == 1 else 's'}, fewer than its share of "
        f"{due[name]:,} trials: {then}"
        for name, count in points.items()
        if count is not None and count < due[name]
    ]


def count_points(space: Space, architecture: str, size: int = IMAGE_SIZE) -> int | None:
    """Return the number of configurations of one architecture; None if a parameter is continuous.

    Configurations that differ only in parameters without effect count once.
    """
    specs = list_specs(space, architecture)
    defaults, conditions = list_defaults(architecture), list_conditions(specs)
    counts = {
        name: _count_values(spec, is_int=get_hint(architecture, name) is int)
        for name, spec in specs.items()
        if isinstance(spec, Range | Choice)
    }
    deciding = sorted(
        {name for name, _ in list_rules(architecture, size)} | {name for when in conditions.values() for name in when}
    )
    options = [_list_values(specs[name]) for name in deciding]
    combinations = (dict(zip(deciding, values, strict=True)) for values in itertools.product(*options))
    total = 0
    for point in map(dict, {tuple(drop_inactive(conditions, each).items()) for each in combinations}):
        inactive = {name for name, when in conditions.items() if not is_active(when, point)}
        excluded = {*deciding, *inactive, *list_without_effect(architecture, {**defaults, **point}, size)}
        found = [count for name, count in counts.items() if name not in excluded]
        known = [count for count in found if count is not None]
        if len(known) < len(found):
            return None
        total += math.prod(known)
    return total


def _count_values(spec: Range | Choice, *, is_int: bool) -> int | None:
    """Return the number of a spec's values, steps counted in decimals as in Optuna; None if it is continuous."""
    if isinstance(spec, Choice):
        return len(set(spec.choice))  # 1 and 1.0 are the same value of a float
    if not spec.step and not is_int:
        return None
    low, high, step = (Decimal(str(each)) for each in (spec.low, spec.high, spec.step or 1))
    return int((high - low) // step) + 1


def _list_values(spec: Spec) -> Sequence[Value]:
    """Return the values of a choice, of a range of integers, or the fixed one."""
    if isinstance(spec, Range):
        return range(int(spec.low), int(spec.high) + 1, int(spec.step or 1))
    return spec.choice if isinstance(spec, Choice) else [spec]


def estimate_epochs(config: StudyConfig) -> tuple[int, int]:
    """Return the epochs of the search if one in reduction_factor trials survives each rung, and if all do.

    The median scheduler counts as if it stopped none, because that depends on the curves.
    """
    search, shares = config.search, list_shares(config)
    if isinstance(search.max_epochs, int):
        shares = {search.architectures[0]: 1.0}  # the architectures do not differ
    expected, most, longest = 0.0, 0.0, 0
    for name, share in shares.items():
        trials, whole = search.num_trials * share / sum(shares.values()), search.count_epochs(name)
        recipes = [each for each in config.recipes if len(shares) == 1 or each.architecture == name]
        spared = min(len(recipes), trials) if search.spare_first else 0
        expected += spared * whole + _estimate_stopped(search, name, trials - spared)
        most, longest = most + trials * whole, max(longest, whole)
    if search.divide not in COUNTED:  # the number of trials of each architecture depends on their duration
        most = search.num_trials * longest
    limit = search.max_total_epochs or math.inf
    return int(min(expected, most, limit)), int(min(most, limit))


def _estimate_stopped(search: SearchConfig, architecture: str, trials: float) -> float:
    """Return the epochs of `trials` trials of an architecture, none of them spared."""
    first, whole = search.find_first_rung(architecture), search.count_epochs(architecture)
    brackets = {
        "asha": [(first, 1.0)],
        "hyperband": list_brackets(first, search.reduction_factor, whole),
    }.get(search.scheduler, [(whole, 1.0)])
    expected = 0.0
    for lowest, share in brackets:
        survivors, before = share * trials, 0
        for rung in [*list_rungs(lowest, search.reduction_factor, whole), whole]:
            expected += survivors * (rung - before)
            survivors, before = max(min(1.0, survivors), survivors / search.reduction_factor), rung
    return expected


def _tabulate(specs: dict[str, Spec], title: str, meaning: Mapping[str, str]) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=None, pad_edge=False)
    table.add_column("parameter")
    table.add_column("values")
    if meaning:
        table.add_column("meaning")
    conditions = list_conditions(specs)
    for name, spec in sorted(specs.items(), key=lambda item: not isinstance(item[1], Range | Choice)):
        when = [
            f"{escape(other)} = {' | '.join(map(escape, values))}" for other, values in conditions.get(name, {}).items()
        ]
        values = describe(spec) + (f", when {' and '.join(when)}" if when else "")
        table.add_row(name, values, *([escape(meaning.get(name, ""))] if meaning else []))
    return table
