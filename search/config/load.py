"""Loads a study: reads plain YAML, checks all of it once, and returns frozen dataclasses.

This is the only file that validates with pydantic. All other code receives the dataclasses.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from search.config.code import import_user_code
from search.config.fields import GOALS, PERTURBATIONS
from search.config.schema import Recipe, StudyConfig
from search.config.search import SearchConfig
from search.config.space import find_outside, list_specs
from search.config.space_checks import check_params, check_space
from search.config.urls import check_database_url, check_store_url, is_url
from search.config.yaml import overlay, read_layers, read_yaml, set_value
from trainables.config import ARCHITECTURES, build_train_config, list_defaults
from trainables.errors import InputError
from trainables.names import is_unknown, shorten

T = TypeVar("T")
EXPECTED = {
    "search.grace_epochs": "a number of at least 1, auto, or null",
    "evaluation.threshold": "a number above 0 and below 1, or validation",
    "evaluation.temperature": "a number from 0.01 to 100, or validation",
    "evaluation.seeds": "a number from 1 to 1,000, or one for each of search.architectures",
    "evaluation.max_train_images": "a number of at least 4, or all",
    "evaluation.baselines": "true, false, or a list of names of recipes",
    "evaluation.calibrate": "all, or a list of architectures",
    "evaluation.perturbations": f"all, or a list of {', '.join(PERTURBATIONS)}",
    "evaluation.also": "NAME: PATH of folders or zips, with letters, digits, - and _ in NAME, or null; to test the "
    "front, set evaluation.front=true and evaluation.also=null",
}
"""Key -> expected value, in words, where pydantic would name each of several types."""
UNIONS = (*(tuple(path.split(".")) for path in EXPECTED), ("search", "sampler"), ("search", "scheduler"))
"""Keys whose value is one of several types."""

REPLACED: dict[str, dict[str, Any]] = {"search": {"recipes": []}, "evaluation": {"published": {}}}
"""Section -> content of the files that it named, once a setting has replaced the whole section."""


def load(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study's file and check all of it.

    Args:
        path: YAML file. Its `extends` names another file, whose values it overrides. A file is named relative to the
            file that names it.
        overrides: Settings such as `search.num_trials=5`, applied last. Files in them are named relative to `path`.

    Raises:
        InputError: If the file, a key, a value or a corner of the space is wrong; the message names the key.
    """
    values: dict[str, Any] = {}
    for file, layer in read_layers(path):
        values = overlay(values, layer) | _read_named(layer, file.parent)
    apply_settings(values, overrides, path.parent)
    study = parse(values | {"code": import_user_code(values, path.parent)})
    _check_baselines(study)  # not of a stored study, whose files can no longer be renamed
    return study


def apply_settings(values: dict[str, Any], settings: Sequence[str], folder: Path) -> None:
    """Apply settings such as `search.num_trials=5` in place, and read the files that they name, relative to a folder.

    Raises:
        InputError: If the form of a setting is wrong, or a file cannot be read.
    """
    for setting in settings:
        set_value(values, setting)
        set_value(alone := dict[str, Any](), setting)
        replaced = REPLACED.get(setting.partition("=")[0], {})
        values |= replaced | _read_named(alone, folder)


