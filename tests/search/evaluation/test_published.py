import pytest

from search.evaluation.published import PUBLISHED
from trainables.metrics import Confusion, score_confusion
from trainables.models.cnn.config import CnnConfig
from trainables.models.model import build_model, count_parameters
from trainables.models.resnet50.config import ResNet50Config

PAPER = {published.model: published for published in PUBLISHED if published.confusion is not None}


def test_the_paper_has_both_its_models_here():
    assert list(PAPER) == ["CNN (paper)", "ResNet-50 (paper)"]


@pytest.mark.parametrize("model", PAPER)
def test_the_papers_table_1_follows_from_its_confusion_matrix(model):
    derived = score_confusion(PAPER[model].confusion)
    assert {name: round(derived[name], 4) for name in PAPER[model].metrics} == PAPER[model].metrics


@pytest.mark.parametrize("model", PAPER)
def test_the_paper_tested_on_10000_images_of_each_class(model):
    counts = PAPER[model].confusion
    assert (counts.tn + counts.fp, counts.fn + counts.tp) == (10_000, 10_000)


def test_no_other_counts_round_to_table_1_for_resnet50():
    wanted = PAPER["ResNet-50 (paper)"].metrics
    tp = 9306  # the recall's four decimals count images
    found = []
    for fp in range(10_001):
        counts = Confusion(tn=10_000 - fp, fp=fp, fn=10_000 - tp, tp=tp)
        derived = score_confusion(counts)
        if all(round(derived[name], 4) == wanted[name] for name in ("precision", "recall", "f1")):
            found.append(counts)
    assert found == [PAPER["ResNet-50 (paper)"].confusion]


@pytest.mark.parametrize(("model", "config"), [("CNN (paper)", CnnConfig()), ("ResNet-50 (paper)", ResNet50Config())])
def test_the_papers_models_have_as_many_parameters_as_ours_at_its_point(model, config):
    assert count_parameters(build_model(config)) == PAPER[model].parameters


def test_what_was_not_published_is_not_made_up():
    for published, accuracy in zip(PUBLISHED[2:], (0.9298, 0.9774), strict=True):
        assert published.metrics == {"accuracy": accuracy}
        assert published.protocol == "not stated"
        assert published.parameters is None
        assert published.confusion is None
