"""The final evaluator: has the winners retrained over several seeds, each tested once on the sealed test split.

Winners are chosen by validation alone, and a retraining ends at the epoch at which its winner was best on validation,
so nothing here is chosen by looking at test images.
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from search.config import StudyConfig
from search.journal import State, Trial
from search.result import TestedModel
from search.retraining import Retraining, load_tested, retrain
from search.task import Failure
from trainables.data import load_info
from trainables.errors import InputError
from trainables.runtime import derive_seed


def choose_winners(trials: Sequence[Trial], architecture: str, top_k: int) -> list[Trial]:
    """Return an architecture's best trials by their best validation accuracy; the earlier one wins a tie."""
    able = [trial for trial in trials if trial.architecture == architecture and trial.state is not State.FAIL]
    return sorted(able, key=lambda trial: (-trial.get_peak()[0], trial.number))[:top_k]


def check_winners(config: StudyConfig, trials: Sequence[Trial]) -> list[str]:
    """Check that there is something to retrain.

    Returns:
        A sentence for each architecture that has nothing: no trial, or none that did not fail.

    Raises:
        InputError: If no architecture has anything.
    """
    missing = []
    for architecture in config.search.architectures:
        mine = [trial for trial in trials if trial.architecture == architecture]
        if not mine:
            missing.append(f"No {architecture} trial was run.")
        elif not choose_winners(mine, architecture, 1):
            missing.append(f"Every {architecture} trial failed, trial {mine[0].number}: {mine[0].reason}.")
    if len(missing) == len(config.search.architectures):
        raise InputError(f"there is nothing to evaluate. {' '.join(missing)}")
    return missing


def plan(config: StudyConfig, trials: Sequence[Trial], fingerprint: str) -> list[Retraining]:
    """Write down every retraining before the test split is opened."""
    retrainings = []
    for architecture in config.search.architectures:
        for rank, trial in enumerate(choose_winners(trials, architecture, config.evaluation.top_k), start=1):
            for seed in range(config.evaluation.seeds):
                retrainings.append(
                    Retraining(
                        label=f"{architecture}{'' if rank == 1 else f'-rank{rank}'}-seed{seed}",
                        architecture=architecture,
                        rank=rank,
                        seed=seed,
                        trial=trial.number,
                        params=trial.params,
                        train_seed=derive_seed(config.search.seed, f"retraining {architecture} {rank} {seed}"),
                        max_epochs=config.search.max_epochs,
                        epochs=trial.get_peak()[1],
                        max_train_images=config.data.max_train_images,
                        split_seed=config.search.seed,
                        fingerprint=fingerprint,
                    )
                )
    return retrainings


def evaluate(
    config: StudyConfig, trials: Sequence[Trial], pack: Path, progress: Callable[[TestedModel], None]
) -> tuple[list[TestedModel], list[str]]:
    """Retrain and test the winners side by side; what an earlier evaluation finished is not done again.

    Args:
        config: The study.
        trials: All of its trials.
        pack: Folder of the packed images.
        progress: Told of each tested model.

    Returns:
        The tested models, and a sentence for each retraining or architecture that came to nothing.

    Raises:
        InputError: If all came to nothing.
        OSError: If the disk is full; what is finished is kept.
    """
    failures = check_winners(config, trials)
    folder = config.directory / "models"
    folder.mkdir(exist_ok=True)
    retrainings = plan(config, trials, load_info(pack).fingerprint)
    pending = {}
    tested: dict[str, TestedModel] = {}
    for retraining in retrainings:
        done = load_tested(folder, retraining)
        if done is not None:
            tested[retraining.label] = done
            progress(done)
            continue
        granted = config.get_resources(retraining.architecture)
        remote = ray.remote(num_cpus=granted.cpus, num_gpus=granted.gpus, max_retries=config.search.max_failures)
        reference = remote(retrain).remote(
            retraining, str(pack.resolve()), str(folder.resolve()), granted.cpus, granted.gpus
        )
        pending[reference] = retraining
    for reference in _wait(list(pending)):
        label = pending[reference].label
        match _get(reference):
            case Failure(is_disk_full=True, reason=reason):
                raise OSError(errno.ENOSPC, f"{label}: {reason}")
            case Failure(reason=reason):
                failures.append(f"The retraining {label} failed: {reason}.")
            case TestedModel() as model:
                tested[label] = model
                progress(model)
    if not tested:
        raise InputError(f"there is nothing to report. {' '.join(failures)}")
    return [tested[retraining.label] for retraining in retrainings if retraining.label in tested], failures


def _get(reference: Any) -> TestedModel | Failure:
    try:
        result: TestedModel | Failure = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Failure(f"its worker was lost ({type(error).__name__})", str(error))
    return result


def _wait(references: list[Any]) -> Iterator[Any]:
    while references:
        ready, references = ray.wait(references, num_returns=1)
        yield from ready
