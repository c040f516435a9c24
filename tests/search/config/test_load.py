import math

import pytest

from search.config.data import Published
from search.config.load import dump, load, parse
from trainables.errors import InputError


def refuse(**study):
    with pytest.raises(InputError) as caught:
        parse({"name": "x", **study})
    return str(caught.value)


def test_a_name_is_enough_for_a_study():
    assert parse({"name": "x"}).search.num_trials == 20


def test_a_dumped_study_parses_to_itself():
    study = parse(
        {
            "name": "x",
            "space": {"cnn": {"filters": {"low": 8, "high": 64}, "head": {"choice": ["gap"]}}},
            "recipes": [{"architecture": "resnet50"}],
        }
    )
    assert parse(dump(study)) == study


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"serach": {}}, "serach: unknown key"),
        ({"search": {"num_trails": 3}}, "search.num_trails: unknown key"),
        ({"search": {"num_trials": "3"}}, "search.num_trials = '3': input should be a valid integer"),
        ({"search": {"num_trials": True}}, "search.num_trials = True: input should be a valid integer"),
        ({"search": {"num_trials": 0}}, "search.num_trials = 0: input should be greater than or equal to 1"),
        ({"search": {"architectures": ["vgg"]}}, "search.architectures.0 = 'vgg': input should be 'cnn' or 'resnet50'"),
        ({"search": {"architectures": []}}, "search.architectures"),
        ({"search": {"architectures": ["cnn", "cnn"]}}, "expected distinct names"),
        ({"search": {"architectures": ["cnn", "mine:shared"]}}, "`shared` is a section of the space: use another name"),
        ({"trainable": "mine:shared"}, "`shared` is a section of the space: use another name"),
        ({"search": {"shares": {"cnn": 1}}}, "search.shares: expected one weight for each"),
        ({"search": {"grace_epochs": 11}}, "search.grace_epochs = 11: expected at most search.max_epochs"),
        (
            {"search": {"grace_epochs": "a third"}},
            "grace_epochs = 'a third': expected a number of at least 1, auto, or",
        ),
        ({"search": {"grace_epochs": 0}}, "search.grace_epochs = 0: expected a number of at least 1"),
        ({"search": {"max_epochs": {"cnn": 9}}}, "search.max_epochs: expected a number, or one for each"),
        (
            {"search": {"max_epochs": {"cnn": 9, "resnet50": 3}, "grace_epochs": 4}},
            "search.grace_epochs = 4: expected at most search.max_epochs",
        ),
        ({"search": {"max_hours": 0}}, "search.max_hours = 0: input should be greater than 0"),
        *(
            (document, f"{path} = {value}: expected a finite number")
            for value in (math.inf, math.nan)
            for path, document in (
                ("search.max_hours", {"search": {"max_hours": value}}),
                ("search.trial_timeout_s", {"search": {"trial_timeout_s": value}}),
                ("search.patience_delta", {"search": {"patience_delta": value}}),
                ("search.reduction_factor", {"search": {"reduction_factor": value}}),
                ("search.shares.cnn", {"search": {"shares": {"cnn": value, "resnet50": 1}}}),
                ("resources.cnn.cpus", {"resources": {"cnn": {"cpus": value}}}),
                ("resources.cnn.gpus", {"resources": {"cnn": {"gpus": value}}}),
                ("cluster.wait_s", {"cluster": {"wait_s": value}}),
                ("data.val_fraction", {"data": {"val_fraction": value}}),
                ("evaluation.threshold", {"evaluation": {"threshold": value}}),
                ("evaluation.temperature", {"evaluation": {"temperature": value}}),
                ("space.cnn.learning_rate", {"space": {"cnn": {"learning_rate": value}}}),
                ("space.cnn.learning_rate.high", {"space": {"cnn": {"learning_rate": {"low": 0.1, "high": value}}}}),
            )
        ),
        *(
            (
                {"evaluation": {"temperature": value}},
                f"evaluation.temperature = {value!r}: expected a number from 0.01 to 100, or validation",
            )
            for value in (0, -1.0, 1e9, "test", True)
        ),
        ({"evaluation": {"baselines": "x"}}, "evaluation.baselines = 'x': expected true, false, or a list"),
        (
            {"evaluation": {"baselines": ["x"]}},
            "evaluation.baselines: expected true, false, or names of recipes",
        ),
        ({"evaluation": {"calibrate": "cnn"}}, "evaluation.calibrate = 'cnn': expected all, or a list of arch"),
        ({"evaluation": {"calibrate": ["vgg"]}}, "evaluation.calibrate: expected all, or a list of search."),
        (
            {"evaluation": {"calibrate": ["cnn"], "threshold": "validation"}},
            "with evaluation.threshold=validation only all",
        ),
        ({"evaluation": {"threshold": 1}}, "evaluation.threshold = 1: expected a number above 0 and below 1, or valid"),
        (
            {"evaluation": {"also": "front"}},
            "evaluation.also = 'front': expected NAME: PATH of folders or zips, with let",
        ),
        ({"evaluation": {"also": "front"}}, "front, set evaluation.front=true and evaluation.also=null"),
        ({"evaluation": {"also": {"../x": "y"}}}, "evaluation.also = '../x': expected NAME: PATH of folders or zips"),
        ({"evaluation": {"also": {"x": None}}}, "evaluation.also = None: expected NAME: PATH of folders or zips"),
        ({"search": {"reduction_factor": 1.0000001}}, "search.reduction_factor = 1.0000001"),
        ({"search": 3}, "search = 3: input should be an object"),
        ({"data": {"val_fraction": 1.0}}, "data.val_fraction = 1.0: input should be less than 1"),
        ({"name": "../x"}, "name = '../x'"),
        ({"resources": {"cnn": {"cpus": 0}}}, "resources.cnn: expected cpus or gpus above 0"),
        ({"space": {"cnn": {"filtres": 3}}}, "space.cnn.filtres: unknown parameter; known: batch_norm"),
        ({"space": {"vgg": {}}}, "space.vgg: expected `shared` or one of cnn, resnet50"),
        ({"space": {"cnn": {"filters": [8, 16]}}}, "space.cnn.filters = [8, 16]: expected a value, {low"),
        ({"space": {"cnn": {"filters": {"low": 8, "hgh": 16}}}}, "space.cnn.filters.hgh: unknown key"),
        ({"space": {"cnn": {"filters": {"choice": []}}}}, "space.cnn.filters: expected distinct choices"),
    ],
)
def test_bad_input_is_refused_with_its_path(study, message):
    assert message in refuse(**study)


