from pathlib import Path

import pytest
import yaml

from search.config.load import dump, load, parse
from trainables.errors import InputError
from trainables.metrics import score_confusion
from trainables.models.cnn.config import CnnConfig
from trainables.models.model import build_model, count_parameters
from trainables.models.resnet50.config import ResNet50Config

CONFIGS = Path(__file__).parents[3] / "configs"
PUBLISHED = load(CONFIGS / "cifake.yaml").published.models
PAPER = {published.model: published for published in PUBLISHED if published.confusion is not None}


def test_the_paper_has_both_its_models_here():
    assert list(PAPER) == ["CNN (paper)", "ResNet-50 (paper)"]


@pytest.mark.parametrize("model", PAPER)
def test_the_papers_table_1_follows_from_its_confusion_matrix(model):
    (tn, fp), (fn, tp) = PAPER[model].confusion
    derived = score_confusion(tn=tn, fp=fp, fn=fn, tp=tp)
    assert {name: round(derived[name], 4) for name in PAPER[model].metrics} == PAPER[model].metrics


@pytest.mark.parametrize("model", PAPER)
def test_the_paper_tested_on_10000_images_of_each_class(model):
    assert [sum(row) for row in PAPER[model].confusion] == [10_000, 10_000]


def test_no_other_counts_round_to_table_1_for_resnet50():
    wanted = PAPER["ResNet-50 (paper)"].metrics
    tp = 9306  # the recall's four decimals count images
    found = []
    for fp in range(10_001):
        tn, fn = 10_000 - fp, 10_000 - tp
        derived = score_confusion(tn=tn, fp=fp, fn=fn, tp=tp)
        if all(round(derived[name], 4) == wanted[name] for name in ("precision", "recall", "f1")):
            found.append(((tn, fp), (fn, tp)))
    assert found == [PAPER["ResNet-50 (paper)"].confusion]


@pytest.mark.parametrize(("model", "config"), [("CNN (paper)", CnnConfig()), ("ResNet-50 (paper)", ResNet50Config())])
def test_the_papers_models_have_as_many_parameters_as_ours_at_its_point(model, config):
    assert count_parameters(build_model(config)) == PAPER[model].parameters


def test_what_was_not_published_is_not_made_up():
    unknown = {"CNN (Bird & Lotfi)": 0.9298, "DenseNet (Wang)": 0.9774, "ResNet-50, frozen": 0.9334}
    unknown |= {"EfficientNet-B0": 0.985}
    assert {each.model: each.metrics["accuracy"] for each in PUBLISHED if each.protocol == "not stated"} == unknown
    for published in PUBLISHED:
        assert published.source
        if published.model in unknown:
            assert set(published.metrics) == {"accuracy"}
            assert published.parameters is None
        if published.model not in PAPER:
            assert published.confusion is None


@pytest.mark.parametrize(
    ("model", "protocol", "confusion"),
    [
        ("CNN, 288k", "sealed", ((9764, 236), (232, 9768))),
        ("ResNet-18, 128 px", "untouched test", ((9805, 195), (272, 9728))),
        ("ViT-Small, 224 px", "sealed", ((9867, 133), (114, 9886))),
    ],
)
def test_what_others_published_follows_from_their_counts(model, protocol, confusion):
    (known,) = (each for each in PUBLISHED if each.model == model)
    (tn, fp), (fn, tp) = confusion
    derived = score_confusion(tn=tn, fp=fp, fn=fn, tp=tp)
    assert known.protocol == protocol
    for name in ("accuracy", "precision", "recall", "f1"):
        assert known.metrics[name] == pytest.approx(derived[name], abs=1e-4)


def test_a_study_carries_what_was_published_and_a_stored_one_reads_no_file(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/known.yaml").write_text(
        "models: [{model: Ours, protocol: sealed, metrics: {f1: 0.5}}]\nnotes: [x]\n"
    )
    (tmp_path / "base/study.yaml").write_text("name: base\nevaluation: {published: known.yaml}\n")
    (tmp_path / "study.yaml").write_text("extends: base/study.yaml\nname: mine\n")
    config = load(tmp_path / "study.yaml")
    assert config.evaluation.published == "known.yaml"
    assert (config.published.models[0].metrics, config.published.notes) == ({"f1": 0.5}, ("x",))
    (tmp_path / "base/known.yaml").unlink()
    assert parse(dump(config)) == config


def test_recipes_are_found_beside_the_file_that_names_them(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "base").mkdir()
    (tmp_path / "base/small.yaml").write_text("architecture: cnn\nparams: {filters: 8}\n")
    (tmp_path / "base/study.yaml").write_text(
        "name: base\nsearch: {first: [small.yaml]}\nspace: {cnn: {filters: {choice: [8, 16]}}}\n"
    )
    (tmp_path / "mine/study.yaml").write_text("extends: ../base/study.yaml\nname: mine\n")
    assert load(tmp_path / "mine/study.yaml").recipes[0].params == {"filters": 8}


@pytest.mark.parametrize(("names", "twice"), [(("a/cnn", "b/small"), "cnn"), (("a/small", "b/small"), "small")])
def test_baselines_have_names_of_their_own(tmp_path, names, twice):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text("architecture: cnn\nparams: {filters: 8}\n")
    study = tmp_path / "study.yaml"
    search = f"search: {{first: [{', '.join(f'{name}.yaml' for name in names)}]}}"
    study.write_text(f"name: x\n{search}\nevaluation: {{baselines: true}}\n")
    with pytest.raises(
        InputError, match=f"search.first: the baseline {twice} has the name of another one, or of an arch"
    ):
        load(study)
    study.write_text(f"name: x\n{search}\nspace: {{cnn: {{filters: {{choice: [8, 16]}}}}}}\n")
    assert len(load(study).recipes) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"models": [{"model": "x", "protocol": "sealed", "metrics": {"f1": 2}}]}, "published.models.0.metrics.f1 = 2"),
        ({"models": [{"protocol": "sealed"}]}, "published.models.0.model: missing"),
    ],
)
def test_a_published_result_of_another_form_is_refused(tmp_path, content, message):
    (tmp_path / "known.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "study.yaml").write_text("name: x\nevaluation: {published: known.yaml}\n")
    with pytest.raises(InputError, match=message):
        load(tmp_path / "study.yaml")


def test_only_the_studies_of_cifake_name_what_was_published_of_it():
    known = {path.stem: bool(load(path).published.models) for path in CONFIGS.glob("*.yaml")}
    assert [name for name, is_known in known.items() if not is_known] == ["local"]
