"""A published study opens like any other, says what its study found, and README.md repeats its figures."""

import dataclasses
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import urllib.request
from pathlib import Path

import optuna
import pandas as pd
import pytest
import typer
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from typer.testing import CliRunner

from docs import publish, published
from search.cluster.job import Failure
from search.commands import evaluate, inspect, predict, reproduce
from search.config.load import parse
from search.config.space import build_distributions, list_specs
from search.config.yaml import read_yaml
from search.evaluation.model_file import load_model, load_record
from search.evaluation.openings import describe_openings
from search.evaluation.retrainings import load_tests
from search.record.folder import create_folder, open_study
from search.record.journal import Journal
from search.record.reading import load_study
from search.record.trial import State
from trainables.config import complete_params
from trainables.errors import InputError
from trainables.pack import pack

ROOT = Path(__file__).parent.parent
PUBLISHED = sorted(path.parent for path in (ROOT / "reference").glob("*/study.yaml"))
MAX_BYTES = 10_000_000
"""Most bytes of a published study."""


def call(command, *arguments):
    app = typer.Typer()
    app.command()(command.main)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def add_trial(journal, config, values, **params):
    specs = build_distributions(list_specs(config.space, "cnn"), "cnn")
    trial = journal.add_trial("cnn", {"batch_size": 8, **params}, specs)
    for epoch, value in enumerate(values, start=1):
        known = {"train_loss": 0.5, "train_accuracy": value, "loss": 0.5, "seconds": 1.0, "images_per_second": 1.0}
        journal.add_epoch(trial, {"epoch": epoch, "accuracy": value, **known}, device="cpu", elapsed_s=1.0)
    return trial


def run_here(queue, work, _config, **_):
    """Run retrainings in this process, in place of Ray."""
    while (job := queue.ask()) is not None:
        for message in work(job):
            assert not isinstance(message, Failure), message
            queue.report(job.number, message)


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_noise):
    """A data set of 40 training and 10 test images."""
    folder = tmp_path_factory.mktemp("data") / "images"
    for start, (part, count) in enumerate({"train/FAKE": 20, "train/REAL": 20, "test/FAKE": 4, "test/REAL": 6}.items()):
        for number in range(count):
            write_noise(folder / part / f"{number}.png", 1000 * start + number)
    return folder


@pytest.fixture(scope="module")
def study(images):
    """An evaluated study, which was continued once: two trials, of which the second is the best, and a failed one."""
    config = parse(
        {
            "name": "tiny",
            "results": str(images.parent / "results"),
            "data": {"path": str(images), "cache": str(images.parent / "cache"), "val_fraction": 0.25},
            "search": {"max_epochs": 2, "architectures": ["cnn"], "num_trials": 3},
            "space": {"cnn": {"filters": {"low": 4, "high": 6}}, "shared": {"batch_size": 8}},
            "evaluation": {"seeds": 2, "temperature": "validation", "perturbations": ["flip", "grey"]},
            "cluster": {"cpus": 2},
            "tracking": {"mode": "off"},
        }
    )
    create_folder(config, pack(images, images.parent / "cache"))
    for filters, values in ((4, [0.5, 0.7]), (5, [0.6, 0.8])):
        journal = Journal(config.directory / "study.journal", "tiny", note=print)
        journal.end_trial(add_trial(journal, config, values, filters=filters), State.COMPLETE, None, {})
    journal.end_trial(add_trial(journal, config, [], filters=6), State.FAIL, "out of memory", {})
    console = Console(quiet=True)
    with pytest.MonkeyPatch.context() as patch, open_study(config, print) as opened:
        patch.setattr("search.cluster.runner.run_jobs", run_here)
        evaluate.conclude(opened, pack(images, images.parent / "cache"), console)
    return config.directory


@pytest.fixture(scope="module")
def root(study, tmp_path_factory):
    """A repository in which the study is published."""
    root = tmp_path_factory.mktemp("repository")
    (root / "configs/recipes").mkdir(parents=True)
    assert publish.publish(study, root, Console(quiet=True)) == root / "reference/tiny"
    return root


