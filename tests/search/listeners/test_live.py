import io
import re
import time

import pytest
from rich.console import Console

from search.config.load import parse
from search.listeners.live import REFRESHES_PER_SECOND, LiveView
from search.listeners.log import PlainLog, build_live
from search.record.trial import State, Trial
from trainables.config import WITHOUT_GRAPH


@pytest.fixture(autouse=True)
def _outside_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)


def build_console(*, width: int = 80, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=24, _environ={"TERM": "xterm"})


def build(console: Console, **changes) -> PlainLog | LiveView:
    search = {"num_trials": 8, "max_epochs": 4}
    return build_live(parse({"name": "mine", "search": search}), console=console, **changes)


def build_view(console: Console, **changes) -> LiveView:
    view = build(console, **changes)
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
    log = build(console)
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
    log.note("the tracker [W&B] continues offline")
    log.close()

    assert console.file.getvalue().splitlines() == [
        "trial 3 cnn starts: filters=64 learning_rate=0.0012",
        "trial 3 cnn epoch 1/4: accuracy 0.8750, loss 0.4321, 1800 images/s",
        "trial 3 cnn epoch 2/4: accuracy 0.8125, loss 0.4321, 1800 images/s",
        "trial 3 cnn PRUNED after 2 epochs: accuracy 0.8125 (best 0.8750), 1800 images/s",
        "trial 4 resnet50 starts: filters=64 learning_rate=0.0012",
        "trial 4 resnet50 FAIL after 0 epochs: loss is nan in epoch 1",
        "trial 5 cnn continues at epoch 2: filters=64 learning_rate=0.0012",
        "the tracker [W&B] continues offline",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_that_trials_train_without_a_cuda_graph_is_said_once_with_the_reason(terminal):
    console = build_console(terminal=terminal)
    log = build(console)
    recorded, eager = make_trial(1, [0.5]), make_trial(2, [0.5])
    recorded.attributes["device"] = "NVIDIA H200"
    eager.attributes["device"] = f"NVIDIA H200{WITHOUT_GRAPH}RuntimeError: out of [memory]"
    for trial in (recorded, eager, eager):
        log.on_epoch(trial)
    log.close()
    told = [line for line in console.file.getvalue().splitlines() if "CUDA graph" in line]
    assert told == [
        "trial 2 cnn trains without a CUDA graph, more slowly, with the same results: RuntimeError: out of [memory]"
    ]


def test_plain_lines_are_never_wrapped():
    console = build_console(width=20, terminal=False)
    build(console).on_start(make_trial(0, []))

    assert console.file.getvalue() == "trial 0 cnn starts: filters=64 learning_rate=0.0012\n"


def test_a_terminal_in_ci_gets_the_plain_log(monkeypatch):
    monkeypatch.setenv("CI", "true")

    assert isinstance(build(build_console()), PlainLog)


def test_a_terminal_gets_the_plain_log_when_it_is_asked_for():
    assert isinstance(build(build_console(), plain=True), PlainLog)


def test_the_view_shows_what_the_record_held_and_what_was_started_since():
    console = build_console()
    view = build_view(console, trials=[make_trial(0, [0.625, 0.875], state=State.COMPLETE)], elapsed_s=3600.0)
    view.on_start(make_trial(1, [0.75, 0.5]))
    picture = show(view, console)
    view.close()

    rows = [line.split() for line in picture.splitlines()]
    assert rows[0][:2] == ["mine", "trials"]
    assert rows[0][3:5] == ["1/8", "COMPLETE"]
    assert rows[1][:4] == ["epochs", "4", "elapsed", "1:00:00"]
    assert ["cnn", "0.8750", "0", "2"] in rows
    assert ["cnn", "1", "2/4", "0.5000", "0.7500", "0.4321", "1,800"] in rows


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
    written, begin = len(console.file.getvalue()), time.monotonic()
    while (frames := console.file.getvalue()[written:].count("trials")) < 2:
        time.sleep(0.05)
    seconds = time.monotonic() - begin
    view.close()
    view.close()

    assert frames <= REFRESHES_PER_SECOND * seconds + 2
    assert "a note [in brackets]\n" in console.file.getvalue()
    assert console.file.getvalue().rindex("\x1b[?25h") > console.file.getvalue().rindex("\x1b[?25l")
