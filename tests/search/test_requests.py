"""What people ask of a search: recorded before anything acts on it, done once, whatever is killed."""

import json

import pytest

from search.cluster.trials import Trials
from search.config.load import parse
from search.record.journal import Journal
from search.record.requests import LOOK_S, Inbox, Request, has_requests, send_request
from search.record.trial import State
from search.report.ending import list_ending
from search.study import Study
from trainables.errors import InputError

SPACE = {"cnn": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "filters": {"choice": [8, 16, 32]}}}


class Driver:
    """A driver without workers: takes requests, hands out trials, reports an epoch of each in turn."""

    def __init__(self, folder, **search):
        settings = {"num_trials": 4, "max_epochs": 3, "scheduler": "none", "architectures": ["cnn"], **search}
        config = parse({"name": "x", "search": settings, "space": SPACE})
        self.notes = []
        self.study = Study(config, Journal(folder / "study.journal", "x", note=print))
        self.inbox = Inbox(folder, self.notes.append)
        self.trials = Trials(self.study, lambda trial: trial, self.inbox)

    def look(self):
        self.inbox._looked = -LOOK_S
        return self.trials.take_requests()

    def train(self, number, epochs=1):
        trial = self.study.trials[number]
        for _ in range(epochs):
            epoch = len(trial.epochs) + 1
            self.study.report(number, {"epoch": epoch, "accuracy": 0.5 + 0.01 * epoch}, "cpu")

    def run(self):
        while (trial := self.trials.ask()) is not None:
            self.train(trial.number, 3)


def test_a_point_that_was_asked_for_is_the_next_trial_and_the_sampler_adds_the_rest(tmp_path):
    driver = Driver(tmp_path)
    first = driver.trials.ask()
    send_request(tmp_path, Request(ask={"cnn.filters": 32}, trial=None))
    send_request(tmp_path, Request(ask={"cnn.filters": 8, "cnn.learning_rate": 0.01}, trial=None))
    assert driver.look() == set()
    assert not has_requests(tmp_path)
    second, third, fourth = (driver.trials.ask() for _ in range(3))
    assert [first.enqueued, fourth.enqueued] == [None, None]
    assert (second.params["filters"], 1e-4 <= second.params["learning_rate"] <= 1e-1) == (32, True)
    assert (third.params["filters"], third.params["learning_rate"]) == (8, 0.01)
    assert Driver(tmp_path).study.trials == driver.study.trials


def test_a_point_is_trained_although_all_trials_were_handed_out(tmp_path):
    driver = Driver(tmp_path, num_trials=1)
    driver.run()
    assert driver.study.is_over
    send_request(tmp_path, Request(ask={"cnn.filters": 32}, trial=None))
    resumed = Driver(tmp_path, num_trials=1)
    resumed.look()
    assert not resumed.study.is_over
    resumed.run()
    assert resumed.study.trials[1].state is State.COMPLETE
    assert resumed.study.trials[1].params["filters"] == 32


def test_a_point_that_was_a_trial_is_trained_again_if_somebody_asks(tmp_path):
    driver = Driver(tmp_path)
    for _ in range(2):
        send_request(tmp_path, Request(ask={"cnn.filters": 8, "cnn.learning_rate": 0.01}, trial=None))
    driver.look()
    driver.run()
    assert driver.study.trials[0].params == driver.study.trials[1].params


@pytest.mark.parametrize(
    "request_",
    [Request(ask={"cnn.filters": 32}, trial=None), Request(ask=None, trial=None), Request(ask=None, trial=0)],
)
def test_a_kill_between_the_record_and_the_end_of_the_request_does_nothing_twice(tmp_path, request_):
    driver = Driver(tmp_path)
    driver.trials.ask()
    driver.train(0)
    send_request(tmp_path, request_)
    (path,) = (tmp_path / "requests").iterdir()
    content = path.read_bytes()
    driver.look()
    assert not path.exists()
    told = [(trial.enqueued, trial.state, trial.reason, trial.epochs) for trial in driver.study.trials]
    path.write_bytes(content)  # as if the kill had come before it was deleted
    resumed = Driver(tmp_path)
    assert resumed.look() == set()
    assert not path.exists()
    assert [(trial.enqueued, trial.state, trial.reason, trial.epochs) for trial in resumed.study.trials] == told
    assert len(resumed.study._journal.list_stops()) <= 1


def test_a_request_that_was_not_recorded_before_a_kill_is_taken_after_it(tmp_path):
    class Killed(Exception):  # noqa: N818 it is what happens
        pass

    def die(*_):
        raise Killed

    driver = Driver(tmp_path)
    driver.study.enqueue = die
    send_request(tmp_path, Request(ask={"cnn.filters": 32}, trial=None))
    with pytest.raises(Killed):
        driver.look()
    resumed = Driver(tmp_path)
    resumed.look()
    assert resumed.trials.ask().params["filters"] == 32