def check_open(folder):
    """Check that a study whose record is stored can go on, and that nothing of this machine is in it."""
    config, manifest = load_study(folder)
    journal = Journal.read(folder / "study.journal", config.name)
    assert [each["opened"]["hash"] for each in manifest["evaluations"]] == [
        each["hash"] for each in journal.list_openings()
    ]
    stored = read_yaml(folder / "study.yaml")["config"]
    assert (stored["results"], Path(stored["data"]["path"]).name) == ("results", stored["data"]["path"])
    assert {path.name for path in folder.iterdir()} - {"models"} == {"README.md", "study.journal", "study.yaml"}
    assert all(path.stat().st_size <= published.STORED_BYTES for path in list_files(folder))
    ended = sum(trial.state is not State.RUNNING for trial in journal.load())
    text = (folder / "README.md").read_text()
    assert f"{ended} of {config.search.num_trials} trials have ended." in text
    assert ("The test split is sealed" in text) is not bool(manifest["evaluations"])
    assert text.count("--resume --accept-changes") == text.count("--resume") == 1


def list_files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(folder):
    """Check that the parts of a published study agree with each other."""
    config, manifest = load_study(folder)
    journal = Journal.read(folder / "study.journal", config.name)
    assert all(trial.state is not State.RUNNING for trial in journal.load())
    lines = [json.loads(line) for line in (folder / "study.journal").read_text().splitlines()]
    epochs = [(line["trial_id"], line["step"]) for line in lines if "intermediate_value" in line]
    assert len(epochs) == len(set(epochs))
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    assert len(optuna.load_study(study_name=config.name, storage=storage).trials) == len(journal.load())
    assert len(pd.read_parquet(folder / "trials.parquet")) == len(journal.load())
    [opened] = describe_openings(manifest["evaluations"], journal.list_openings())
    assert opened.startswith("The test split was opened once. ")

    comparison = pd.read_csv(folder / "report/comparison.csv")
    readme = (folder / "README.md").read_text().splitlines()
    assert set(published.tabulate(comparison)) <= set(readme)
    records = [load_record(path) for path in folder.glob("models/*.json")]
    for row in comparison[comparison["source"] == "this study"].to_dict("records"):
        mine = [
            each.tested for each in records if (each.tested["architecture"], each.tested["rank"]) == (row["model"], 1)
        ]
        values = {name: [tested["metrics"][name] for tested in mine] for name in ("accuracy", "f1", "auroc")}
        assert len(mine) == row["seeds"]
        assert [statistics.fmean(each) for each in values.values()] == pytest.approx([row[name] for name in values])
        if len(mine) > 1:
            assert statistics.stdev(values["accuracy"]) == pytest.approx(row["accuracy_std"])
        said = f"{row['model']}: accuracy {100 * row['accuracy']:.2f}"
        assert sum(line.startswith(said) for line in published.read_summary(folder)) == 1
    [weights] = folder.glob("models/*.safetensors")
    assert weights.stat().st_size <= published.WEIGHTS_BYTES
    assert weights.with_suffix(".md").exists()
    assert load_model(weights, config.code).record.label.endswith("-seed0")
    assert sum(map(len, list_files(folder).values())) <= MAX_BYTES


def check_recipe(folder, recipes):
    """Check that the recipe of a published study is its winner, with its figures."""
    [path] = recipes.glob(f"{folder.name}_*.yaml")
    recipe, (config, manifest) = read_yaml(path), load_study(folder)
    [winner] = [
        each
        for each in manifest["evaluations"][-1]["winners"]
        if (each["architecture"], each["rank"]) == (recipe["architecture"], 1)
    ]
    trial = Journal.read(folder / "study.journal", config.name).load()[winner["trial"]]
    params = [complete_params(trial.architecture, each, config.data.size) for each in (recipe["params"], trial.params)]
    assert params[0] == params[1]
    [quote] = [line for line in published.read_summary(folder) if line.startswith(f"{recipe['architecture']}: ")]
    assert f"# Result: {quote}\n" in path.read_text()