def parse(values: Mapping[str, Any]) -> StudyConfig:
    """Check a study given as plain values, such as `dump` returns.

    Types are as strict as JSON's: "3" is not a number, and 1 is not a boolean.

    Raises:
        InputError: If a key, a value or a corner of the space is wrong; the message names the key.
    """
    try:
        study = pydantic.TypeAdapter(StudyConfig).validate_json(json.dumps(_place_trainable(values)), strict=True)
    except pydantic.ValidationError as error:
        raise InputError("; ".join(_describe_problems(error)[:10])) from None
    except (RecursionError, TypeError, ValueError) as error:
        raise InputError(f"a value is neither number, text, list nor mapping: {error}") from None
    _check_search(study.search)
    _check_evaluation(study)
    if study.trainable is None:
        _check_metric(study.search)
    if is_url(study.results):
        check_store_url(study.results)
    if study.storage is not None:
        check_database_url(study.storage)
    check_space(study.space, study.search.architectures, study.data.size)
    for architecture, granted in study.resources.items():
        if architecture not in (known := [*ARCHITECTURES, *map(shorten, study.search.architectures)]):
            raise InputError(f"resources.{architecture}: expected one of {', '.join(known)}")
        if granted.cpus + granted.gpus == 0:
            raise InputError(f"resources.{architecture}: expected cpus or gpus above 0")
    for recipe in study.recipes:
        _check_recipe(study, recipe)
    return study


def check(kind: type[T], value: Any, where: str) -> T:
    """Check plain values that a program has written, and return them as a dataclass or another type.

    Args:
        kind: The type. Keys that the dataclass does not have are ignored.
        value: The values; types are as strict as JSON's.
        where: Name of the file, for the message.

    Raises:
        InputError: If they do not fit the type; the message names the first wrong key.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except pydantic.ValidationError as error:
        raise InputError(f"{where} is damaged: {_describe_problems(error)[0][:300]}") from None
    except (RecursionError, TypeError, ValueError):
        raise InputError(f"{where} is damaged: a value is neither number, text, list nor mapping") from None


def dump(study: StudyConfig) -> dict[str, Any]:
    """Return a study as plain values, all defaults included."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(study)))
    return plain


