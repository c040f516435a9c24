import io
import re
import time

import pytest
from rich.console import Console

from search.journal import State, Trial
from search.live import LiveView, PlainLog, build_live


@pytest.fixture(autouse=True)
def _outside_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)


def build_console(*, width: int = 80, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=24, _environ={"TERM": "xterm"})


def build_view(console: Console, **changes) -> LiveView:
    view = build_live(**{"total_trials": 8, "max_epochs": 4, "max_hours": None, "console": console, **changes})
    assert isinstance(view, LiveView)
    return view


def make_trial(number: int, accuracies: list[float], *, architecture: str = "cnn", **changes) -> Trial:
    trial = Trial(number=number, architecture=architecture, params={"filters": 64, "learning_rate": 0.0012})
    for accuracy in accuracies:
        add_epoch(trial, accuracy)
    for name, value in changes.items():
        setattr(trial, name, value)
    return trial


def add_epoch(trial: Trial, accuracy: float) -> Trial:
    trial.epochs.append({"accuracy": accuracy, "loss": 0.4321, "images_per_second": 1800.4})
    return trial


def show(view: LiveView, console: Console) -> str:
    """The picture as it stands, without colours."""
    console.file = io.StringIO()
    console.print(view.render())
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())


def test_the_plain_log_has_one_line_per_event():
    console = build_console(terminal=False)
    log = build_live(total_trials=8, max_epochs=4, max_hours=None, console=console)
    pruned, failed, resumed = make_trial(3, []), make_trial(4, [], architecture="resnet50"), make_trial(5, [0.5])
    log.on_start(pruned)
    log.on_epoch(add_epoch(pruned, 0.875))
    log.on_epoch(add_epoch(pruned, 0.8125))
    pruned.state = State.PRUNED
    log.on_end(pruned)
    log.on_start(failed)
    failed.state, failed.reason = State.FAIL, "loss is nan in epoch 1"
    log.on_end(failed)
    log.on_start(resumed)
    log.note("the tracker [W&B] goes on offline")
    log.close()

    assert console.file.getvalue().splitlines() == [
        "trial 3 cnn starts: filters=64 learning_rate=0.0012",
        "trial 3 cnn epoch 1/4: accuracy 0.8750, loss 0.4321, 1800 images/s",
        "trial 3 cnn epoch 2/4: accuracy 0.8125, loss 0.4321, 1800 images/s",
        "trial 3 cnn PRUNED after 2 epochs: accuracy 0.8125 (best 0.8750), 1800 images/s",
        "trial 4 resnet50 starts: filters=64 learning_rate=0.0012",
        "trial 4 resnet50 FAIL after 0 epochs: loss is nan in epoch 1",
        "trial 5 cnn goes on at epoch 2: filters=64 learning_rate=0.0012",
        "the tracker [W&B] goes on offline",
    ]


def test_plain_lines_are_never_wrapped():
    console = build_console(width=20, terminal=False)
    build_live(total_trials=1, max_epochs=1, max_hours=None, console=console).on_start(make_trial(0, []))

    assert console.file.getvalue() == "trial 0 cnn starts: filters=64 learning_rate=0.0012\n"


def test_a_terminal_in_ci_gets_the_plain_log(monkeypatch):
    monkeypatch.setenv("CI", "true")

    assert isinstance(build_live(total_trials=1, max_epochs=1, max_hours=None, console=build_console()), PlainLog)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_view_shows_running_trials_best_ones_and_the_budget(width):
    console = build_console(width=width)
    running = make_trial(2, [0.75, 0.5])
    trials = [
        make_trial(0, [0.625, 0.875], state=State.COMPLETE),
        make_trial(1, [0.9], architecture="resnet50", state=State.PRUNED),
        make_trial(3, [0.99], state=State.FAIL),
    ]
    view = build_view(console, trials=trials, elapsed_s=3600.0, max_hours=2.0)
    view.on_start(running)
    view.on_start(make_trial(4, []))
    picture = show(view, console)
    view.close()

    assert all(len(line) <= width for line in picture.splitlines())
    rows = [line.split() for line in picture.splitlines()]
    assert rows[0][2:] == ["3/8", "COMPLETE", "1", "PRUNED", "1", "FAIL", "1"]
    assert rows[1][:6] == ["epochs", "6", "elapsed", "1:00:00", "of", "2:00:00"]
    assert ["cnn", "0.8750", "0", "2", "filters=64", "learning_rate=0.0012"] in rows
    assert ["resnet50", "0.9000", "1", "1", "filters=64", "learning_rate=0.0012"] in rows
    assert ["cnn", "2", "2/4", "0.5000", "0.7500", "0.4321", "1,800"] in rows
    assert ["cnn", "4", "0/4"] in rows


def test_parameters_that_equal_their_defaults_are_left_out():
    console = build_console()
    trial = make_trial(0, [0.5])
    trial.params = {"filters": 32, "num_blocks": 3}
    view = build_view(console, trials=[trial])

    assert "num_blocks=3" in show(view, console)
    assert "filters" not in show(view, console)


def test_an_ended_trial_moves_from_running_to_the_counts():
    console = build_console()
    view, trial = build_view(console), make_trial(0, [])
    view.on_start(trial)
    view.on_epoch(add_epoch(trial, 0.5))
    assert "1/4" in show(view, console)
    trial.state = State.PRUNED
    view.on_end(trial)
    picture = show(view, console)
    view.close()

    assert "PRUNED 1" in picture
    assert "1/4" not in picture


def test_time_left_is_unknown_before_the_first_end_and_bounded_by_the_budget():
    console = build_console()
    view, trial = build_view(console), make_trial(0, [0.5])
    view.on_start(trial)
    assert "left" not in show(view, console)
    time.sleep(0.3)
    trial.state = State.COMPLETE
    view.on_end(trial)
    assert re.search(r"about 0:00:0[2-9] left", show(view, console))  # seven more of 0.3 s
    view.close()

    assert "about 0:59:59 left" in show(build_view(console, max_hours=1.0), console)


def test_an_epoch_may_be_recorded_before_the_view_is_told():
    console = build_console()
    view, trial = build_view(console), make_trial(0, [])
    view.on_start(trial)
    add_epoch(trial, 0.625)
    picture = show(view, console)
    view.close()

    assert "0.6250" in picture


def test_the_view_refreshes_by_itself_above_it_come_notes_and_close_restores_the_cursor():
    console = build_console()
    view = build_view(console)
    view.on_start(make_trial(0, []))
    view.note("a note [in brackets]")
    written = len(console.file.getvalue())
    time.sleep(0.6)
    frames = console.file.getvalue()[written:].count("trials")
    view.close()
    view.close()

    assert 1 <= frames <= 4
    assert "a note [in brackets]\n" in console.file.getvalue()
    assert console.file.getvalue().rindex("\x1b[?25h") > console.file.getvalue().rindex("\x1b[?25l")
