"""The work after the last epoch of a retraining: test it once and score further images, or measure on validation.

This is the only module that opens the test split. The checkpoint is deleted last, after the further tests, so a
retraining that is killed before that continues from the checkpoint, bit for bit.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from search.cluster.job import Failure, Finished, Job, Report
from search.cluster.launch import Deliver
from search.cluster.worker import Trained, catch, guard, import_code, prepare_device, train_job
from search.config.schema import ResourceConfig
from search.evaluation.calibration import fit_temperature
from search.evaluation.cost import measure_cost
from search.evaluation.further import Due, FurtherTest, Opener, is_stored, name_file, save_logits
from search.evaluation.model_file import RECORD, describe_preprocessing, load_record, save_model
from search.evaluation.model_record import ModelRecord, Retraining
from search.evaluation.perturbations import perturb
from search.evaluation.result import Calibration, TestedModel
from search.evaluation.retrainings import ModelFolder, build_job
from search.evaluation.statistics import call_positive, choose_threshold, score
from search.record.provenance import describe_code
from trainables.config import TrainConfig, list_values
from trainables.metrics import to_probabilities
from trainables.models.model import count_parameters, restore_model
from trainables.pack_info import load_info
from trainables.runtime import describe_device, describe_hardware, read_peak_memory
from trainables.splits import Split, open_test
from trainables.train import predict

NUM_MISTAKES = 32
"""Number of test images that are stored for each model: its most confident mistakes."""
PART = 1024
"""Number of images that are changed at a time; whole batches, so that they are scored as in the plain test."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tested:
    """A retrained model and the results of its test."""

    model: nn.Module
    summary: TestedModel
    predictions: dict[str, NDArray[Any]]
    """logits (M,) float32 and labels (M,) uint8 of every test image; mistakes (K,) int64, the indices
    of the most confident mistakes, and mistake_images (K, size, size, 3) uint8."""


def save_tested(
    folder: ModelFolder,
    retrainings: Mapping[str, Retraining],
    openers: Mapping[FurtherTest, Opener],
    job: Job,
    trained: Trained,
) -> TestedModel:
    """Test a winner that was trained on all training images, write its weights and its record, and score it further.

    An error in a further test is not reported: the test stays due, and is tried again after all trainings.

    Args:
        folder: Folder of the models.
        retrainings: Label -> retraining, that of the job among them.
        openers: Functions that open the images of each further test.
        job: The job of the retraining.
        trained: The training after its last epoch.
    """
    tested = _test(retrainings[job.label], job, trained)
    record = ModelRecord(
        retraining=dataclasses.asdict(retrainings[job.label]),
        parameters=list_values(trained.config),
        tested=dataclasses.asdict(tested.summary),
        preprocessing=describe_preprocessing(load_info(Path(str(job.pack))).classes, trained.config),
        hardware=_describe_hardware(job, trained),
        code=describe_code(job.code),
    )
    save_model(folder.path, record, tested.model.state_dict(), tested.predictions)
    folder.upload(job.label)
    weights = load_record(folder.path / f"{job.label}{RECORD}").sha256["weights"]
    for test, opener in openers.items():
        score_one = functools.partial(_score_one, folder, job.label, weights, test, opener)
        failure = catch(functools.partial(score_one, tested.model, trained.config, trained.device))
        if failure is not None and failure.disk_fault is not None:
            break
    folder.delete_checkpoint(job.label)
    return tested.summary


def _describe_hardware(job: Job, trained: Trained) -> dict[str, Any]:
    """Return the hardware of this process, with that of earlier epochs if it was another."""
    here = describe_hardware(trained.device)
    earlier = [each for each in trained.state.get("hardware", ()) if each != here]
    return here | {"cpus": job.cpus, "gpus": job.gpus} | ({"earlier": earlier} if earlier else {})


def measure_on_validation(
    metric: str,
    job: Job,  # noqa: ARG001 the names of a Finish
    trained: Trained,
    *,
    temperature: float | Literal["validation"],
) -> Calibration:
    """Return the values from validation of a winner that was trained on train alone; no test image is read.

    Args:
        metric: Metric whose curve is returned.
        job: The job of the training.
        trained: The training after its last epoch.
        temperature: Temperature for the choice of the threshold; `validation` fits it first.
    """
    assert trained.val_split is not None, "there are images to validate on"
    model = restore_model(trained.config.model, trained.state["model"], size=trained.config.size)
    logits = _score(model, trained.val_split, trained.config, trained.device)
    labels = trained.val_split.labels.index_select(0, trained.val_split.indices).numpy()
    fitted = fit_temperature(labels, logits.numpy()) if temperature == "validation" else temperature
    return Calibration(
        threshold=choose_threshold(labels, to_probabilities(logits, fitted).numpy()),
        temperature=fitted,
        curve=tuple(metrics[metric] for metrics in trained.state["history"]),
    )


