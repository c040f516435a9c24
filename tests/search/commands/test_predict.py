"""The command line that says REAL or FAKE: what it prints, skips and refuses."""

import csv
import hashlib
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from search.commands.predict import answer, main
from search.evaluation.cost import MAX_BATCH
from search.evaluation.model_card import describe_limits
from search.evaluation.model_file import load_model
from search.evaluation.statistics import call_positive
from trainables.augment import to_float

APP = typer.Typer()
APP.command()(main)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def ask(saved_model, tmp_path, monkeypatch):
    """Call the command line in tmp_path with a model; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, model=saved_model):
        result = CliRunner().invoke(APP, [str(model), *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def rewrite_weights():
    """Return a function that changes a model's tensors and puts the new checksum into its record."""

    def rewrite(path, change):
        weights = safetensors.torch.load_file(path)
        content = safetensors.torch.save({name: change(tensor) for name, tensor in weights.items()})
        path.write_bytes(content)
        record = json.loads(path.with_suffix(".json").read_text())
        record["sha256"]["weights"] = hashlib.sha256(content).hexdigest()
        path.with_suffix(".json").write_text(json.dumps(record))

    return rewrite


def write_pictures(folder, write_noise, count):
    return [write_noise(folder / f"{number:04}.png", number) for number in range(count)]


def compute(model, paths):
    """What the model says of 32x32 pictures, computed in one go."""
    pixels = torch.from_numpy(np.stack([np.array(Image.open(path)) for path in paths]))
    with torch.inference_mode():
        return torch.sigmoid(model.eval()(to_float(pixels)).double())


def test_each_picture_gets_the_models_probability(ask, saved_model, write_noise, tmp_path):
    paths = write_pictures(tmp_path / "many", write_noise, 5)
    code, stdout, stderr = ask("many")
    assert code == 0
    expected = compute(load_model(saved_model).model, paths)
    labels = ["REAL" if probability > 0.5 else "FAKE" for probability in expected]
    lines = [f"{label}  {p:.4f}  many/{path.name}" for label, p, path in zip(labels, expected, paths, strict=True)]
    assert stdout.splitlines() == lines
    assert stderr == f"note: {describe_limits(32)}.\n"


def test_the_threshold_is_the_records(ask, saved_model, write_noise, tmp_path):
    path = write_noise(tmp_path / "one.png", 0)
    probability = float(compute(load_model(saved_model).model, [path])[0])
    record = saved_model.with_suffix(".json")
    content = json.loads(record.read_text())
    for threshold, label in ((probability - 1e-3, "REAL"), (probability + 1e-3, "FAKE")):
        content["tested"]["threshold"] = threshold
        record.write_text(json.dumps(content))
        assert ask("one.png")[1].startswith(label)


def test_an_image_is_called_as_the_evaluation_calls_it_also_where_its_probability_is_the_threshold(
    ask, saved_model, write_noise, tmp_path
):
    path = write_noise(tmp_path / "one.png", 0)
    probability = np.float32(compute(load_model(saved_model).model, [path])[0])
    record = saved_model.with_suffix(".json")
    content = json.loads(record.read_text())
    for threshold in (np.nextafter(probability, np.float32(0)), probability, np.nextafter(probability, np.float32(1))):
        content["tested"]["threshold"] = float(threshold)
        record.write_text(json.dumps(content))
        (answered,) = json.loads(ask("one.png", "--json")[1])["images"]
        assert np.float32(answered["probability"]) == answered["probability"] == probability
        called = call_positive(np.array([probability]), content["tested"]["threshold"])
        assert (answered["label"] == "REAL") == called[0] == (probability > threshold)


def set_tested(saved_model, **values):
    """Change what a model's record says of its test."""
    record = saved_model.with_suffix(".json")
    content = json.loads(record.read_text())
    content["tested"] |= values
    content["retraining"] |= {name: value for name, value in values.items() if name in content["retraining"]}
    record.write_text(json.dumps(content))


