"""Further tests of a model: what a worker stores, what counts, and what a kill leaves."""

import dataclasses
import functools
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from rich.console import Console

from search.cluster.job import Failure, Finished
from search.cluster.worker import run_job
from search.config.schema import ResourceConfig
from search.evaluation import sealed_test as worker
from search.evaluation.evaluate import _retrain
from search.evaluation.further import (
    Due,
    FurtherTest,
    is_stored,
    list_due,
    load_further,
    load_logits,
    name_file,
    save_logits,
)
from search.evaluation.model_file import load_predictions, load_record
from search.evaluation.model_record import Retraining
from search.evaluation.retrainings import ModelFolder, build_job, load_tests
from search.evaluation.sealed_test import open_perturbed, save_tested, score_further
from search.record.object_store import Store
from trainables.errors import InputError
from trainables.splits import open_test

LABEL = "cnn-seed0"
TESTS = [FurtherTest(kind="perturbation", name=name, fingerprint="f" * 64) for name in ("jpeg50", "noise5", "flip")]
RETRAINING = Retraining(
    label=LABEL,
    architecture="cnn",
    rank=1,
    seed=0,
    trial=3,
    params={"filters": 4, "batch_size": 8},
    train_seed=5,
    max_epochs=1,
    epochs=1,
    max_train_images=None,
    split_seed=0,
    fingerprint="f" * 64,
    threshold=0.5,
)


@pytest.fixture
def folder(packed, tmp_path):
    """The folder of one trained model."""
    models = ModelFolder(str(tmp_path / "models"))
    finish = functools.partial(save_tested, models, {LABEL: RETRAINING}, {})
    list(run_job(lambda: str(packed), finish, build_job(RETRAINING, packed, ResourceConfig(), folder=models)))
    return models.path


def score(packed, folder, openers=None, tests=TESTS):
    """Yield the messages of a worker that scores what is due."""
    deliver = functools.partial(str, packed)
    due = list_due(folder, [LABEL], tests)
    openers = openers or {test: functools.partial(open_perturbed, deliver, test.name) for test in tests}
    job = build_job(RETRAINING, packed, ResourceConfig())
    return score_further(deliver, ModelFolder(str(folder)), due, openers, job)


def get_weights(folder):
    return load_record(folder / f"{LABEL}.json").sha256["weights"]


def read_files(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "further").iterdir())}


def load_plain(folder):
    return load_predictions(folder, load_record(folder / f"{LABEL}.json"))


def test_the_test_images_unchanged_have_the_logits_of_the_plain_test(packed, folder, monkeypatch):
    """In parts that are smaller than the split, each of them whole batches."""
    monkeypatch.setattr(worker, "PART", 4)
    monkeypatch.setattr("trainables.train.EVAL_BATCH_SIZES", {"cpu": 4})
    monkeypatch.setitem(worker.__dict__, "perturb", lambda _name, images, _indices: images)
    list(score(packed, folder))
    logits, labels = load_logits(folder, LABEL, TESTS[0], get_weights(folder))
    np.testing.assert_allclose(logits, load_plain(folder)["logits"], rtol=1e-6)
    np.testing.assert_array_equal(labels, load_plain(folder)["labels"])


def test_unchanged_images_scored_at_once_have_the_logits_of_the_plain_test_to_the_bit(packed, folder):
    *_, finished = score(packed, folder, {test: lambda: [open_test(packed)] for test in TESTS})
    assert finished == Finished(len(TESTS))
    logits, labels = load_logits(folder, LABEL, TESTS[0], get_weights(folder))
    assert logits.tobytes() == load_plain(folder)["logits"].tobytes()
    assert labels.tobytes() == load_plain(folder)["labels"].tobytes()
    truth, probabilities, _ = load_tests(folder, LABEL)
    assert load_further(folder, [LABEL], TESTS, truth)[0].predictions[LABEL].tobytes() == probabilities.tobytes()


