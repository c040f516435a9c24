from pathlib import Path

import pytest

from search.config import load
from search.study import choose_architecture

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
RECIPES = sorted((Path(__file__).parent.parent / "configs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_study_loads_and_opens_with_what_it_is_for(path):
    study = load(path)
    assert study.name == path.stem
    head = path.read_text().split("\nname:")[0]
    assert f"python -m search.run{'' if path.stem == 'local' else f' configs/{path.name}'}" in head
    for word in ("Hardware:", "Time and result:"):
        assert word in head


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "paper"], ids=lambda path: path.stem)
def test_every_search_tries_the_papers_two_models_first(path):
    study = load(path)
    assert [recipe.architecture for recipe in study.recipes] == ["cnn", "resnet50"]
    assert study.recipes[0].params == {}


def test_the_paper_study_trains_each_network_once():
    study = load(Path("configs/paper.yaml").absolute() if Path("configs").is_dir() else CONFIGS[-1])
    assert study.space == {}
    shares = dict.fromkeys(study.search.architectures, 1.0)
    assert [choose_architecture({}, shares), choose_architecture({"cnn": 1}, shares)] == ["cnn", "resnet50"]


def test_every_recipe_is_used_or_a_fixed_point_of_a_study(tmp_path):
    for path in RECIPES:
        study = tmp_path / "study.yaml"
        study.write_text(
            f"name: x\nsearch: {{first: [{path}]}}\nspace: {{resnet50: {{weights: {{choice: [none, imagenet]}}}}}}\n"
        )
        assert load(study).recipes[0].architecture in path.stem