def test_a_study_of_before_names_no_further_sources():
    assert parse({"name": "x", "evaluation": {"also": None, "front_cost": "seconds"}}).evaluation.also is None


def test_several_faults_are_named_at_once():
    message = refuse(search={"num_trials": 0, "bla": 1})
    assert "search.num_trials" in message
    assert "search.bla" in message


def test_a_recipe_outside_the_space_is_refused():
    message = refuse(recipes=[{"architecture": "cnn", "params": {"filters": 64}}])
    assert message.startswith("search.first: the cnn recipe has filters = 64, outside space.cnn.filters: widen it, or")


@pytest.mark.parametrize(
    ("units", "expected"), [(2**60, "a finite number up to 1e+300, or a whole number up to 2**53"), (64.0, "int, not")]
)
def test_a_recipe_whose_value_could_not_be_read_again_is_refused(units, expected):
    recipe = {"architecture": "cnn", "params": {"dense_units": units}}
    message = refuse(recipes=[recipe], evaluation={"baselines": True})
    assert message.startswith(f"search.first: cnn.dense_units = {units}: expected {expected}")


def test_a_recipe_outside_the_space_may_be_a_baseline():
    recipes = [{"architecture": "cnn", "params": {"filters": 64}}]
    study = parse({"name": "x", "recipes": recipes, "evaluation": {"baselines": True}})
    assert study.recipes[0].params == {"filters": 64}


def test_overrides_are_applied_last_and_read_as_yaml(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("name: x\nsearch: {num_trials: 3}\n")
    study = load(path, ["search.num_trials=5", "search.architectures=[cnn]", "space.cnn.learning_rate=1e-2"])
    assert study.search.num_trials == 5
    assert study.search.architectures == ("cnn",)
    assert study.space["cnn"]["learning_rate"] == 0.01


def test_recipes_are_read_relative_to_the_study(tmp_path):
    (tmp_path / "recipe.yaml").write_text("architecture: cnn\nparams: {}\n")
    (tmp_path / "study.yaml").write_text("name: x\nsearch: {first: [recipe.yaml]}\n")
    assert load(tmp_path / "study.yaml").recipes[0].architecture == "cnn"


def test_a_missing_recipe_is_named(tmp_path):
    (tmp_path / "study.yaml").write_text("name: x\nsearch: {first: [nowhere.yaml]}\n")
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.yaml"):
        load(tmp_path / "study.yaml")


def test_each_file_names_others_relative_to_itself(tmp_path):
    for folder, filters in (("shipped", 8), ("mine", 16)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "recipe.yaml").write_text(f"architecture: cnn\nparams: {{filters: {filters}}}\n")
    (tmp_path / "shipped/base.yaml").write_text("name: x\nsearch: {architectures: [resnet50], first: [recipe.yaml]}\n")
    (tmp_path / "mine/study.yaml").write_text("extends: ../shipped/base.yaml\n")
    assert load(tmp_path / "mine/study.yaml").recipes[0].params == {"filters": 8}
    assert load(tmp_path / "mine/study.yaml", ["search.first=[recipe.yaml]"]).recipes[0].params == {"filters": 16}
    assert load(tmp_path / "mine/study.yaml", ["search.first=[]"]).recipes == ()


def test_a_setting_that_replaces_a_section_leaves_nothing_of_the_files_that_it_named(tmp_path):
    (tmp_path / "recipe.yaml").write_text("architecture: cnn\n")
    (tmp_path / "published.yaml").write_text("notes: [small]\n")
    path = tmp_path / "study.yaml"
    path.write_text("name: x\nsearch: {first: [recipe.yaml]}\nevaluation: {published: published.yaml}\n")
    study = load(path, ["search={num_trials: 5}", "evaluation={seeds: 2}"])
    assert (study.search.first, study.recipes, study.published) == ((), (), Published())
    study = load(path, ["search={first: [recipe.yaml]}", "evaluation.seeds=2"])
    assert (len(study.recipes), study.published.notes) == (1, ("small",))
