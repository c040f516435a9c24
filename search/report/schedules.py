"""Whether a schedule was long enough, by a training of each winner on train alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search.config.printable import escape
from search.evaluation.result import TestedModel
from search.report import figures
from search.report.cells import format_rank
from trainables.names import shorten


def describe_schedules(choices: Mapping[str, Any], models: Sequence[TestedModel], metric: str) -> list[str]:
    """Return a note for each retrained winner whose retrainings have other images than the search.

    Trials say nothing about the best number of epochs with these images.
    """
    return [
        f"{name} was retrained for all {len(curve)} epochs. A training on train alone, without the validation images, "
        f"says whether that is enough: validation {metric} {curve[early - 1]:.4f} at epoch {early}, {curve[-1]:.4f} "
        "at the last."
        for name, curve, early in _list_curves(choices, models)
    ]


def describe_lost_schedules(choices: Mapping[str, Any]) -> list[str]:
    """Return a note for each winner that was not trained on train alone or whose such training failed."""
    notes = []
    for winner in choices.get("winners", ()):
        is_left = is_left_out(choices, winner)
        if not is_failed(winner) and not is_left:
            continue
        has_no_curve = winner.get("curve") is not None or (is_left and choices.get("max_train_images") is not None)
        missing = ["its temperature is not fitted"] if choices.get("temperature") == "validation" else []
        missing += ["nothing says whether its schedule was long enough"] if has_no_curve else []
        reason = f" ({escape(winner['failure'])})" if winner.get("failure") else ""
        what = "was left out (evaluation.calibrate)" if is_left else f"failed{reason}"
        name = winner["architecture"] + format_rank(winner["rank"])
        notes += [f"The training of {name} on train alone {what}, so {', and '.join(missing)}."] if missing else []
    return notes


def list_retrained(choices: Mapping[str, Any], models: Sequence[TestedModel]) -> list[Mapping[str, Any]]:
    """Return the winners of the choices that have a model."""
    known = {(model.architecture, model.rank) for model in models}
    return [each for each in choices.get("winners", ()) if (each["architecture"], each["rank"]) in known]


def is_failed(winner: Mapping[str, Any]) -> bool:
    """Return whether a winner's training on train alone failed; early versions recorded only that it has no curve."""
    has_no_curve = winner.get("curve") is not None and not winner["curve"]
    return bool(winner.get("failure")) or has_no_curve


def is_left_out(choices: Mapping[str, Any], winner: Mapping[str, Any]) -> bool:
    """Return whether `evaluation.calibrate` leaves out a winner's training on train alone; never that of baselines."""
    calibrate = choices.get("calibrate", "all")
    return (
        calibrate != "all" and shorten(winner["architecture"]) not in calibrate and winner["rank"] <= choices["top_k"]
    )


def draw_schedules(choices: Mapping[str, Any], models: Sequence[TestedModel], metric: str) -> list[tuple[str, str]]:
    """Return a caption and a figure for each of these notes."""
    drawn, notes = [], describe_schedules(choices, models, metric)
    for (name, curve, early), note in zip(_list_curves(choices, models), notes, strict=True):
        caption = f"{name}, trained on train alone: was the schedule long enough?"
        figure = figures.draw_schedule(curve, metric, early)
        drawn.append((caption, figures.render_svg(figure, name=caption, description=note)))
    return drawn


def _list_curves(choices: Mapping[str, Any], models: Sequence[TestedModel]) -> Iterator[tuple[str, list[float], int]]:
    """Yield name, values by epoch, and the epoch at three quarters of the schedule."""
    for winner in list_retrained(choices, models):
        if curve := winner.get("curve"):
            yield winner["architecture"] + format_rank(winner["rank"]), curve, max(1, 3 * len(curve) // 4)