def test_the_parts_of_a_published_study_agree(root):
    check(root / "reference/tiny")
    check_recipe(root / "reference/tiny", root / "configs/recipes")


def test_a_study_can_be_published_again(study, root):
    before = {path for path in root.rglob("*")}
    (root / "reference/tiny/left.txt").write_text("of an earlier publication")
    publish.publish(study, root, Console(quiet=True))
    assert {path for path in root.rglob("*")} == before


def test_a_publication_that_is_cut_leaves_the_earlier_one_as_it_was(study, root, monkeypatch):
    before = list_files(root / "reference")
    with monkeypatch.context() as patched:
        patched.setattr(publish, "format_recipe", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            publish.publish(study, root, Console(quiet=True))
    assert list_files(root / "reference") == before
    publish.publish(study, root, Console(quiet=True))
    assert list_files(root / "build") == {}


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "Missing argument"), (["elsewhere"], "error: there is no study in")]
)
def test_a_study_that_is_not_there_is_a_sentence(arguments, said):
    code, _, stderr = call(publish, *arguments)
    assert code == 2
    assert said in stderr


def test_the_readme_of_a_published_study_says_how_it_was_made_and_what_failed(root):
    text = (root / "reference/tiny/README.md").read_text()
    assert "continued 1 time." in text
    assert "- Trials by machine: 2 on cpu; 1 on unknown.\n" in text
    assert "- Images for train and validation: all in the search, all in the retrainings.\n" in text
    assert "- Trial 2 (cnn): out of memory.\n" in text
    assert "- cnn: 0% of 3 trials were stopped early. 4 epochs took 4.0 s; all 4 would have taken 4.0 s.\n" in text
    assert len(text.splitlines()) <= 80


def test_a_published_study_names_no_folder_of_the_machine_and_holds_no_image_of_the_data(study, root):
    kinds = {"".join(path.suffixes) for path in list_files(root)}
    assert kinds == {"", ".csv", ".journal", ".json", ".md", ".parquet", ".png", ".safetensors", ".tex", ".yaml"}
    for path, content in list_files(root).items():
        assert str(study.parent.parent).encode() not in content, path


@pytest.mark.skipif(not PUBLISHED, reason="no study is published yet")
def test_the_readme_repeats_the_figures_of_each_published_study():
    lines = (ROOT / "README.md").read_text().splitlines()
    for folder in PUBLISHED:
        check(folder)
        check_recipe(folder, ROOT / "configs/recipes")
        assert [line for line in published.read_summary(folder) if line not in lines] == []
        assert published.count_resumptions(folder / "study.journal") >= 5


