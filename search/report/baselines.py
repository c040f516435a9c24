"""Notes about the baselines of a study: the recipes of `search.first` that are retrained next to the winners."""

from collections.abc import Mapping, Sequence
from typing import Any

from search.config.schema import StudyConfig
from search.evaluation.choices import is_finished, name_recipes
from search.evaluation.result import TestedModel
from search.record.trial import State, Trial
from search.report.cells import format_rank
from search.report.schedules import list_retrained


def describe_recipes(
    config: StudyConfig, choices: Mapping[str, Any], trials: Sequence[Trial], models: Sequence[TestedModel]
) -> list[str]:
    """Return notes on the retrained baselines, those that were stopped early as trials, and recipes that won."""
    known = [winner for winner in list_retrained(choices, models) if winner.get("recipe")]
    baselines = [winner for winner in known if winner["rank"] > choices["top_k"]]
    notes = [
        f"{winner['architecture']}{format_rank(winner['rank'])} is the recipe {winner['recipe']} itself."
        for winner in known
        if winner not in baselines
    ]
    if baselines:
        told = ", ".join(
            f"{winner['recipe']} ({winner['architecture']}, rank {winner['rank']}, trial {winner['trial']})"
            for winner in baselines
        )
        notes.append(
            f"Baselines: {told}. They were tried first, and retrained and tested like the winners, but not chosen."
        )
    stopped = [
        winner
        for winner in baselines
        if (trials[winner["trial"]].reason or "").startswith("stopped by")
        and winner["epochs"] < config.search.count_epochs(winner["architecture"])
    ]
    if stopped:
        told = ", ".join(f"{winner['recipe']} ({winner['epochs']} epochs)" for winner in stopped)
        notes.append(
            f"Stopped early as trials, so perhaps retrained too briefly: {told}. search.spare_first prevents that."
        )
    return notes


def describe_lost_baselines(config: StudyConfig, trials: Sequence[Trial]) -> list[str]:
    """Return a note for each recipe that is missing as a baseline, because its trial failed or has not ended."""
    recipes: dict[str, list[Trial]] = {}
    for number, name in name_recipes(config, trials).items():
        recipes.setdefault(name, []).append(trials[number])
    return [
        f"The baseline {name} is missing, because its trial {same[0].number} "
        f"{f'failed: {same[0].reason}' if same[0].state is State.FAIL else 'has not ended'}."
        for name, same in recipes.items()
        if same[0].architecture in config.search.architectures and not any(map(is_finished, same))
    ]
