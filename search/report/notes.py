"""The notes under a result's table: how the figures were obtained, and their limits."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from search.config.data import CIFAKE
from search.config.printable import escape
from search.config.schema import StudyConfig
from search.evaluation.bootstrap import NUM_RESAMPLES
from search.evaluation.result import TestedModel
from search.record.trial import State, Trial
from search.report.baselines import describe_lost_baselines, describe_recipes
from search.report.cells import format_amount, format_rank
from search.report.coverage import describe_temperatures
from search.report.schedules import describe_lost_schedules, describe_schedules
from search.report.searches import describe_shares
from trainables.config import list_defaults
from trainables.names import shorten
from trainables.pack_info import describe_images


def list_notes(
    config: StudyConfig,
    manifest: Mapping[str, Any],
    trials: Sequence[Trial],
    models: Sequence[TestedModel],
    changes: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Return the notes that apply to a result; `changes` are those of the study, as the journal recorded them."""
    _, positive = manifest["data"].get("classes", CIFAKE)
    num_epochs = sum(len(trial.epochs) for trial in trials)
    evaluations = manifest.get("evaluations") or [{}]
    choices = evaluations[-1]
    best = "best" if config.search.sign > 0 else "lowest"
    notes = [
        f"Chosen by {best} validation {config.search.metric} among {len(trials)} trials ({num_epochs} epochs), "
        f"retrained on train and validation with {_describe_size(choices, config)}, tested once. "
        f"{positive} is the positive class.",
        "± is the standard deviation over seeds. The interval is a 95 % interval of the mean over these seeds, "
        f"for the choice of test images alone: bootstrap over each class's images, {NUM_RESAMPLES:,} resamples.",
        *config.published.notes,
        *_describe_sources(config),
    ]
    if len(config.search.architectures) > 1:
        notes.append(describe_shares(config, trials, changes))
    notes += [
        *_describe_unended(config, trials),
        *_describe_limit(models),
        *_describe_shortage(choices),
        *describe_recipes(config, choices, trials, models),
        *_describe_start(models, trials),
        *describe_schedules(choices, models, config.search.metric),
        *describe_lost_schedules(choices),
        *_describe_threshold(choices, models, escape(positive)),
        *describe_temperatures(choices, models),
        *_describe_averaging(models, trials),
        *_describe_precisions(trials),
        *_describe_data(config, manifest["data"]),
        *describe_lost_baselines(config, trials),
        *_describe_openings(evaluations),
    ]
    return notes


