"""A training function of the user: it continues as if it had never stopped."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from trainables.errors import FunctionError, TrainingError
from trainables.own import Run, train_own

CPU = torch.device("cpu")


class Walker:
    """An object without `state_dict`."""

    def __init__(self):
        self.steps = [0.0]


def wander(run, scale: float = 1.0):
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    walker, seen, generator = Walker(), Counter(), np.random.default_rng(run.seed)
    buffer, private = np.zeros(3), random.Random(run.seed)
    for epoch in run.epochs(model, optimizer, walker, seen=seen, generator=generator, buffer=buffer, private=private):
        loss = model(torch.rand(8, 3)).square().mean() * scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        drawn = random.random() + np.random.rand() + generator.random() + private.random()  # noqa: NPY002
        walker.steps.append(walker.steps[-1] + drawn)
        seen[epoch] += 1
        buffer += drawn
        yield {"loss": loss, "walked": walker.steps[-1], "seen": sum(seen.values()), "buffer": buffer.sum()}


def start(function=wander, resume=None, max_epochs=5, **params):
    run = Run(seed=7, device=CPU, max_epochs=max_epochs, number=0, resume=resume)
    return train_own(function, params, run)


def list_metrics(epochs):
    return [{name: value for name, value in epoch.metrics.items() if name != "seconds"} for epoch in epochs]


def test_a_function_that_continues_gives_what_it_gives_in_one_go():
    straight = list_metrics(start())
    assert [metrics["epoch"] for metrics in straight] == [1, 2, 3, 4, 5]
    epochs, state, found = start(), None, []
    for _ in range(5):  # cut after each epoch
        epoch = next(epochs)
        found.append(epoch)
        state = epoch.state()
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        epochs = start(resume=state)
    assert list_metrics(found) == straight
    assert list(start(resume=state)) == []


def test_random_numbers_drawn_outside_of_a_function_do_not_change_its_own():
    straight = list_metrics(start())
    disturbed = []
    for epoch in start():
        disturbed.append(epoch)
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
    assert list_metrics(disturbed) == straight


def test_kept_objects_that_refer_to_each_other_stay_the_same_objects():
    def remember(run):
        members, walker = [], Walker()
        walker.members = members
        for epoch in run.epochs(members, walker):
            members.append(epoch)
            yield {"loss": len(walker.members)}

    state = next(start(remember)).state()
    assert [metrics["loss"] for metrics in list_metrics(start(remember, resume=state))] == [2, 3, 4, 5]


def test_a_function_may_end_before_its_last_epoch():
    def be_short(run):
        for epoch in run.epochs():
            yield {"loss": 1 / epoch}
            if epoch == 2:
                return

    assert [epoch.number for epoch in start(be_short)] == [1, 2]


def yield_number(run):
    for _ in run.epochs():
        yield 0.5


def yield_nan(run):
    for _ in run.epochs():
        yield {"loss": float("nan")}


def yield_too_much(run):
    for _ in run.epochs():
        yield {"loss": 1e305}


def yield_text(run):
    for _ in run.epochs():
        yield {"loss": "low"}


def yield_two(run):
    for _ in run.epochs():
        yield {"loss": torch.zeros(2)}


def yield_nothing(run):
    for epoch in run.epochs():
        if epoch == 2:
            yield {"loss": 1.0}


def yield_none(run):
    for _ in run.epochs():
        yield


def yield_twice(run):
    for _ in run.epochs():
        yield {"loss": 1.0}
        yield {"loss": 2.0}


def yield_outside(_run):
    yield {"loss": 1.0}


def ask_twice(run):
    for _ in run.epochs():
        yield {"loss": 1.0}
        next(run.epochs())


def keep_number(run):
    for _ in run.epochs(step=3):
        yield {"loss": 1.0}


def keep_lock(run):
    for _ in run.epochs({"function": lambda: None}):
        yield {"loss": 1.0}


def raise_error(run):
    for _ in run.epochs():
        raise KeyError("rate")
        yield


def leave(_run):
    raise SystemExit(3)
    yield


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (yield_number, "epoch 1 yielded 0.5: yield a dict of numbers"),
        (yield_none, "epoch 1 yielded None: yield a dict of numbers"),
        (yield_text, "epoch 1 yielded loss = 'low': yield one number"),
        (yield_two, r"epoch 1 yielded loss = tensor\(\[0., 0.\]\): yield one number"),
        (yield_nothing, "epoch 1 ended without a yield"),
        (yield_twice, "twice in epoch 1"),
        (yield_outside, "yielded outside of an epoch"),
        (ask_twice, "run.epochs was called twice"),
        (keep_number, "cannot restore step, a value of type int: put it into a dict or a list"),
        (keep_lock, "an object of run.epochs cannot be stored in the checkpoint .*: give run.epochs only what"),
    ],
)
def test_a_function_that_is_written_wrongly_is_told_so_in_one_sentence(function, reason):
    with pytest.raises(FunctionError, match=reason):
        _ = [epoch.state() for epoch in start(function)]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (yield_nan, "loss is nan in epoch 1"),
        (yield_too_much, "loss is 1e[+]305 in epoch 1, above the limit of 1e[+]300"),
        (raise_error, "KeyError: 'rate'"),
        (leave, "SystemExit: 3"),
    ],
)
def test_a_function_that_breaks_is_a_failure_of_its_trial(function, reason):
    with pytest.raises(TrainingError, match=reason):
        _ = [epoch.state() for epoch in start(function)]


def test_each_epoch_yields_the_metric_of_the_study():
    run = Run(seed=7, device=CPU, max_epochs=5, number=0)
    with pytest.raises(FunctionError, match="epoch 1 yielded no error, only loss: yield it, or set metric to one"):
        next(train_own(yield_twice, {}, run, metric="error"))


def test_the_error_of_a_function_has_its_cause():
    with pytest.raises(TrainingError) as caught:
        next(start(raise_error))
    assert isinstance(caught.value.__cause__, KeyError)