def test_what_is_stored_is_not_scored_again_and_a_further_name_is_scored_alone(packed, folder):
    list(score(packed, folder, tests=TESTS[:2]))
    before = read_files(folder)
    assert list_due(folder, [LABEL], TESTS[:2]) == {}
    assert list_due(folder, [LABEL], []) == {}
    assert list_due(folder, [LABEL], TESTS)[LABEL].tests == (TESTS[2],)
    report, finished = score(packed, folder)
    assert (report.metrics, report.is_new, finished) == ({"epoch": 1}, False, Finished(1))
    after = read_files(folder)
    assert {name: after[name] for name in before} == before
    assert set(after) == {name_file(LABEL, test).removeprefix("further/") for test in TESTS}


def test_a_model_is_scored_further_as_soon_as_it_is_tested_and_what_fails_stays_due(packed, folder, tmp_path):
    list(score(packed, folder))
    first, *others = TESTS
    openers = {test: functools.partial(open_perturbed, functools.partial(str, packed), test.name) for test in others}
    models = ModelFolder(str(tmp_path / "again"))
    finish = functools.partial(save_tested, models, {LABEL: RETRAINING}, {first: lambda: 1 / 0} | openers)
    *_, last = run_job(lambda: str(packed), finish, build_job(RETRAINING, packed, ResourceConfig(), folder=models))
    assert isinstance(last, Finished)
    assert list_due(models.path, [LABEL], TESTS)[LABEL].tests == (first,)
    assert not Path(models.get_checkpoint(LABEL)).exists()
    list(score(packed, models.path))
    assert read_files(models.path) == read_files(folder)


def test_a_worker_that_dies_in_a_further_test_leaves_a_tested_model(packed, tmp_path):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    models = ModelFolder(str(tmp_path / "models"))

    def retrain(pending, tests):
        finish = functools.partial(save_tested, models, {LABEL: RETRAINING}, dict.fromkeys(tests, kill))
        with pytest.raises(Killed):
            list(run_job(lambda: str(packed), finish, build_job(RETRAINING, packed, ResourceConfig(), folder=models)))
        return {each.label: Failure("its worker broke down 3 times", "", is_breakdown=True) for each in pending}

    retrainer = SimpleNamespace(folder=models, console=Console(quiet=True), retrain=retrain)
    choices = SimpleNamespace(perturbations=("grey",), sources=(), fingerprint="f" * 64)
    found = _retrain(retrainer, [RETRAINING], choices, SimpleNamespace(fetch_models=lambda: None))
    assert found[LABEL].label == LABEL
    assert Path(models.get_checkpoint(LABEL)).exists()
    assert list_due(models.path, [LABEL], TESTS)[LABEL].tests == tuple(TESTS)


@pytest.mark.parametrize("lines", range(3))
def test_a_scoring_that_is_killed_is_continued_to_the_same_files(packed, folder, lines):
    list(score(packed, folder))
    straight = read_files(folder)
    for path in (folder / "further").iterdir():
        path.unlink()
    messages = score(packed, folder)
    for _ in range(lines):
        next(messages)
    del messages
    assert len(read_files(folder)) == lines
    list(score(packed, folder))
    assert read_files(folder) == straight


def test_a_process_that_is_killed_after_each_file_leaves_only_whole_ones(packed, folder, monkeypatch):
    def save_and_die(*arguments, **known):
        save_logits(*arguments, **known)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(worker, "save_logits", save_and_die)
    for left in (2, 1, 0):
        if (child := os.fork()) == 0:
            try:
                list(score(packed, folder))
            finally:
                os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert len(list_due(folder, [LABEL], TESTS).get(LABEL, Due(weights="", tests=())).tests) == left