def test_logits_are_divided_by_the_temperature_of_the_record(ask, saved_model, write_noise, tmp_path):
    path = write_noise(tmp_path / "one.png", 0)
    plain = json.loads(ask("one.png", "--json")[1])
    set_tested(saved_model, temperature=0.25)
    warm = json.loads(ask("one.png", "--json")[1])
    assert (plain["temperature"], warm["temperature"]) == (1.0, 0.25)
    logit = torch.logit(compute(load_model(saved_model).model, [path]))
    assert warm["images"][0]["probability"] == pytest.approx(float(torch.sigmoid(4 * logit)), abs=1e-6)
    assert abs(warm["images"][0]["probability"] - 0.5) > abs(plain["images"][0]["probability"] - 0.5)


def test_a_picture_of_which_no_class_has_the_confidence_is_unsure_in_every_form(
    ask, saved_model, write_noise, tmp_path
):
    set_tested(saved_model, temperature=0.01)
    write_pictures(tmp_path / "many", write_noise, 8)
    plain = json.loads(ask("many", "--json")[1])["images"]
    sureness = sorted(max(image["probability"], 1 - image["probability"]) for image in plain)
    confidence = (sureness[3] + sureness[4]) / 2
    document = json.loads(ask("many", "--json", "--abstain", confidence)[1])
    assert document["abstain"] == confidence
    assert f"4 of 8 UNSURE: no class has a probability of at least {confidence}" in document["limits"]
    for before, after in zip(plain, document["images"], strict=True):
        is_unsure = max(before["probability"], 1 - before["probability"]) < confidence
        assert after == before | ({"label": "UNSURE"} if is_unsure else {})
    code, stdout, stderr = ask("many", "--csv", "--abstain", confidence)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(stdout)))
    assert [row["label"] for row in rows] == [image["label"] for image in document["images"]]
    assert [float(row["probability"]) for row in rows] == [image["probability"] for image in plain]
    assert "note: 4 of 8 UNSURE" in stderr
    lines = ask("many", "--abstain", confidence)[1].splitlines()
    assert [line.split()[0] for line in lines] == [image["label"] for image in document["images"]]
    assert json.loads(ask("many", "--json", "--abstain", 0.5)[1])["images"] == plain


def test_a_model_with_a_class_named_unsure_may_not_abstain(ask, saved_model, write_noise, tmp_path):
    write_noise(tmp_path / "one.png", 0)
    record = saved_model.with_suffix(".json")
    content = json.loads(record.read_text())
    content["preprocessing"] |= {"classes": ["SURE", "UNSURE"], "positive": "UNSURE"}
    record.write_text(json.dumps(content))
    assert ask("one.png")[0] == 0
    code, stdout, stderr = ask("one.png", "--abstain", 0.9)
    assert (code, stdout, len(stderr.splitlines())) == (2, "", 1)
    assert "a class of this model is named UNSURE" in stderr