def _read_named(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the content of the files that a study's own values name, relative to its folder."""
    search, evaluation = values.get("search"), values.get("evaluation")
    found: dict[str, Any] = {}
    if isinstance(search, dict) and isinstance(search.get("first"), list):
        found["recipes"] = [read_yaml(folder / str(name)) for name in search["first"]]
    if isinstance(evaluation, dict) and "published" in evaluation:
        name = evaluation["published"]
        found["published"] = read_yaml(folder / name) if isinstance(name, str) else {}
    return found


def _place_trainable(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a study's values with its training function in the place of the architectures."""
    trainable, search = values.get("trainable"), values.get("search", {})
    if trainable is None or not isinstance(search, dict):
        return values
    if search.get("architectures", [trainable]) != [trainable]:
        raise InputError("search.architectures: leave it out, because `trainable` takes its place")
    return {**values, "search": {**search, "architectures": [trainable]}}


def _check_search(search: SearchConfig) -> None:
    names = set(map(shorten, search.architectures))
    if "shared" in names:
        raise InputError("search.architectures: `shared` is a section of the space: use another name")
    if len(names) < len(search.architectures):
        raise InputError(f"search.architectures = {str(list(search.architectures))[:200]}: expected distinct names")
    if search.shares is not None and set(search.shares) != names:
        raise InputError("search.shares: expected one weight for each of search.architectures")
    if not isinstance(search.max_epochs, int) and set(search.max_epochs) != names:
        raise InputError("search.max_epochs: expected a number, or one for each of search.architectures")
    if any(search.find_first_rung(name) > search.count_epochs(name) for name in search.architectures):
        raise InputError(f"search.grace_epochs = {search.grace_epochs}: expected at most search.max_epochs")


def _check_evaluation(study: StudyConfig) -> None:
    seeds, names = study.evaluation.seeds, set(map(shorten, study.search.architectures))
    recipes = {Path(path).stem for path in study.search.first}
    if not isinstance(seeds, int) and not names <= set(seeds) <= names | recipes:
        raise InputError(
            "evaluation.seeds: expected a number, or one for each of search.architectures; recipes of search.first may "
            "have their own"
        )
    baselines, calibrate = study.evaluation.baselines, study.evaluation.calibrate
    if isinstance(baselines, tuple) and not recipes.issuperset(baselines):
        raise InputError("evaluation.baselines: expected true, false, or names of recipes of search.first")
    if calibrate != "all" and (study.evaluation.threshold == "validation" or not names.issuperset(calibrate)):
        expected = "all, or a list of search.architectures; with evaluation.threshold=validation only all"
        raise InputError(f"evaluation.calibrate: expected {expected}")


def _check_baselines(study: StudyConfig) -> None:
    """Check that each row of the tables has a name of its own: baselines are named after their files."""
    counts = Counter(
        Path(path).stem for path in dict.fromkeys(study.search.first) if study.evaluation.is_baseline(path)
    )
    counts.update(map(shorten, study.search.architectures))
    if twice := [name for name, count in counts.items() if count > 1]:
        raise InputError(
            f"search.first: the baseline {twice[0]} has the name of another one, or of an architecture: rename its file"
        )


def _check_metric(search: SearchConfig) -> None:
    """Check the metric of a study of images, whose metrics are known."""
    if search.metric not in GOALS:
        raise InputError(f"search.metric = {search.metric!r}: expected one of {', '.join(GOALS)}")
    if search.goal not in (None, GOALS[search.metric]):
        right = GOALS[search.metric]
        raise InputError(f"search.goal = {search.goal}: {search.metric} has the goal {right}; leave search.goal out")
    if search.target is not None and (search.target < 0 or (search.sign > 0 and search.target > 1)):
        allowed = "from 0 to 1" if search.sign > 0 else "of at least 0"
        raise InputError(f"search.target = {search.target:g}: expected a number {allowed}, as {search.metric} is")


def _check_recipe(study: StudyConfig, recipe: Recipe) -> None:
    """Check that a recipe can be built, and is a point of the space or a baseline."""
    if is_unknown(recipe.architecture):
        return
    build_train_config(recipe.architecture, recipe.params, epochs=1, seed=0, size=study.data.size)
    check_params(recipe.params, recipe.architecture, f"search.first: {recipe.architecture}")
    if recipe.architecture not in study.search.architectures or study.evaluation.baselines:
        return
    params = list_defaults(recipe.architecture) | recipe.params
    if path := find_outside(list_specs(study.space, recipe.architecture), recipe.architecture, params):
        name = path.removesuffix(".when")
        raise InputError(
            f"search.first: the {recipe.architecture} recipe has {name} = {params[name]!r}, "
            f"outside space.{shorten(recipe.architecture)}.{path}: widen it, or set evaluation.baselines: true, which "
            "compares the recipe with the winners"
        )


def _describe_problems(error: pydantic.ValidationError) -> list[str]:
    """Return one sentence for each wrong key, without the names of pydantic's union branches."""
    problems: dict[str, Any] = {}
    for problem in error.errors():
        loc = problem["loc"][: -1 if problem["loc"][-1:] in (("ours",), ("own",)) else None]
        if loc[:1] == ("space",) and len(loc) > 3:
            loc = (*loc[:3], *loc[4:5]) if loc[3] != "value" else loc[:3]
        if loc[:2] in UNIONS:
            loc = loc[:2]
        problems.setdefault(".".join(map(str, loc)).removesuffix(".[key]"), problem)
    return [_describe(path, problem) for path, problem in problems.items()]


def _describe(path: str, problem: Any) -> str:
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}: unknown key"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{path}: missing"
    if isinstance(problem["input"], float) and not math.isfinite(problem["input"]):
        return f"{path} = {problem['input']}: expected a finite number"
    if path in EXPECTED:
        return f"{path} = {problem['input']!r:.200}: expected {EXPECTED[path]}"
    shown = repr(problem["input"])[:200]
    own = ", or module:Name of your own code" if tuple(path.split(".")) in UNIONS else ""
    if "value" in problem["loc"][3:4]:
        return f"{path} = {shown}: expected a value, {{low: ..., high: ...}} or {{choice: [...]}}"
    return f"{path} = {shown}: {problem['msg'][0].lower()}{problem['msg'][1:]}{own}"
