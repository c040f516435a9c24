import io
import re

import pytest
from rich.console import Console

from search.config.search import SearchConfig
from search.listeners.status import Status, estimate_left_s, format_clock
from search.record.trial import State, Trial

ASHA = SearchConfig(grace_epochs=1, num_trials=8, max_epochs=9, reduction_factor=3)
MANY = {f"parameter_{number}": number for number in range(20)}


def make_trial(number, accuracies, *, architecture="cnn", **changes):
    epochs = [{"accuracy": accuracy, "loss": 0.4321, "images_per_second": 1800.4} for accuracy in accuracies]
    params = {"filters": 64, "learning_rate": 0.0012}
    return Trial(number=number, architecture=architecture, epochs=epochs, **{"params": params, **changes})


def show(status, *, width=80, height=24):
    """The picture's lines, without colours."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, _environ={"TERM": "xterm"})
    console.print(status)
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).splitlines()


def build(trials, search=ASHA, **changes):
    return Status(**{"name": "mine", "search": search, "trials": trials, "elapsed_s": 3600.0, **changes})


TRIALS = [
    make_trial(0, [0.625, 0.875, 0.7, *[0.8] * 6], state=State.COMPLETE),
    make_trial(1, [0.9], architecture="resnet50", state=State.PRUNED, reason="stopped by asha at epoch 1"),
    make_trial(2, [0.75, 0.5]),
    make_trial(3, [0.99], state=State.FAIL, reason="loss is nan\nin epoch 2"),
    make_trial(4, []),
    make_trial(5, [0.2, 0.3, 0.1], state=State.PRUNED, reason="stopped by asha at epoch 3"),
]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_picture_has_the_budget_the_best_the_rungs_and_what_runs(width):
    search = SearchConfig(
        grace_epochs=1, num_trials=8, max_epochs=9, reduction_factor=3, max_hours=2.0, max_total_epochs=99
    )
    lines = show(build(TRIALS, search, usage="CPU 97 %"), width=width)
    assert all(len(line) <= width for line in lines)
    rows = [line.split() for line in lines]
    assert rows[0][:2] == ["mine", "trials"]
    assert rows[0][3:] == ["4/8", "COMPLETE", "1", "PRUNED", "2", "FAIL", "1"]
    assert "epochs 16 of 99   elapsed 1:00:00 of 2:00:00   about 1:00:00 left" in lines[1]
    assert lines[2].strip() == "CPU 97 %"
    assert lines[3].strip() == "last failure: trial 3 cnn: loss is nan in epoch 2"
    assert ["cnn", "0.8750", "0", "2"] in rows
    assert ["resnet50", "0.9000", "1", "1"] in rows
    assert ["filters=64", "learning_rate=0.0012"] in rows
    assert ["rung", "(pruned)", "epoch", "1", "epoch", "3", "end", "9"] in rows
    assert ["cnn", "4", "(0)", "2", "(1)", "1"] in rows
    assert ["resnet50", "1", "(1)"] in rows
    assert ["cnn", "2", "2/9", "0.5000", "0.7500", "0.4321", "1,800"] in rows
    assert ["cnn", "4", "0/9"] in rows


@pytest.mark.parametrize(("width", "height", "shown"), [(80, 24, 3), (160, 50, 16)])
def test_a_crowded_study_fits_the_terminal(width, height, shown):
    running = [make_trial(number, [0.5]) for number in range(2, 18)]
    best = [make_trial(0, [0.9], params=MANY), make_trial(1, [0.8], architecture="resnet50", params=MANY)]
    failed = make_trial(18, [], state=State.FAIL, reason="x" * 300)
    lines = show(build([*best, *running, failed], usage="y" * 300), width=width, height=height)
    assert len(lines) < height
    assert all(len(line) <= width for line in lines)
    rows = [line.split() for line in lines]
    assert sum(row[2:3] == ["1/9"] for row in rows) >= shown
    assert sum("parameter_0=0" in line for line in lines) == 2


def test_more_rungs_than_a_terminal_is_wide_are_cut_off():
    search = SearchConfig(grace_epochs=1, num_trials=8, max_epochs=100, reduction_factor=1.3)
    lines = show(build(TRIALS, search), width=80)
    assert all(len(line) <= 80 for line in lines)
    assert any("epoch 1 " in line and line.rstrip().endswith("end 100") for line in lines)


@pytest.mark.parametrize(
    ("scheduler", "shown"), [("asha", True), ("hyperband", True), ("median", False), ("none", False)]
)
def test_rungs_are_shown_where_the_scheduler_has_some(scheduler, shown):
    lines = show(build(TRIALS, SearchConfig(num_trials=8, max_epochs=9, scheduler=scheduler)))
    assert any("rung (pruned)" in line for line in lines) is shown


def test_architectures_with_trials_of_other_lengths_have_rungs_of_their_own():
    search = SearchConfig(num_trials=8, max_epochs={"cnn": 9, "resnet50": 2}, reduction_factor=3)
    rows = [line.split() for line in show(build(TRIALS, search), height=40)]
    assert ["rung", "(pruned)", "epoch", "3", "end", "9"] in rows
    assert ["rung", "(pruned)", "epoch", "1", "end", "2"] in rows
    assert ["cnn", "2", "(1)", "1"] in rows
    assert rows[-2][:3] == ["cnn", "2", "2/9"]


def test_parameters_that_equal_their_defaults_are_left_out():
    text = "\n".join(show(build([make_trial(0, [0.5], params={"filters": 32, "num_blocks": 3})])))
    assert "num_blocks=3" in text
    assert "filters" not in text


def test_a_study_without_trials_has_a_picture():
    assert "0/8" in show(build([], elapsed_s=0.0))[0]


@pytest.mark.parametrize(
    ("search", "ended", "epochs", "left_s"),
    [
        ({}, 0, 1, None),
        ({}, 2, 1, 300.0),
        ({"max_hours": 0.05}, 2, 1, 80.0),
        ({"max_hours": 0.05}, 0, 1, 80.0),
        ({"max_hours": 0.02}, 2, 1, 0.0),
        ({"max_total_epochs": 12}, 2, 4, 50.0),
    ],
)
def test_time_left_is_the_pace_of_what_ended_and_bounded_by_the_budget(search, ended, epochs, left_s):
    trials = [make_trial(number, [0.5] * epochs, state=State.COMPLETE) for number in range(ended)] or [
        make_trial(0, [0.5])
    ]
    config = SearchConfig(num_trials=8, **search)
    assert estimate_left_s(config, trials, 100.0) == pytest.approx(left_s)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(59.9, "0:00:59"), (90_000, "1 day, 1:00:00"), (1e300, "more than 100 years")]
)
def test_any_time_is_shown(seconds, shown):
    assert format_clock(seconds) == shown