def score_further(
    deliver: Deliver,
    folder: ModelFolder,
    due: Mapping[str, Due],
    openers: Mapping[FurtherTest, Opener],
    job: Job,
) -> Iterator[Report | Finished | Failure]:
    """Score a stored model on further images, one message for each test; a test that is stored by now is left out.

    Args:
        deliver: Copies the pack of the study to this node if it lacks it.
        folder: Folder of the model and of its logits.
        due: Label -> missing tests, those of the job's model among them.
        openers: Functions that open the images of each test.
        job: The job, with the model's label and the resources.
    """
    return guard(_score_further(deliver, folder, due[job.label], openers, job))


def open_perturbed(deliver: Deliver, name: str) -> Iterator[Split]:
    """Open the test images as a perturbation leaves them, in parts of whole batches."""
    test = open_test(Path(str(deliver())))
    for indices in test.indices.split(PART):
        images = perturb(name, test.images.index_select(0, indices), indices)
        labels = test.labels.index_select(0, indices)
        yield Split(images=images, labels=labels, indices=torch.arange(len(indices)))


def train_and_test(retraining: Retraining, pack: Path, granted: ResourceConfig) -> tuple[nn.Module, TestedModel]:
    """Train one winner in this process and test it; nothing is written."""
    job = build_job(retraining, pack, granted)
    for message in train_job(lambda: str(pack), functools.partial(_test, retraining), job):
        if isinstance(message, Finished):
            return message.result.model, message.result.summary
    raise AssertionError("a job with a finish ends with its result")


def _test(retraining: Retraining, job: Job, trained: Trained) -> Tested:
    """Test a winner on the sealed split."""
    cost = {"training_seconds": sum(metrics["seconds"] for metrics in trained.state["history"])}
    if (peak := read_peak_memory(trained.device)) is not None:
        cost["peak_memory_bytes"] = float(peak)
    assert job.pack is not None, "a retraining reads images"
    model = restore_model(trained.config.model, trained.state["model"], size=trained.config.size)
    predictions = _predict(model, open_test(Path(job.pack)), retraining, trained)
    cost |= measure_cost(model, trained.config, device=trained.device)
    summary = TestedModel(
        label=retraining.label,
        architecture=retraining.architecture,
        rank=retraining.rank,
        seed=retraining.seed,
        trial=retraining.trial,
        parameters=count_parameters(model),
        threshold=retraining.threshold,
        temperature=retraining.temperature,
        cost=cost,
        **score(predictions["labels"], predictions["logits"], retraining.threshold, retraining.temperature),
    )
    return Tested(model=model, summary=summary, predictions=predictions)


def _predict(model: nn.Module, test: Split, retraining: Retraining, trained: Trained) -> dict[str, NDArray[Any]]:
    logits = _score(model, test, trained.config, trained.device)
    probabilities = to_probabilities(logits, retraining.temperature).numpy()
    labels = test.labels.index_select(0, test.indices).numpy()
    wrong = np.flatnonzero(call_positive(probabilities, retraining.threshold) != (labels == 1))
    surest_first = np.argsort(-np.abs(probabilities[wrong] - labels[wrong]), kind="stable")
    mistakes = wrong[surest_first][:NUM_MISTAKES]
    images = test.images.index_select(0, test.indices[torch.from_numpy(mistakes)]).numpy()
    return {"logits": logits.numpy(), "labels": labels, "mistakes": mistakes, "mistake_images": images}


def _score_further(
    deliver: Deliver,
    folder: ModelFolder,
    due: Due,
    openers: Mapping[FurtherTest, Opener],
    job: Job,
) -> Iterator[Report | Finished]:
    deliver()  # checks this node first
    device = prepare_device(job.cpus, job.gpus)
    name = describe_device(device)
    import_code(job)
    model = folder.load(job.label, due.weights)
    for number, test in enumerate(due.tests, start=1):
        _score_one(folder, job.label, due.weights, test, openers[test], model.model, model.config, device)
        yield Report({"epoch": number}, name, is_new=False)
    yield Finished(len(due.tests))


def _score_one(
    folder: ModelFolder,
    label: str,
    weights: str,
    test: FurtherTest,
    opener: Opener,
    model: nn.Module,
    config: TrainConfig,
    device: torch.device,
) -> None:
    """Score a model on the images of a further test, unless its logits are stored here."""
    if not is_stored(folder.path, label, test, weights):
        parts = [(_score(model, part, config, device), part.labels.index_select(0, part.indices)) for part in opener()]
        logits, labels = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
        save_logits(folder.path, label, test, weights, logits=logits, labels=labels)
    folder.upload_file(name_file(label, test))


def _score(model: nn.Module, split: Split, config: TrainConfig, device: torch.device) -> torch.Tensor:
    return predict(model, split, device=device, flip_average=config.flip_average, deterministic=config.deterministic)