def test_logits_are_averaged_with_the_mirror_image_if_the_record_says_so(ask, saved_model, write_noise, tmp_path):
    write_noise(tmp_path / "one.png", 0)
    plain = ask("one.png", "--json")[1]
    record = saved_model.with_suffix(".json")
    content = json.loads(record.read_text())
    content["parameters"]["flip_average"] = True
    record.write_text(json.dumps(content))
    Image.open(tmp_path / "one.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    found = [json.loads(ask(name, "--json")[1])["images"][0]["probability"] for name in ("one.png", "mirrored.png")]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] != pytest.approx(json.loads(plain)["images"][0]["probability"], abs=1e-6)


def test_more_pictures_than_a_batch_come_in_order_and_are_counted(saved_model, write_noise, tmp_path):
    one = write_noise(tmp_path / "0.png", 0)
    other = write_noise(tmp_path / "1.png", 1)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    paths = [one, other, broken] * MAX_BATCH
    counts = []
    trained = load_model(saved_model)
    answers, bad = answer(trained, paths, counts.append)
    assert counts == [MAX_BATCH] * 3
    assert [found.file for found in answers] == [str(one), str(other)] * MAX_BATCH
    assert len(bad) == MAX_BATCH
    expected = compute(trained.model, [one, other]).tolist()
    assert [found.probability for found in answers] == pytest.approx(expected * MAX_BATCH, abs=1e-6)


def test_a_model_that_gives_no_number_is_refused(ask, saved_model, rewrite_weights, write_noise, tmp_path):
    write_pictures(tmp_path / "many", write_noise, 2)
    signs = torch.tensor([1.0, -1.0])
    rewrite_weights(saved_model, lambda tensor: 3e38 * signs[torch.arange(tensor.numel()) % 2].view(tensor.shape))
    code, stdout, stderr = ask("many")
    assert (code, stdout) == (2, "")
    assert stderr == "error: cnn-seed0 gives no number for some pictures: its weights are unusable\n"


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64])
def test_weights_of_another_type_are_refused(ask, saved_model, rewrite_weights, write_noise, tmp_path, dtype):
    write_pictures(tmp_path / "many", write_noise, 1)
    rewrite_weights(saved_model, lambda tensor: tensor.to(dtype))
    code, _, stderr = ask("many")
    assert code == 2
    assert "the weights have other names, shapes or types" in stderr


def test_bad_files_are_named_and_skipped(ask, write_noise, tmp_path):
    write_noise(tmp_path / "good.png", 0)
    (tmp_path / "bad\n.png").write_bytes(b"not a picture")
    (tmp_path / "empty").mkdir()
    code, stdout, stderr = ask("bad\n.png", "good.png", "empty", "nowhere.png")
    assert code == 1
    assert len(stdout.splitlines()) == 1
    assert stderr.splitlines()[:3] == [
        "skipped: empty contains no pictures",
        r"skipped: bad\n.png is not a sound JPEG, PNG, GIF, WebP, BMP or TIFF image",
        "skipped: nowhere.png does not exist",
    ]


def test_the_notes_say_once_what_was_done_to_the_pictures(ask, write_noise, tmp_path):
    for number in range(3):
        write_noise(tmp_path / "large" / f"{number}.png", number, size=80)
    Image.new("RGBA", (32, 32)).save(tmp_path / "large" / "clear.png")
    lines = ask("large")[2].splitlines()
    assert lines[1:] == [
        "note: 3 of 4 not 32x32 pixels: the whole picture was resized",
        "note: 1 of 4 transparent: composited on white",
    ]


def test_json_is_one_document_and_csv_one_table(ask, write_noise, tmp_path):
    write_noise(tmp_path / 'a, "b".png', 0, size=40)
    (tmp_path / "bad.png").touch()
    code, stdout, stderr = ask(".", "--json")
    assert code == 1
    document = json.loads(stdout)
    assert document["model"] == "cnn-seed0"
    assert document["limits"][0] == f"{describe_limits(32)}."
    assert [image["file"] for image in document["images"]] == ['a, "b".png']
    assert document["images"][0]["notes"] == ["resized"]
    assert [skipped["file"] for skipped in document["skipped"]] == ["bad.png"]
    assert "note:" not in stderr
    row = next(csv.DictReader(io.StringIO(ask(".", "--csv")[1])))
    assert row["file"] == 'a, "b".png'
    assert float(row["probability"]) == document["images"][0]["probability"]


