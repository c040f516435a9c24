"""Retrains on Ray: all at once, as many side by side as the resources hold, and shows how far each is."""

import dataclasses
import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from search.cluster.delivery import Delivery, build_delivery
from search.config import StudyConfig
from search.evaluation.result import TestedModel
from search.evaluation.retraining import Place, Progress, Retraining, calibrate, retrain
from search.task import Failure
from search.trial import catch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retrainer:
    """Where retrainings run and are shown; Ray must be connected."""

    config: StudyConfig
    pack: Path
    place: Place
    """Where models lie."""
    console: Console

    def retrain(self, retrainings: Sequence[Retraining]) -> dict[str, TestedModel | Failure]:
        """Retrain and test; return by label the tested model, or why there is none.

        Raises:
            OSError: If the disk is full; what is finished is kept.
        """
        return self._run(retrain, retrainings)

    def calibrate(self, retrainings: Sequence[Retraining]) -> dict[str, float | Failure]:
        """Train on train alone and return by label the threshold that is best on validation, or why there is none.

        Raises:
            OSError: If the disk is full; every finished epoch is kept.
        """
        return self._run(calibrate, retrainings, self.config.data.val_fraction)

    def _run(
        self, work: Callable[..., Iterator[Any]], retrainings: Sequence[Retraining], *arguments: Any
    ) -> dict[str, Any]:
        """Return the last message of each work by label."""
        deliver = build_delivery(self.config, self.pack)
        streams = {self._start(work, deliver, retraining, *arguments): retraining for retraining in retrainings}
        found: dict[str, Any] = {}
        with _Board(self.console, retrainings) as board:
            for retraining, message in _listen(streams):
                board.show(retraining, message)
                if isinstance(message, Failure) and message.is_disk_full:
                    raise OSError(errno.ENOSPC, f"{retraining.label}: {message.reason}")
                if not isinstance(message, Progress):
                    found[retraining.label] = message
        return found

    def _start(
        self, work: Callable[..., Iterator[Any]], deliver: Delivery, retraining: Retraining, *arguments: Any
    ) -> Any:
        granted = self.config.get_resources(retraining.architecture)
        remote = ray.remote(num_cpus=granted.cpus, num_gpus=granted.gpus, max_retries=self.config.search.max_failures)
        return remote(_work).remote(work, deliver, retraining, self.place, granted.cpus, granted.gpus, *arguments)


def _work(
    work: Callable[..., Iterator[Any]], deliver: Delivery, retraining: Retraining, *arguments: Any
) -> Iterator[Any]:
    """Work on whatever node this runs on."""
    pack = catch(deliver)
    if isinstance(pack, Failure):
        yield pack
        return
    yield from work(retraining, pack, *arguments)


class _Board:
    """What is shown: bars on a terminal, else a line per epoch and one per end."""

    def __init__(self, console: Console, retrainings: Sequence[Retraining]) -> None:
        self._console = console
        columns = TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._bars = Bars(*columns, console=console, disable=not console.is_terminal)
        self._tasks = {
            retraining.label: self._bars.add_task(retraining.label, total=retraining.epochs, start=False)
            for retraining in retrainings
        }

    def __enter__(self) -> "_Board":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, retraining: Retraining, message: Any) -> None:
        task = self._tasks[retraining.label]
        if isinstance(message, Progress):
            self._bars.start_task(task)
            self._bars.update(task, completed=message.epoch)
            if message.is_new and not self._console.is_terminal:
                loss = f"train loss {message.metrics['train_loss']:.4f}"
                self._console.print(f"  {retraining.label}: epoch {message.epoch}/{retraining.epochs}, {loss}")
            return
        self._bars.stop_task(task)
        self._console.print(f"  {retraining.label}: {_describe(message)}")


def _describe(message: TestedModel | Failure | float) -> str:
    match message:
        case TestedModel(metrics=metrics):
            return f"test accuracy {metrics['accuracy']:.4f}"
        case Failure(reason=reason):
            return f"failed: {reason}"
    return f"threshold {message:.4f}"


def _listen(streams: dict[Any, Retraining]) -> Iterator[tuple[Retraining, Any]]:
    """Yield what the works send, each as soon as it comes; a lost worker's last word is a Failure."""
    waiting = list(streams)
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1)
        stream: Any = ready[0]
        try:
            message = ray.get(next(stream))
        except StopIteration:
            continue
        except ray.exceptions.RayError as error:
            yield streams[stream], Failure(f"its worker was lost ({type(error).__name__})", str(error))
            continue
        waiting.append(stream)
        yield streams[stream], message
