"""Retrains on Ray: all at once, as many side by side as the resources hold, and shows how far each is."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from search.cluster.agreement import NodeError
from search.cluster.job import Failure
from search.cluster.losses import is_node_lost
from search.cluster.silence import Silence
from search.cluster.transfer import Delivery, build_delivery
from search.cluster.worker import catch
from search.config.schema import StudyConfig
from search.evaluation.model_record import Retraining
from search.evaluation.result import TestedModel
from search.evaluation.retrainings import Place
from search.evaluation.test import Progress, calibrate, retrain


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
            OSError: If a disk failed or is full; what is finished is kept.
        """
        return self._run(retrain, retrainings)

    def calibrate(self, retrainings: Sequence[Retraining]) -> dict[str, float | Failure]:
        """Train on train alone and return by label the threshold that is best on validation, or why there is none.

        Raises:
            OSError: If a disk failed or is full; every finished epoch is kept.
        """
        return self._run(calibrate, retrainings, self.config.data.val_fraction)

    def _run(
        self, work: Callable[..., Iterator[Any]], retrainings: Sequence[Retraining], *arguments: Any
    ) -> dict[str, Any]:
        """Return the last message of each work by label."""
        deliver = build_delivery(self.config, self.pack)
        found: dict[str, Any] = {}
        timeout_s = self.config.search.trial_timeout_s
        with _Board(self.console, retrainings) as board, Silence(timeout_s, self.console.print) as silence:
            for retraining, message in self._listen(
                retrainings, lambda retraining: self._start(work, deliver, retraining, *arguments)
            ):
                silence.hear(message.metrics.get("seconds") if isinstance(message, Progress) else None)
                board.show(retraining, message)
                if isinstance(message, Failure) and message.disk_fault is not None:
                    raise OSError(message.disk_fault, f"{retraining.label}: {message.reason}")
                if not isinstance(message, Progress):
                    found[retraining.label] = message
        return found

    def _start(
        self, work: Callable[..., Iterator[Any]], deliver: Delivery, retraining: Retraining, *arguments: Any
    ) -> tuple[Any, Any]:
        """Start a retraining in a process of its own; return the process's handle, with which it ends, and its words.

        An actor, since Ray says of a lost one why it was lost, which it does not of a task's worker.
        """
        granted = self.config.get_resources(retraining.architecture)
        worker: Any = ray.remote(num_cpus=granted.cpus, num_gpus=granted.gpus)(_Worker).remote()
        return worker, worker.work.remote(work, deliver, retraining, self.place, granted.cpus, granted.gpus, *arguments)

    def _listen(
        self, retrainings: Sequence[Retraining], start: Callable[[Retraining], tuple[Any, Any]]
    ) -> Iterator[tuple[Retraining, Any]]:
        """Yield what the retrainings send, each as soon as it comes.

        One whose worker broke down is started again, from its checkpoint, `search.max_failures` times, and then its
        last word is a Failure; with a node that vanished it is started again and again, and that counts as nothing.
        """
        workers: dict[str, Any] = {}
        waiting: dict[Any, Retraining] = {}

        def begin(retraining: Retraining) -> None:
            workers[retraining.label], stream = start(retraining)
            waiting[stream] = retraining

        for retraining in retrainings:
            begin(retraining)
        breakdowns: Counter[str] = Counter()
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            stream: Any = ready[0]
            retraining = waiting.pop(stream)
            try:
                message = ray.get(next(stream))
            except StopIteration:
                ray.kill(workers[retraining.label])  # or it would keep what it was granted
            except NodeError as error:  # no retraining's fault; what is finished is kept
                raise NodeError(str(error.args[0])) from None  # without what Ray adds
            except ray.exceptions.RayError as error:
                ray.kill(workers[retraining.label])
                breakdowns[retraining.label] += not is_node_lost(error)
                if (times := breakdowns[retraining.label]) <= self.config.search.max_failures:
                    begin(retraining)
                    continue
                last = str(error).strip().splitlines()[-1]
                yield retraining, Failure(f"its worker broke down {times} times, last: {last}", str(error))
            else:
                waiting[stream] = retraining  # behind the others
                yield retraining, message


class _Worker:
    """A process on whatever node has room."""

    def work(
        self, work: Callable[..., Iterator[Any]], deliver: Delivery, retraining: Retraining, *arguments: Any
    ) -> Iterator[Any]:
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
