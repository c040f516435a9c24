"""Patches to private methods of Ray Tune, active while jobs run; test_tune_patches.py tests each one."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune import TuneError
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController

from search.cluster.local import replace_methods


@contextmanager
def patch_tune(*, is_local: bool) -> Iterator[None]:
    """Apply all patches within the block, the first one only to a local Ray."""
    with unwrap(), count_every_loss(), count_resets(), take_waiting_workers() if is_local else nullcontext():
        yield


@contextmanager
def take_waiting_workers() -> Iterator[None]:
    """Run jobs in the processes that a local Ray has started already.

    Tune sends some environment variables with every trial, so Ray starts new processes although others wait. Each costs
    half a second of processor time (LOG.md, 2026-11-24). The waiting processes already have the whole environment.
    """
    added, passed_on = class_cache.DEFAULT_ENV_VARS.copy(), class_cache.ENV_VARS_TO_PROPAGATE.copy()
    class_cache.DEFAULT_ENV_VARS.clear()
    class_cache.ENV_VARS_TO_PROPAGATE.clear()
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS.update(added)
        class_cache.ENV_VARS_TO_PROPAGATE.update(passed_on)


def count_every_loss() -> AbstractContextManager[None]:
    """Treat a worker that Ray's memory monitor killed as lost.

    Ray's error for it is not an actor's error, so Tune would end the whole run.
    """
    handlers = {name: getattr(RayActorManager, name) for name in ("_actor_start_failed", "_actor_task_failed")}

    def build(handle: Callable[..., None]) -> Callable[..., None]:
        def handle_all(manager: RayActorManager, *, exception: Exception, **actor: Any) -> None:
            is_known = isinstance(exception, (ray.exceptions.RayActorError, ray.exceptions.RayTaskError))
            if isinstance(exception, ray.exceptions.RayError) and not is_known:
                exception = ray.exceptions.RayActorError(error_msg=str(exception))
            handle(manager, exception=exception, **actor)

        return handle_all

    return replace_methods(RayActorManager, {name: build(handler) for name, handler in handlers.items()})


def count_resets() -> AbstractContextManager[None]:
    """Count a worker that dies or raises during reset as a failure of its next trial.

    Tune receives two errors, one of the worker and one of its task. At the first it queues the trial again, at the
    second it drops the trial silently. In both cases it keeps the trial among those that are being reset.
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

    return replace_methods(TuneController, {"_actor_failed": lose, "_process_trial_failure": fail})


@contextmanager
def unwrap() -> Iterator[None]:
    """Raise the error of the source, such as a full disk, instead of Tune's text about it."""
    try:
        yield
    except TuneError as error:
        if isinstance(error.__context__, Exception):
            raise error.__context__ from None
        raise
