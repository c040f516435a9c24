"""Retrains the winners of a study: runs the retrainings on Ray and shows their progress."""

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from search.cluster.job import Failure, Finished, Job, Report, Work
from search.cluster.launch import Deliver, build_delivery
from search.cluster.silence import Silence
from search.cluster.worker import Trained, run_job
from search.config.schema import StudyConfig
from search.datasets.sources import PackedSource, open_packed
from search.evaluation.further import Due, FurtherTest, Opener
from search.evaluation.model_record import Retraining
from search.evaluation.result import Calibration, TestedModel
from search.evaluation.retrainings import ModelFolder, build_job
from search.evaluation.sealed_test import measure_on_validation, open_perturbed, save_tested, score_further
from search.record.provenance import hash_own
from trainables.errors import TrainingError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retrainer:
    """Where retrainings run and are shown; Ray must be connected."""

    config: StudyConfig
    pack: Path
    folder: ModelFolder
    console: Console
    sources: Sequence[PackedSource] = ()
    """Images of other sources, on which stored models are scored."""

    def retrain(
        self, retrainings: Sequence[Retraining], tests: Sequence[FurtherTest] = ()
    ) -> dict[str, TestedModel | Failure]:
        """Train on all training images and test; return label -> tested model, or why there is none.

        Args:
            retrainings: What is trained.
            tests: Further tests of each model. One that fails stays due.

        Raises:
            OSError: If a disk failed or is full; the finished models are kept.
        """
        deliver, by_label = build_delivery(self.config, self.pack), {each.label: each for each in retrainings}
        openers = {test: self._build_opener(test, deliver) for test in tests}
        finish = functools.partial(save_tested, self.folder, by_label, openers)
        return self._run(deliver, retrainings, finish, val_fraction=None)

    def calibrate(self, retrainings: Sequence[Retraining]) -> dict[str, Calibration | Failure]:
        """Train on train alone; return label -> values from validation, or why there are none.

        Raises:
            OSError: If a disk failed or is full; the finished epochs are kept.
        """
        finish = functools.partial(
            measure_on_validation, self.config.search.metric, temperature=self.config.evaluation.temperature
        )
        deliver = build_delivery(self.config, self.pack)
        return self._run(deliver, retrainings, finish, val_fraction=self.config.data.val_fraction)

    def score(self, retrainings: Sequence[Retraining], due: Mapping[str, Due]) -> dict[str, int | Failure]:
        """Score stored models on further images; return label -> number of tests, or why it failed.

        Args:
            retrainings: The retrainings of these models.
            due: Label -> tests that the model lacks; a model that is not in it lacks none.

        Raises:
            OSError: If a disk failed or is full; the finished tests are kept.
        """
        deliver = build_delivery(self.config, self.pack)
        tests = dict.fromkeys(test for each in due.values() for test in each.tests)
        openers = {test: self._build_opener(test, deliver) for test in tests}
        pending = [each for each in retrainings if each.label in due]
        jobs = [
            dataclasses.replace(job, epochs=len(due[job.label].tests), checkpoint=None)
            for job in self._build_jobs(pending, val_fraction=None)
        ]
        return self.run(jobs, functools.partial(score_further, deliver, self.folder, due, openers))

    def _build_opener(self, test: FurtherTest, deliver: Deliver) -> Opener:
        """Return what opens the images of a further test on a worker."""
        if test.kind == "perturbation":
            return functools.partial(open_perturbed, deliver, test.name)
        (packed,) = (each for each in self.sources if each.source.name == test.name)
        return functools.partial(open_packed, build_delivery(self.config, packed.pack), packed.left_out)

    def run(self, jobs: Sequence[Job], work: Work) -> dict[str, Any]:
        """Run jobs and return label -> result or Failure.

        Raises:
            TrainingError: If Ray Tune lost a job.
        """
        from search.cluster.runner import run_jobs  # imports Ray Tune

        columns = TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with (
            Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bars,
            Silence(None, self.console.print, "Ctrl-C ends the command, which can be continued") as silence,
        ):
            queue = _Queue(jobs, bars, self.console, silence)
            run_jobs(queue, work, self.config, slots=len(jobs))
        if lost := [job.label for job in jobs if job.label not in queue.results]:
            raise TrainingError(
                f"Ray ended the evaluation before {', '.join(lost)} had ended; evaluate again to continue"
            )
        return queue.results

    def _run(
        self,
        deliver: Deliver,
        retrainings: Sequence[Retraining],
        finish: Callable[[Job, Trained], T],
        val_fraction: float | None,
    ) -> dict[str, T | Failure]:
        jobs = self._build_jobs(retrainings, val_fraction)
        return self.run(jobs, functools.partial(run_job, deliver, finish))

    def _build_jobs(self, retrainings: Sequence[Retraining], val_fraction: float | None) -> list[Job]:
        own_hashes = hash_own(self.config.code)
        return [
            build_job(
                retraining,
                self.pack,
                self.config.get_resources(retraining.architecture),
                number=number,
                folder=self.folder,
                val_fraction=val_fraction,
                code=self.config.code,
                own_hashes=own_hashes,
            )
            for number, retraining in enumerate(retrainings)
        ]


class _Queue:
    """Retrainings as a source of jobs, shown as bars on a terminal, else by a line for each epoch, and each end."""

    halt_reason = None

    def __init__(self, jobs: Sequence[Job], bars: Progress, console: Console, silence: Silence) -> None:
        self.results: dict[str, Any] = {}
        """Label -> result or Failure of each job that ended."""
        self._jobs = jobs
        self._waiting = deque(jobs)
        self._bars, self._console, self._silence = bars, console, silence
        self._rows = {job.label: bars.add_task(job.label, total=job.epochs, start=False) for job in jobs}

    def ask(self) -> Job | None:
        """Hand out the next job."""
        self._silence.hear()
        return self._waiting.popleft() if self._waiting else None

    def report(self, number: int, message: Report | Finished) -> bool:
        """Show an epoch, or keep the result."""
        job = self._jobs[number]
        if isinstance(message, Finished):
            self._end(job, message.result)
            return True
        self._silence.hear(message.metrics.get("seconds"))
        row, epoch = self._rows[job.label], int(message.metrics["epoch"])
        self._bars.start_task(row)
        self._bars.update(row, completed=epoch)
        if message.is_new and not self._console.is_terminal:
            loss = f"train loss {message.metrics['train_loss']:.4f}"
            self._console.print(f"  {job.label}: epoch {epoch}/{job.epochs}, {loss}")
        return False

    def fail(self, number: int, failure: Failure) -> None:
        """Keep the failure as the result."""
        self._end(self._jobs[number], failure)

    def _end(self, job: Job, result: TestedModel | Failure | Calibration | int) -> None:
        self._silence.hear()
        self.results[job.label] = result
        self._bars.stop_task(self._rows[job.label])
        text = "done"
        match result:
            case TestedModel(metrics=metrics):
                text = f"test accuracy {metrics['accuracy']:.4f}"
            case Failure(reason=reason):
                text = f"failed: {reason}"
            case Calibration(threshold=threshold, temperature=temperature, curve=curve):
                text = f"on validation {curve[-1]:.4f} at the last epoch, best threshold {threshold:.4f}"
                text += "" if temperature == 1.0 else f", temperature {temperature:.4f}"
        self._console.print(f"  {job.label}: {text}")