def damage(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def rewrite(change):
    """Return what a stranger may make of a file: other arrays under the old description."""

    def write(content):
        arrays = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return safetensors.numpy.save(arrays | change(arrays), metadata=header["__metadata__"])

    return write


@pytest.mark.parametrize(
    "change",
    [
        damage,
        lambda content: content[:40],
        lambda _: b"",
        lambda _: b"[" * 100_000,
        lambda _: safetensors.numpy.save({"logits": np.zeros(3)}, metadata={"record": "[" * 100_000}),
        lambda _: safetensors.numpy.save({"logits": np.zeros(3)}, metadata={"record": "[1, 2]"}),
        lambda _: safetensors.numpy.save({"logits": np.zeros(3, np.float32)}),
        lambda _: safetensors.numpy.save({"logits": np.zeros(3)}, metadata={"record": "{}"}),
        rewrite(lambda arrays: {"logits": arrays["logits"] + 1}),
        rewrite(lambda arrays: {"labels": 1 - arrays["labels"]}),
    ],
)
def test_a_damaged_file_is_one_sentence_with_the_cure_and_is_scored_again(packed, folder, change):
    list(score(packed, folder))
    straight = read_files(folder)
    path = folder / name_file(LABEL, TESTS[0])
    path.write_bytes(change(path.read_bytes()))
    truth = load_plain(folder)["labels"]
    with pytest.raises(InputError, match=r"jpeg50.safetensors is damaged .*: evaluate the study again"):
        load_further(folder, [LABEL], TESTS, truth)
    assert list_due(folder, [LABEL], TESTS)[LABEL].tests == (TESTS[0],)
    list(score(packed, folder))
    assert read_files(folder) == straight


@pytest.mark.parametrize("change", [{"fingerprint": "0" * 64}, {"name": "jpeg30"}, {"kind": "source"}])
def test_the_file_of_other_images_or_of_another_model_does_not_count(packed, folder, change):
    list(score(packed, folder))
    other = dataclasses.replace(TESTS[0], **change)
    path = folder / name_file(LABEL, other)
    path.write_bytes((folder / name_file(LABEL, TESTS[0])).read_bytes())
    weights = get_weights(folder)
    assert is_stored(folder, LABEL, TESTS[1], weights)
    assert not is_stored(folder, LABEL, TESTS[1], "0" * 64)
    with pytest.raises(InputError, match="belongs to another model or to other images: evaluate the study again"):
        load_logits(folder, LABEL, other, weights)


def test_results_that_are_missing_are_left_out_and_other_labels_are_refused(packed, folder):
    list(score(packed, folder, tests=TESTS[:1]))
    truth = load_plain(folder)["labels"]
    (found,) = load_further(folder, [LABEL], TESTS, truth)
    assert (found.kind, found.name, list(found.predictions)) == ("perturbation", "jpeg50", [LABEL])
    with pytest.raises(InputError, match="delete further/, and evaluate again"):
        load_further(folder, [LABEL], TESTS, 1 - truth)


def test_a_model_that_was_replaced_meanwhile_is_refused_with_the_cure(packed, folder):
    due = {LABEL: dataclasses.replace(list_due(folder, [LABEL], TESTS)[LABEL], weights="0" * 64)}
    job = build_job(RETRAINING, packed, ResourceConfig())
    (failure,) = score_further(functools.partial(str, packed), ModelFolder(str(folder)), due, {}, job)
    assert isinstance(failure, Failure)
    assert "cnn-seed0 was replaced while it was tested: evaluate the study again" in failure.reason


@pytest.mark.parametrize("has_other", [False, True])
def test_a_node_that_lacks_the_model_takes_it_from_the_store_and_leaves_the_logits_there(
    packed, folder, tmp_path, bucket, has_other
):
    url = f"s3://{bucket}/studies/mine"
    ModelFolder(str(folder), url).upload(LABEL)
    there = ModelFolder(str(tmp_path / "there"), url)
    if has_other:
        retraining = dataclasses.replace(RETRAINING, train_seed=6)
        finish = functools.partial(save_tested, ModelFolder(there.folder), {LABEL: retraining}, {})
        list(run_job(lambda: str(packed), finish, build_job(retraining, packed, ResourceConfig())))
    due = list_due(folder, [LABEL], TESTS)
    openers = {test: functools.partial(open_perturbed, functools.partial(str, packed), test.name) for test in TESTS}
    *_, finished = score_further(
        functools.partial(str, packed), there, due, openers, build_job(RETRAINING, packed, ResourceConfig())
    )
    assert finished == Finished(len(TESTS))
    stored = Store(url).list("models/further")
    assert set(stored) == {f"models/{name_file(LABEL, test)}" for test in TESTS}
    Store(url).download({name: folder.parent / name for name in stored})
    assert list_due(folder, [LABEL], TESTS) == {}
    assert read_files(there.path) == read_files(folder)