def test_inspect_and_dashboard_open_a_published_study_and_write_nothing(root, spawn):
    folder = root / "reference/tiny"
    before = list_files(root)
    code, stdout, stderr = call(inspect, folder)
    assert (code, stderr) == (0, "")
    assert stdout.endswith("All trials have ended.\n")
    assert json.loads(call(inspect, folder, "--json")[1])["best"] == {"cnn": 1}
    command = [sys.executable, "-m", "search", "dashboard", folder, "--port", "0"]
    line = spawn(command, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.readline()
    address = line.removeprefix("tiny: ").split()[0]
    with urllib.request.urlopen(f"{address}api/studies/0", timeout=60) as answer:
        shown = json.loads(answer.read())
    assert len(shown["trials"]) == 3
    for artifact in shown["artifacts"]:
        with urllib.request.urlopen(f"{address}artifacts/0/{artifact['artifact_id']}", timeout=60) as answer:
            assert answer.read().startswith(b"\x89PNG")
    assert list_files(root) == before


def test_a_published_model_is_reproduced_bit_for_bit_with_its_weights_or_without(root, images):
    folder, before = root / "reference/tiny", list_files(root)
    moved = ("--data", images, "--cache", images.parent / "cache")
    code, stdout, _ = call(reproduce, folder, *moved)
    assert code == 0
    assert stdout.count("the same, weights and metrics, bit for bit") == 2
    assert [(folder / f"models/cnn-seed{seed}.safetensors").exists() for seed in (0, 1)] == [True, False]
    assert "1 of 1 models reproduced" in call(reproduce, folder, "--model", "cnn", "--seed", 0, *moved)[1]
    assert list_files(root) == before


def test_prediction_on_the_test_files_gives_the_published_confusion_matrix(root, images, monkeypatch):
    monkeypatch.setattr("search.evaluation.model_file.ROOT", root)
    code, stdout, stderr = call(predict, images / "test", "--json")
    said = "note: the bundled model answers: cnn-seed0 of the study tiny, "
    assert (code, stderr.startswith(said), len(stderr.splitlines())) == (0, True, 1)
    [record] = [load_record(path) for path in root.glob("reference/tiny/models/cnn-seed0.json")]
    counts = {(truth, label): 0 for truth in record.classes for label in record.classes}
    for image in json.loads(stdout)["images"]:
        counts[Path(image["file"]).parent.name, image["label"]] += 1
    assert [[counts[truth, label] for label in record.classes] for truth in record.classes] == [
        list(row) for row in record.tested["confusion"]
    ]


def test_what_continues_a_search_is_stored_and_opens(study, tmp_path):
    config, _ = load_study(study)
    begun = tmp_path / "results/tiny"
    create_folder(
        dataclasses.replace(config, results=str(begun.parent)), pack(Path(config.data.path), tmp_path / "cache")
    )
    journal = Journal(begun / "study.journal", "tiny", note=print)
    journal.end_trial(add_trial(journal, config, [0.5, 0.7], filters=4), State.COMPLETE, None, {})
    add_trial(journal, config, [0.6], filters=5)
    folder = publish.store_open(begun, tmp_path, Console(quiet=True))
    assert folder == publish.store_open(begun, tmp_path, Console(quiet=True))
    check_open(folder)
    assert "| cnn | 2 | accuracy 0.7000 (trial 0) |\n" in (folder / "README.md").read_text()
    assert (folder / "study.journal").read_bytes() == (begun / "study.journal").read_bytes()
    assert str(tmp_path).encode() not in b"".join(list_files(folder).values())
    copy = shutil.copytree(folder, tmp_path / "copy/tiny")
    moved = dataclasses.replace(load_study(copy)[0], results=str(copy.parent), data=config.data)
    with open_study(moved, print, is_search=True, packed=pack(Path(config.data.path), tmp_path / "cache")) as opened:
        assert [(trial.state, len(trial.epochs)) for trial in opened.journal.load()] == [
            (State.COMPLETE, 2),
            (State.RUNNING, 1),
        ]


def test_an_evaluated_study_is_not_stored_as_one_that_goes_on(study, tmp_path):
    with pytest.raises(InputError, match="is evaluated: publish it without --open"):
        publish.store_open(study, tmp_path, Console(quiet=True))
    assert not (tmp_path / "reference").exists()


def test_an_evaluation_that_is_not_complete_is_stored_with_its_opening_and_published_only_on_demand(study, tmp_path):
    cut = shutil.copytree(study, tmp_path / "results/tiny")
    (cut / "models/cnn-seed1.json").unlink()
    (cut / "models/cnn-seed1.ckpt").write_bytes(b"epoch 1")
    (cut / "models/resnet50-seed0.ckpt").write_bytes(bytes(published.STORED_BYTES + 1))
    folder = publish.store_open(cut, tmp_path, Console(quiet=True))
    check_open(folder)
    stored = {path.relative_to(folder).as_posix() for path in list_files(folder / "models")}
    assert {"models/cnn-seed0.safetensors", "models/cnn-seed1.ckpt"} <= stored
    assert not {"models/cnn-seed1.safetensors", "models/resnet50-seed0.ckpt"} & stored
    (labels, probabilities, mistakes), (same_labels, same, none) = (
        load_tests(each / "models", "cnn-seed0") for each in (cut, folder)
    )
    assert (labels.tolist(), probabilities.tolist()) == (same_labels.tolist(), same.tolist())
    assert (len(mistakes) > 0, none) == (True, [])
    further = [path.name for path in sorted((cut / "models/further").glob("cnn-seed0.*"))]
    assert len(further) == 2
    assert all((folder / "models/further" / name).is_file() for name in further)
    text = " ".join((folder / "README.md").read_text().split())
    assert "The test split was opened at " in text
    assert "Missing on the machine that wrote this: the retraining cnn-seed1." in text
    with pytest.raises(
        InputError, match="the retraining cnn-seed1 is missing: evaluate again, or pass --accept-missing"
    ):
        publish.publish(cut, tmp_path, Console(quiet=True))
    (tmp_path / "configs/recipes").mkdir(parents=True)
    publish.publish(cut, tmp_path, Console(quiet=True), accept_missing=True)
    text = (tmp_path / "reference/tiny/README.md").read_text()
    assert "The retraining cnn-seed1 has no model: it failed, or is not done yet." in text
    check_open(folder)


def test_a_tested_model_whose_weights_are_too_large_is_stored_without_them_and_stays_tested(
    study, tmp_path, monkeypatch
):
    cut = shutil.copytree(study, tmp_path / "results/tiny")
    (cut / "models/cnn-seed1.json").unlink()
    monkeypatch.setattr(publish, "STORED_BYTES", (cut / "models/cnn-seed0.safetensors").stat().st_size - 1)
    folder = publish.store_open(cut, tmp_path, Console(quiet=True))
    assert not list(folder.glob("models/cnn-seed0.safetensors"))
    moved = shutil.copytree(folder, tmp_path / "moved/tiny")
    again = publish.store_open(moved, tmp_path / "again", Console(quiet=True))
    stored, *others = (sorted(path.read_bytes() for path in each.glob("models/**/cnn*")) for each in (folder, again))
    assert others == [stored]
    for path in study.glob("models/**/cnn-seed1.*"):
        shutil.copy(path, moved / path.relative_to(study))
    with open_study(load_study(moved)[0], print) as opened:
        assert publish.list_missing(opened) == []
    with pytest.raises(InputError, match="has no model of at most"):
        publish.publish(moved, tmp_path, Console(quiet=True))
    next(moved.glob("models/further/cnn-seed0*grey*")).unlink()
    with open_study(load_study(moved)[0], print) as opened:
        assert publish.list_missing(opened) == ["a further test of cnn-seed0"]


def test_a_study_without_some_further_test_is_not_published(study, tmp_path):
    cut = shutil.copytree(study, tmp_path / "results/tiny")
    next(cut.glob("models/further/cnn-seed0*grey*")).unlink()
    with pytest.raises(InputError, match="a further test of cnn-seed0 is missing"):
        publish.publish(cut, tmp_path, Console(quiet=True))


def test_a_study_that_runs_or_has_no_small_model_is_not_published(study, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "WEIGHTS_BYTES", 100)
    with pytest.raises(InputError, match="has no model of at most 100 bytes: retrain a smaller one"):
        publish.publish(study, tmp_path, Console(quiet=True))
    copy = shutil.copytree(study, tmp_path / "results/tiny")
    config, _ = load_study(copy)
    add_trial(Journal(copy / "study.journal", "tiny", note=print), config, [0.5], filters=4)
    with pytest.raises(InputError, match="trial 3 has not ended: resume the search first"):
        publish.publish(copy, tmp_path, Console(quiet=True))
    assert not (tmp_path / "reference").exists()