def test_names_that_are_no_text_are_printed(ask, write_noise, tmp_path):
    path = write_noise(tmp_path / "plain.png", 0)
    path.rename(tmp_path / os.fsdecode(b"\xff.png"))
    for option in ([], ["--json"], ["--csv"]):
        code, stdout, _ = ask(".", *option)
        assert code == 0
        assert r"\udcff.png" in stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one.png", "--json", "--csv"], "exclude each other"),
        *(
            (["one.png", "--abstain", value], "expected a confidence of at least 0.5 and below 1")
            for value in ("0.49", "1", "95", "-1", "nan", "inf", "much", "")
        ),
        (["one.png"], "has no record"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(ask, saved_model, write_noise, tmp_path, arguments, message):
    write_noise(tmp_path / "one.png", 0)
    if message == "has no record":
        saved_model.with_suffix(".json").unlink()
    code, stdout, stderr = ask(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert message in stderr
    assert len(stderr.splitlines()) == 1


@pytest.fixture
def ask_bundled(saved_model, tmp_path, monkeypatch):
    """Call the command line in tmp_path of a project that comes with a model; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr("search.evaluation.model_file.ROOT", tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved_model.parent, tmp_path / "project" / "reference" / "night" / "models")

    def call(*arguments):
        result = CliRunner().invoke(APP, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.mark.parametrize("option", ["--json", "--csv", None])
def test_without_a_model_the_bundled_one_answers_and_a_line_says_which(
    ask_bundled, saved_model, write_noise, tmp_path, option
):
    write_noise(tmp_path / "one.png", 0)
    options = [option] if option else []
    code, stdout, stderr = ask_bundled("one.png", *options)
    said = "note: the bundled model answers: cnn-seed0 of the study night, 90.00% right on test\n"
    assert (code, stderr.startswith(said)) == (0, True)
    named = ask_bundled(saved_model, "one.png", *options)
    assert (named[0], named[1]) == (0, stdout)
    assert "bundled" not in named[2]


def test_a_photo_that_is_missing_is_skipped_by_the_bundled_model_too(ask_bundled):
    code, stdout, stderr = ask_bundled("gone.jpg")
    assert (code, stdout) == (1, "")
    assert "skipped: gone.jpg does not exist\n" in stderr


def test_without_a_bundled_model_one_must_be_named(ask_bundled, write_noise, tmp_path):
    write_noise(tmp_path / "one.png", 0)
    shutil.copytree(tmp_path / "project/reference/night", tmp_path / "project/reference/other")
    first = tmp_path / "project/reference/night/models/cnn-seed0.safetensors"
    assert ask_bundled("one.png") == (
        2,
        "",
        f"error: several models are bundled: name one first, such as {first}\n",
    )
    shutil.rmtree(tmp_path / "project")
    assert ask_bundled("one.png") == (
        2,
        "",
        "error: no model is bundled here: name one first, a .safetensors file of results/NAME/models\n",
    )


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["photo.safetensors"], "photo.safetensors is a model by its suffix: name pictures, or folders of them, after"),
        (["one.png", "photo.safetensors"], "photo.safetensors is a model by its suffix: name one model, before the"),
        (["a.safetensors", "b.safetensors", "one.png"], "b.safetensors is a model by its suffix: name one model"),
        (["photo.safetensors", "one.png"], "photo.safetensors does not exist"),
    ],
)
def test_a_path_that_looks_like_a_model_is_told_from_a_picture(ask_bundled, write_noise, tmp_path, paths, message):
    write_noise(tmp_path / "one.png", 0)
    code, stdout, stderr = ask_bundled(*paths)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"error: {message}")
    assert len(stderr.splitlines()) == 1


def test_a_bundled_model_that_was_damaged_does_not_answer(ask_bundled, write_noise, tmp_path):
    write_noise(tmp_path / "one.png", 0)
    (tmp_path / "project/reference/night/models/cnn-seed0.safetensors").write_bytes(b"altered")
    code, stdout, stderr = ask_bundled("one.png")
    assert (code, stdout, "differs from its record" in stderr) == (2, "", True)


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_bar_is_on_stderr_and_only_on_a_terminal(saved_model, write_noise, tmp_path, terminal):
    write_pictures(tmp_path / "many", write_noise, 3)
    ours, theirs = pty.openpty()
    process = subprocess.run(
        [sys.executable, "-m", "search", "predict", str(saved_model), str(tmp_path / "many")],
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs if terminal else subprocess.PIPE,
        check=True,
    )
    os.close(theirs)
    assert len(process.stdout.splitlines()) == 3
    assert b"\x1b" not in process.stdout
    shown = os.read(ours, 65536) if terminal else process.stderr
    assert (b"scoring" in shown) == terminal
    os.close(ours)