def test_a_trial_is_ended_with_what_it_has_and_the_search_continues(tmp_path):
    driver = Driver(tmp_path)
    for _ in range(3):
        driver.trials.ask()
    driver.train(1, 2)
    for number in (0, 1, 1, 7, -1):
        send_request(tmp_path, Request(ask=None, trial=number))
    assert driver.look() == {0, 1}
    ended = [(trial.state, trial.reason) for trial in driver.study.trials[:2]]
    assert ended == [
        (State.FAIL, "stopped by hand after 0 epochs"),
        (State.PRUNED, "stopped by hand after 2 epochs"),
    ]
    assert driver.study.report(1, {"epoch": 3, "accuracy": 0.9}, "cpu")
    assert driver.study.trials[2].state is State.RUNNING
    resumed = Driver(tmp_path)
    assert [(trial.state, trial.reason) for trial in resumed.study.trials[:2]] == ended
    resumed.run()
    assert resumed.study.is_over


@pytest.mark.parametrize("is_handed_out", [False, True])
def test_a_trial_that_waits_can_be_ended_too(tmp_path, is_handed_out):
    driver = Driver(tmp_path)
    if is_handed_out:
        driver.trials.ask()
        driver = Driver(tmp_path)  # it waits to be continued
    else:
        send_request(tmp_path, Request(ask={"cnn.filters": 32}, trial=None))
    send_request(tmp_path, Request(ask=None, trial=0))
    driver.look()
    assert driver.study.trials[0].state is State.FAIL
    assert driver.trials.ask().number == 1


def test_a_search_that_was_stopped_halts_and_continues_only_with_another_budget(tmp_path):
    driver = Driver(tmp_path)
    driver.trials.ask()
    driver.train(0, 2)
    send_request(tmp_path, Request(ask=None, trial=None))
    driver.look()
    why = "it was stopped by hand, with search.num_trials = 4"
    assert driver.trials.halt_reason == why
    resumed = Driver(tmp_path)  # a kill came before its trials had ended
    assert resumed.trials.ask() is None
    resumed.study.halt(resumed.study.halt_reason)
    assert (resumed.study.trials[0].state, resumed.study.trials[0].reason) == (State.PRUNED, why)
    study = resumed.study
    assert list_ending(study.config, study.trials, study._journal) == [f"The search ended early: {why}."]
    assert Driver(tmp_path).trials.halt_reason == why
    for other in ({"num_trials": 5}, {"max_hours": 9.0}, {"target": 0.9}):
        assert Driver(tmp_path, **other).trials.halt_reason is None
    Driver(tmp_path, num_trials=5).run()
    assert len(Driver(tmp_path, num_trials=5).study.trials) == 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"ask": {"cnn.filters": [1]}}',
        b'{"ask": {"cnn.filters": NaN}}',
        b'{"trial": "one"}',
        b'{"ask": {"cnn.filters": "' + b"x" * 70_000 + b'"}}',
        b"\xff",
    ],
)
def test_a_request_that_nobody_can_read_is_left_out_with_a_sentence(tmp_path, content):
    driver = Driver(tmp_path)
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "1.json").write_bytes(content)
    send_request(tmp_path, Request(ask={"cnn.filters": 32}, trial=None))
    assert driver.look() == set()
    assert len(driver.notes) == 1
    assert driver.notes[0].startswith("a request is ignored: ")
    assert [trial.enqueued for trial in driver.study.trials] == [{"cnn.filters": 32}]
    assert not has_requests(tmp_path)


def test_a_link_is_no_request(tmp_path):
    driver = Driver(tmp_path)
    (tmp_path / "elsewhere").write_text(json.dumps({"ask": {"cnn.filters": 32}}))
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "1.json").symlink_to(tmp_path / "elsewhere")
    driver.look()
    assert driver.study.trials == []
    assert "is a link" in driver.notes[0]
    assert (tmp_path / "elsewhere").exists()


def test_a_point_outside_the_space_fails_alone(tmp_path):
    driver = Driver(tmp_path)
    for point in ({"cnn.filters": 9}, {"cnn.filter": 8}, {"resnet50.learning_rate": 0.01}, {}):
        send_request(tmp_path, Request(ask=point, trial=None))
    driver.look()
    driver.run()
    assert [trial.state for trial in driver.study.trials] == [State.FAIL] * 4
    assert all(trial.reason.startswith("the enqueued point cannot be trained") for trial in driver.study.trials)


def test_a_half_written_request_does_not_exist_yet(tmp_path):
    driver = Driver(tmp_path)
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "1.json.partial").write_text('{"ask"')
    driver.look()
    assert driver.notes == []
    assert (tmp_path / "requests" / "1.json.partial").exists()


def test_a_folder_that_is_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "requests").write_text("")
    with pytest.raises(InputError, match="cannot write a request into"):
        send_request(tmp_path, Request(ask=None, trial=None))
