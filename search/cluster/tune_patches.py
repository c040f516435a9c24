"""What of Ray Tune is otherwise for as long as a study runs; each of these reaches into Tune's own names."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune import TuneError
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController


@contextmanager
def take_waiting_workers() -> Iterator[None]:
    """Let trials run in the workers that a Ray of our own has started already, with our whole environment.

    Tune sends some variables along with every trial, and for any that are sent Ray starts new processes beside those
    that wait: half a second of processor time each (LOG.md, 2026-11-24).
    """
    added, passed_on = class_cache.DEFAULT_ENV_VARS.copy(), class_cache.ENV_VARS_TO_PROPAGATE.copy()
    class_cache.DEFAULT_ENV_VARS.clear()
    class_cache.ENV_VARS_TO_PROPAGATE.clear()
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS.update(added)
        class_cache.ENV_VARS_TO_PROPAGATE.update(passed_on)


@contextmanager
def count_every_loss() -> Iterator[None]:
    """Let Tune take a worker that Ray ended to free memory for a lost one, as any other that is gone.

    Ray has an error of its own for it, which is none of an actor, and Tune gives up the whole search at it.
    """
    handlers = {name: getattr(RayActorManager, name) for name in ("_actor_start_failed", "_actor_task_failed")}

    def build(handle: Callable[..., None]) -> Callable[..., None]:
        def handle_all(manager: RayActorManager, *, exception: Exception, **actor: Any) -> None:
            is_known = isinstance(exception, (ray.exceptions.RayActorError, ray.exceptions.RayTaskError))
            if isinstance(exception, ray.exceptions.RayError) and not is_known:
                exception = ray.exceptions.RayActorError(error_msg=str(exception))
            handle(manager, exception=exception, **actor)

        return handle_all

    with _replace(RayActorManager, {name: build(handler) for name, handler in handlers.items()}):
        yield


@contextmanager
def count_resets() -> Iterator[None]:
    """Let a worker that is lost, or breaks, as it is made ready for its next trial be one that is lost in that trial.

    Tune hears of such a loss twice, of the worker's and of its task's; with the first it lines the trial up again, with
    the second it gives it up without a word to anyone, and either way it takes it for one that is being made ready.
    """
    handlers = {name: getattr(TuneController, name) for name in ("_actor_failed", "_process_trial_failure")}

    def start(controller: Any, trial: Any) -> None:
        if trial in controller._resetting_trials:
            controller._resetting_trials.remove(trial)
            controller._unstage_trial_with_resources(trial)
            controller._set_trial_status(trial, "RUNNING")

    def lose(controller: Any, tracked_actor: Any, exception: Exception) -> None:
        start(controller, controller._actor_to_trial[tracked_actor])
        handlers["_actor_failed"](controller, tracked_actor, exception)

    def fail(controller: Any, trial: Any, exception: Exception) -> None:
        start(controller, trial)
        handlers["_process_trial_failure"](controller, trial, exception)

    with _replace(TuneController, {"_actor_failed": lose, "_process_trial_failure": fail}):
        yield


@contextmanager
def unwrap() -> Iterator[None]:
    """Raise what broke in the study, such as a journal on a full disk, instead of Tune's text about it."""
    try:
        yield
    except TuneError as error:
        if isinstance(error.__context__, Exception):
            raise error.__context__ from None
        raise


@contextmanager
def _replace(owner: type, methods: Mapping[str, Callable[..., None]]) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in methods}
    for name, method in methods.items():
        setattr(owner, name, method)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(owner, name, method)