def describe_changes(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a note for each change during the search, as the journal recorded it."""
    return [
        f"The study was changed: at {change['time']} it continued although {'; '.join(change['differences'])}."
        for change in changes
    ]


def _describe_unended(config: StudyConfig, trials: Sequence[Trial]) -> list[str]:
    ended = sum(trial.state is not State.RUNNING for trial in trials)
    wanted = config.search.num_trials
    return [f"Only {ended} of the study's {wanted} trials had ended."] if ended < wanted else []


def _describe_sources(config: StudyConfig) -> list[str]:
    """Return a note about the sources of the published results."""
    models: dict[str, list[str]] = {}
    for published in config.published.models:
        if published.source:
            models.setdefault(published.source, []).append(published.model)
    told = "; ".join(f"{' and '.join(names)}: {source}" for source, names in models.items())
    return [f"Sources of the published figures: {told}."] if told else []


def _describe_limit(models: Sequence[TestedModel]) -> list[str]:
    """Return a note about how precisely this number of test images measures the best accuracy.

    Source: Wilson 1927, Journal of the American Statistical Association 22:209, half of the interval of a proportion.
    """
    right: dict[str, list[int]] = {}
    for model in models:
        if model.rank == 1:
            right.setdefault(model.architecture, []).append(model.confusion[0][0] + model.confusion[1][1])
    if not right:
        return []
    images = sum(map(sum, models[0].confusion))
    accuracies = {name: statistics.fmean(counts) / images for name, counts in right.items()}
    name = max(accuracies, key=lambda name: accuracies[name])
    share, z = accuracies[name], 1.96
    points = 100 * z / (1 + z**2 / images) * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return [
        f"With {images:,} test images, an accuracy of {accuracies[name]:.2%} ({name}) is known to ±{points:.2f} points."
    ]


def _describe_start(models: Sequence[TestedModel], trials: Sequence[Trial]) -> list[str]:
    """Return notes about the initial weights and the stem of the models of ResNet-50."""
    told: dict[str, list[str]] = {}
    for name, trial in {model.architecture + format_rank(model.rank): model.trial for model in models}.items():
        if trials[trial].architecture != "resnet50":
            continue
        params = list_defaults("resnet50") | trials[trial].params
        weights = str(params["weights"])
        start = {"none": "random weights", "imagenet": "ImageNet's weights"}.get(weights, weights)
        stem = {"imagenet": "7x7 stem", "half": "3x3 stem of stride 2"}.get(str(params["stem"]), "3x3 stem")
        told.setdefault(f"{start}, with the {stem}", []).append(name)
    return [f"{', '.join(names)}: trained from {start}." for start, names in told.items()]


def _describe_shortage(choices: Mapping[str, Any]) -> list[str]:
    """Return a note if fewer distinct configurations have finished than `top_k`."""
    ranks = [(winner["architecture"], winner["rank"]) for winner in choices.get("winners", ())]
    counts = Counter(architecture for architecture, rank in ranks if rank <= choices["top_k"])
    return [
        f"Only {format_amount(count, f'distinct {architecture} configuration')} could be retrained, fewer than "
        f"evaluation.top_k = {choices['top_k']}: no others have finished."
        for architecture, count in counts.items()
        if count < choices["top_k"]
    ]


def _describe_size(choices: Mapping[str, Any], config: StudyConfig) -> str:
    images, seeds = choices.get("max_train_images"), choices.get("seeds", config.evaluation.seeds)
    return f"{images} images and {describe_seeds(seeds)}" if images else describe_seeds(seeds)


def describe_seeds(seeds: int | Mapping[str, int]) -> str:
    """Return the number of retrainings of each winner in words."""
    if isinstance(seeds, int):
        return format_amount(seeds, "seed")
    return f"{', '.join(f'{count} ({name})' for name, count in seeds.items())} seeds"


def _describe_threshold(choices: Mapping[str, Any], models: Sequence[TestedModel], positive: str) -> list[str]:
    thresholds = {(model.architecture, model.rank): model.threshold for model in models}
    told = ", ".join(f"{name}{format_rank(rank)} {value:.4f}" for (name, rank), value in thresholds.items())
    if choices.get("threshold") == "validation":
        origin = "that was best on validation for a training on train alone"
    elif any(threshold != 0.5 for threshold in thresholds.values()):
        origin = "that evaluation.threshold sets"
    else:
        return []
    return [f"An image is called {positive} above the probability {origin}: {told}."]


def _describe_averaging(models: Sequence[TestedModel], trials: Sequence[Trial]) -> list[str]:
    averaging = {
        model.architecture + format_rank(model.rank)
        for model in models
        if trials[model.trial].params.get("flip_average")
    }
    if not averaging:
        return []
    return [
        f"Flip averaging (flip_average) is part of {', '.join(sorted(averaging))}: the mean of the logits of an "
        "image and its mirror image, at twice the cost."
    ]


def _describe_precisions(trials: Sequence[Trial]) -> list[str]:
    """Return a sentence for each architecture whose trials used several precisions."""
    counts: dict[str, Counter[str]] = {}
    for trial in trials:
        if "precision" in trial.attributes:
            counts.setdefault(shorten(trial.architecture), Counter())[trial.attributes["precision"]] += 1
    return [
        f"Of the trials of {name}, {found['bfloat16']} computed in bfloat16 and {found['float32']} in float32."
        for name, found in counts.items()
        if len(found) > 1
    ]


def _describe_data(config: StudyConfig, data: Mapping[str, Any]) -> list[str]:
    notes = describe_images(data, config.data.test_fraction)
    leaked, duplicates = data.get("leaked", 0), data.get("duplicates", 0)
    if leaked or duplicates:
        notes.append(
            f"Left out of train: {leaked} images that are also in test, {duplicates} copies. Near-duplicates "
            "across train and test stay in; python -m search audit counts them."
        )
    if skipped := data.get("skipped"):
        count = data.get("num_skipped") or len(skipped)
        notes.append(f"Skipped {count} files that are not images, the first {escape(skipped[0])}.")
    if config.data.path == "sample":
        notes.append("The embedded sample is not CIFAKE: these figures only show that the system works.")
    return notes


def _describe_openings(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a note if the test split was opened before with other choices."""
    opened = [entry for entry in evaluations if entry.get("opened")]
    if len(opened) < 2:
        return []
    earlier = "; ".join(f"{entry['opened']['time']} for {_describe_choices(entry)}" for entry in opened[:-1])
    return [
        f"The test split was opened before with other choices ({earlier}). So choices that were made after seeing "
        "those figures were made on test."
    ]


def _describe_choices(entry: Mapping[str, Any]) -> str:
    winners = [winner for winner in entry["winners"] if winner["rank"] <= entry["top_k"]]
    trials = ", ".join(f"{winner['architecture']} trial {winner['trial']}" for winner in winners)
    temperature = f", temperature {each}" if (each := entry.get("temperature", 1.0)) != 1.0 else ""
    return f"{trials}, {describe_seeds(entry['seeds'])}, threshold {entry['threshold']}{temperature}"
