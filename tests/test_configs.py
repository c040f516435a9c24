import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from search.config.load import load
from search.config.space import Choice, Range, list_specs
from search.samplers.shares import find_furthest_behind
from trainables.config import build_train_config
from trainables.models.model import build_model, count_parameters
from trainables.models.resnet50.config import ResNet50Config

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
REFERENCE = Path(__file__).parent.parent / "configs" / "cifake.yaml"
FIXED = ("paper", "cifake_cnns")
"""Studies that train known points and search nothing."""
RECIPES = sorted((Path(__file__).parent.parent / "configs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_study_loads_and_opens_with_what_it_is_for(path):
    study = load(path)
    assert study.name == path.stem
    head = path.read_text().split("\nname:")[0]
    assert f"python -m search.run{'' if path.stem == 'local' else f' configs/{path.name}'}" in head
    for word in ("Hardware:", "Time and result:"):
        assert word in head


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem not in FIXED], ids=lambda path: path.stem)
def test_every_search_tries_the_papers_model_of_each_architecture_first(path):
    study = load(path)
    first = {recipe.architecture: recipe.params for recipe in reversed(study.recipes)}
    assert set(first) == {"cnn", "resnet50"}
    assert study.recipes[0].params == first["cnn"] == {}
    assert first["resnet50"] in ({}, {"weights": "imagenet"})


@pytest.mark.parametrize("name", FIXED)
def test_a_study_that_searches_nothing_has_no_trial_but_its_points(name):
    study = load(REFERENCE.with_name(f"{name}.yaml"))
    counts = Counter(recipe.architecture for recipe in study.recipes)
    assert study.search.scheduler == "none"
    assert study.search.num_trials == (counts.total() or len(study.search.architectures))


@pytest.mark.parametrize("name", ["cifake", "cifake_scratch"])
def test_the_reference_study_has_the_trials_that_it_claims(name):
    study = load(REFERENCE.with_name(f"{name}.yaml"))
    counts = Counter(recipe.architecture for recipe in study.recipes)
    while counts.total() < study.search.num_trials:
        counts[find_furthest_behind(counts, study.search.shares)] += 1
    assert counts == {"cnn": 100, "resnet50": 30}
    assert (study.search.max_epochs, study.data.max_train_images, study.evaluation.seeds) == (30, None, 5)
    assert study.search.spare_first
    assert study.evaluation.baselines


def test_the_reference_study_from_scratch_needs_no_weights():
    study = load(REFERENCE.with_name("cifake_scratch.yaml"))
    assert list_specs(study.space, "resnet50")["weights"] == "none"
    assert {recipe.params.get("weights", "none") for recipe in study.recipes} == {"none"}


def test_the_paper_study_trains_each_network_once():
    study = load(Path("configs/paper.yaml").absolute() if Path("configs").is_dir() else CONFIGS[-1])
    assert study.space == {}
    shares = dict.fromkeys(study.search.architectures, 1.0)
    assert [find_furthest_behind({}, shares), find_furthest_behind({"cnn": 1}, shares)] == ["cnn", "resnet50"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_a_baseline_of_the_reference_study(path, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(f"extends: {REFERENCE}\nname: x\nsearch: {{first: [{path}]}}\n")
    assert load(study).recipes[0].architecture in path.stem


@pytest.mark.parametrize(
    ("number", "parameters"), [(0, 141_345), (1, 23_510_081), (2, 287_585)], ids=["paper_cnn", "resnet50", "small_cnn"]
)
def test_the_models_tried_first_have_the_size_that_is_quoted(number, parameters):
    recipe = load(REFERENCE).recipes[number]
    model = build_train_config(recipe.architecture, recipe.params, epochs=1, seed=0).model
    if isinstance(model, ResNet50Config):
        model = dataclasses.replace(model, weights="none")
    assert count_parameters(build_model(model)) == parameters


def test_the_muon_cnn_has_the_size_that_is_quoted(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(
        f"extends: {REFERENCE}\nname: x\nsearch: {{first: [{REFERENCE.parent / 'recipes/muon_cnn.yaml'}]}}\n"
    )
    [recipe] = load(study).recipes
    model = build_train_config(recipe.architecture, recipe.params, epochs=1, seed=0).model
    assert model.channels == (64, 96, 144)
    assert count_parameters(build_model(model)) == 501_641


def test_the_small_cnn_is_trained_as_where_its_figure_comes_from():
    recipe = load(REFERENCE).recipes[2]
    config = build_train_config(recipe.architecture, recipe.params, epochs=25, seed=0)
    assert (config.model.channels, config.model.convs_per_block, config.model.head) == ((32, 64, 128), 2, "gap")
    assert (config.optimizer, config.learning_rate, config.schedule, config.batch_size) == (
        "adamw",
        1e-3,
        "cosine",
        128,
    )
    assert (config.flip, config.crop_padding, config.cutout) == (True, 4, 0)


def test_the_reference_space_searches_every_part_of_the_recipe():
    specs = list_specs(load(REFERENCE).space, "cnn")
    fixed = {name for name, spec in specs.items() if not isinstance(spec, Range | Choice)}
    assert fixed == {"flip_average", "deterministic", "precision"}
