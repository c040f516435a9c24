"""The final evaluator: retrains the winners over several seeds and tests each once on the sealed test split.

The only file that opens the test split. Winners are chosen by validation alone, and a retraining ends at the epoch
at which its winner was best on validation, so nothing here is chosen by looking at test images.
"""

import dataclasses
import errno
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import safetensors.torch
import torch
from sklearn import metrics

from search.config import StudyConfig
from search.journal import State, Trial
from search.provenance import replace_file
from search.report import TestedModel
from search.task import Failure
from search.trial import catch, prepare_device
from trainables.config import build_train_config
from trainables.data import load_info, open_full_train, open_test
from trainables.errors import InputError
from trainables.models import build_model, count_parameters
from trainables.runtime import derive_seed
from trainables.train import predict, train


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """One winner, one seed: all that a worker needs, and what is written beside the weights."""

    label: str
    """Name of the files in models/."""
    architecture: str
    rank: int
    """1 for the best configuration of its architecture."""
    seed: int
    """Number of the retraining, from 0."""
    trial: int
    """Whose configuration it is."""
    params: dict[str, Any]
    train_seed: int
    """Root of the retraining's random draws."""
    max_epochs: int
    """Length of the schedule."""
    epochs: int
    """Epochs to train: where the trial was best on validation."""
    max_train_images: int | None
    split_seed: int
    fingerprint: str
    """Of the data."""


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
        done = _load_tested(folder, retraining)
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


def retrain(retraining: Retraining, pack: str, folder: str, cpus: float, gpus: float) -> TestedModel | Failure:
    """Train one winner on train and validation together, test it once, and write weights and record."""
    return catch(lambda: _retrain(retraining, pack, folder, prepare_device(cpus, gpus)))


def _retrain(retraining: Retraining, pack: str, folder: str, device: torch.device) -> TestedModel:
    config = build_train_config(
        retraining.architecture, retraining.params, epochs=retraining.max_epochs, seed=retraining.train_seed
    )
    split = open_full_train(Path(pack), seed=retraining.split_seed, max_images=retraining.max_train_images)
    for epoch in train(config, split, None, device=device):
        if epoch.number == retraining.epochs:
            break
    model = build_model(config.model)
    model.load_state_dict(epoch.state()["model"])
    test = open_test(Path(pack))
    logits = predict(model, test, device=device, flip_average=config.flip_average)
    tested = TestedModel(
        architecture=retraining.architecture,
        rank=retraining.rank,
        seed=retraining.seed,
        trial=retraining.trial,
        parameters=count_parameters(model),
        **score(test.labels.index_select(0, test.indices), logits),
    )
    _save(Path(folder) / retraining.label, model, retraining, tested)
    return tested


def score(labels: torch.Tensor, logits: torch.Tensor) -> dict[str, Any]:
    """Score logits at threshold 0.5 with REAL as the positive class, by scikit-learn.

    Args:
        labels: (N,), 0 is FAKE and 1 is REAL.
        logits: (N,) float32.

    Returns:
        `metrics` by name and `confusion`: rows true FAKE, REAL; columns predicted FAKE, REAL.
    """
    truth, probability = labels.cpu().numpy(), torch.sigmoid(logits.double()).numpy()
    predicted = (logits > 0).numpy().astype(truth.dtype)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, predicted, pos_label=1, average="binary", zero_division=0.0
    )
    values = {
        "accuracy": metrics.accuracy_score(truth, predicted),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "auroc": metrics.roc_auc_score(truth, probability),
        "loss": metrics.log_loss(truth, probability, labels=[0, 1]),
    }
    confusion = metrics.confusion_matrix(truth, predicted, labels=[0, 1]).tolist()
    return {
        "metrics": {name: float(value) for name, value in values.items()},
        "confusion": tuple(tuple(row) for row in confusion),
    }


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


def _save(stem: Path, model: torch.nn.Module, retraining: Retraining, tested: TestedModel) -> None:
    """Write the weights, then the record that makes them count."""
    state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights, record = stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")
    partial = stem.with_name(stem.name + ".partial")
    safetensors.torch.save_file(state, partial)
    replace_file(partial, weights)
    content = {"retraining": dataclasses.asdict(retraining), "tested": dataclasses.asdict(tested)}
    partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
    replace_file(partial, record)


def _load_tested(folder: Path, retraining: Retraining) -> TestedModel | None:
    """Return what an earlier evaluation found for exactly this retraining, or None."""
    path = folder / f"{retraining.label}.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["retraining"] != json.loads(json.dumps(dataclasses.asdict(retraining))):
        return None
    tested = content["tested"]
    return TestedModel(**{**tested, "confusion": tuple(tuple(row) for row in tested["confusion"])})
