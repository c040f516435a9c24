import numpy as np
import pytest
import torch

from search.cluster import connect
from search.config import parse
from search.evaluate import check_winners, choose_winners, evaluate, plan
from search.journal import State, Trial
from search.retraining import score
from trainables.errors import InputError


def make_trial(number, *values, architecture="cnn", state=State.COMPLETE, reason=None):
    epochs = [{"epoch": epoch, "accuracy": value} for epoch, value in enumerate(values, start=1)]
    params = {"filters": number}
    return Trial(number=number, architecture=architecture, params=params, epochs=epochs, state=state, reason=reason)


def make_config(**evaluation):
    return parse({"name": "x", "evaluation": evaluation, "search": {"max_epochs": 3}})


def test_winners_are_the_best_on_validation_at_any_epoch():
    trials = [make_trial(0, 0.7, 0.8), make_trial(1, 0.9, 0.6), make_trial(2, 0.85, state=State.PRUNED)]
    assert [trial.number for trial in choose_winners(trials, "cnn", 2)] == [1, 2]


def test_the_earlier_trial_wins_a_tie():
    assert choose_winners([make_trial(0, 0.8), make_trial(1, 0.8)], "cnn", 1)[0].number == 0


def test_a_failed_trial_never_wins():
    assert choose_winners([make_trial(0, 0.99, state=State.FAIL), make_trial(1, 0.1)], "cnn", 5)[0].number == 1


def test_a_retraining_ends_where_its_winner_was_best():
    trials = [make_trial(0, 0.7, 0.9, 0.8), make_trial(1, 0.5, architecture="resnet50")]
    retrainings = plan(make_config(seeds=2), trials, "f" * 64)
    assert [retraining.label for retraining in retrainings] == [
        "cnn-seed0",
        "cnn-seed1",
        "resnet50-seed0",
        "resnet50-seed1",
    ]
    assert (retrainings[0].epochs, retrainings[0].max_epochs) == (2, 3)
    assert len({retraining.train_seed for retraining in retrainings}) == 4


def test_lower_ranks_have_their_own_files():
    trials = [make_trial(0, 0.7), make_trial(1, 0.9), make_trial(2, 0.5, architecture="resnet50")]
    labels = [retraining.label for retraining in plan(make_config(seeds=1, top_k=2), trials, "f" * 64)]
    assert labels == ["cnn-seed0", "cnn-rank2-seed0", "resnet50-seed0"]


def test_an_architecture_without_a_trial_is_noted_and_none_at_all_refused():
    assert check_winners(make_config(), [make_trial(0, 0.5)]) == ["No resnet50 trial was run."]
    with pytest.raises(InputError, match="nothing to evaluate"):
        check_winners(make_config(), [])


def test_an_architecture_whose_trials_all_failed_is_noted_with_the_reason():
    failed = make_trial(1, architecture="resnet50", state=State.FAIL, reason="out of GPU memory")
    found = check_winners(make_config(), [make_trial(0, 0.5), failed])
    assert found == ["Every resnet50 trial failed, trial 1: out of GPU memory."]


@pytest.mark.ray
def test_retrainings_that_fail_are_named_and_those_that_succeeded_are_not_done_again(tmp_path, pack_copy):
    config = parse(
        {
            "name": "x",
            "results": str(tmp_path),
            "search": {"max_epochs": 1, "architectures": ["cnn"]},
            "evaluation": {"seeds": 1},
            "cluster": {"cpus": 1},
        }
    )
    trial = make_trial(0, 0.5)
    trial.params = {"filters": 4, "batch_size": 8}
    config.directory.mkdir()
    told = []
    hidden = pack_copy / "test.labels"
    content = hidden.read_bytes()
    with connect(config):
        hidden.unlink()
        with pytest.raises(InputError, match=r"nothing to report\. The retraining cnn-seed0 failed: .*test\.labels"):
            evaluate(config, [trial], pack_copy, told.append)
        hidden.write_bytes(content)
        models, failures = evaluate(config, [trial], pack_copy, told.append)
        assert failures == []
        before = (config.directory / "models" / "cnn-seed0.safetensors").stat().st_mtime_ns
        assert evaluate(config, [trial], pack_copy, told.append)[0] == models
    assert told == [*models, *models]
    assert (config.directory / "models" / "cnn-seed0.safetensors").stat().st_mtime_ns == before


def expand(tn, fp, fn, tp):
    """Return labels and logits that make this confusion matrix, REAL positive."""
    labels = torch.tensor(np.repeat([0, 0, 1, 1], [tn, fp, fn, tp]))
    return labels, torch.tensor(np.repeat([-1.0, 1.0, -1.0, 1.0], [tn, fp, fn, tp]), dtype=torch.float32)


@pytest.mark.parametrize(
    ("confusion", "precision", "recall", "f1", "accuracy"),
    [
        ((9428, 572, 458, 9542), 0.9434, 0.9542, 0.9488, 0.9485),
        ((9892, 108, 694, 9306), 0.9885, 0.9306, 0.9587, 0.9599),
    ],
)
def test_table_1_of_the_paper_follows_from_its_confusion_matrices(confusion, precision, recall, f1, accuracy):
    tn, fp, fn, tp = confusion
    scored = score(*expand(*confusion))
    assert scored["confusion"] == ((tn, fp), (fn, tp))
    found = [round(scored["metrics"][name], 4) for name in ("precision", "recall", "f1", "accuracy")]
    assert found == [precision, recall, f1, accuracy]
