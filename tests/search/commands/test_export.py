"""The command line that writes ONNX: onnxruntime agrees with torch, and nothing is overwritten."""

import dataclasses
import sys

import numpy as np
import onnx
import pytest
import torch
import typer
from typer.testing import CliRunner

from search.commands.export import export_onnx, main, run_onnx
from search.evaluation.model_file import TrainedModel, load_model
from trainables.augment import to_float
from trainables.classifier import Classifier
from trainables.config import build_train_config
from trainables.errors import InputError
from trainables.models.model import build_model
from trainables.splits import open_train

APP = typer.Typer()
APP.command()(main)

CNN = {"filters": 4, "dense_units": 8, "num_blocks": 3}
CONFIGS = {
    "flatten": ("cnn", CNN),
    "gap, norm, flip": ("cnn", CNN | {"head": "gap", "batch_norm": True, "flip_average": True, "convs_per_block": 2}),
    "resnet50": ("resnet50", {"hidden_layers": 1, "input_size": 64}),
}


class Branching(torch.nn.Module):
    """A network that computes something else for dark images, which torch.export cannot trace."""

    def forward(self, images):
        return images.mean((1, 2, 3)) if images.sum() > 0 else images.amax((1, 2, 3))


def call(*arguments):
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def vary_brightness(images):
    """Darken images (N, H, W, C) more or less, so that a model that was never trained tells them apart."""
    return (images * torch.linspace(0, 1, len(images)).view(-1, 1, 1, 1)).byte()


def normalise(model, images):
    """Take the statistics of batch normalisation from the images; return the model ready to predict."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(to_float(images))
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_onnxruntime_agrees_with_torch_on_any_number_of_images(saved_model, packed, tmp_path, name):
    architecture, params = CONFIGS[name]
    config = build_train_config(architecture, params, epochs=1, seed=0)
    images = vary_brightness(open_train(packed, val_fraction=0.5, seed=0, max_images=None)[0].images)
    model = normalise(build_model(config.model, seed=3), images)
    trained = TrainedModel(model=model, config=config, record=load_model(saved_model).record)
    assert export_onnx(trained, tmp_path / "model.onnx") <= 1e-4
    classifier = Classifier(model, flip_average=config.flip_average).eval()
    with torch.inference_mode():
        expected = classifier(images).numpy()
    assert np.ptp(expected) > 1e-3
    for count in (1, 7, len(images)):
        found = run_onnx(tmp_path / "model.onnx", images[:count].numpy())
        assert found.shape == (count,)
        assert np.abs(found - expected[:count]).max() < 1e-4


def test_the_file_stands_alone_and_says_what_it_is(saved_model):
    code, stdout, stderr = call(saved_model)
    assert (code, stderr) == (0, "")
    path = saved_model.with_suffix(".onnx")
    assert stdout.startswith(f"{path}: cnn-seed0, input images (N, 32, 32, 3) uint8")
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    known = {entry.key: entry.value for entry in model.metadata_props}
    assert known["threshold"] == "0.5"
    assert known["temperature"] == "1.0"
    assert known["rule"] == "REAL where probability > threshold, both as float32"
    assert known["weights_sha256"] == load_model(saved_model).record.sha256["weights"]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        f"cnn-seed0{end}" for end in (".json", ".md", ".onnx", ".safetensors")
    ]


def test_the_graph_divides_by_the_temperature_of_the_record(saved_model, tmp_path):
    trained = load_model(saved_model)
    images = vary_brightness(torch.randint(256, (9, 32, 32, 3), generator=torch.Generator().manual_seed(0)))
    warm = dataclasses.replace(
        trained, record=dataclasses.replace(trained.record, tested=trained.record.tested | {"temperature": 0.1})
    )
    with torch.inference_mode():
        logits = trained.model.eval()(to_float(images))
    for one, temperature in ((trained, 1.0), (warm, 0.1)):
        path = tmp_path / f"{temperature}.onnx"
        export_onnx(one, path)
        expected = torch.sigmoid(logits / temperature).numpy()
        assert np.abs(run_onnx(path, images.numpy()) - expected).max() < 1e-4
        known = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        assert known["temperature"] == str(temperature)
    assert "Div" not in {node.op_type for node in onnx.load(tmp_path / "1.0.onnx").graph.node[-2:]}


def test_nothing_is_overwritten(saved_model, tmp_path):
    target = tmp_path / "mine.onnx"
    target.write_text("mine")
    code, stdout, stderr = call(saved_model, "--format", "onnx", "--output", target)
    assert (code, stdout, stderr) == (2, "", f"error: {target} exists: remove it, or give another name\n")
    assert target.read_text() == "mine"


def test_a_missing_extra_is_one_sentence_with_the_command(saved_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, stderr = call(saved_model)
    assert code == 2
    assert stderr == "error: exporting needs onnxscript: pip install '.[export]'\n"
    assert not saved_model.with_suffix(".onnx").exists()


def test_a_model_on_which_torch_and_onnxruntime_differ_is_not_written(saved_model, tmp_path):
    class Fickle(torch.nn.Module):
        """Computes one thing while it is exported and another when it is asked."""

        def forward(self, images):
            return images.mean((1, 2, 3)) * (1.0 if torch.compiler.is_exporting() else 5.0)

    trained = dataclasses.replace(load_model(saved_model), model=Fickle())
    with pytest.raises(ValueError, match="onnxruntime and torch differ by"):
        export_onnx(trained, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_what_is_no_model_is_refused(tmp_path):
    code, _, stderr = call(tmp_path / "nothing.safetensors")
    assert code == 2
    assert "does not exist" in stderr


def test_a_model_that_torch_cannot_trace_is_a_sentence_and_writes_nothing(saved_model, tmp_path):
    trained = dataclasses.replace(load_model(saved_model), model=Branching())
    with pytest.raises(InputError, match=r"torch cannot export this model: .*; change the forward method of its class"):
        export_onnx(trained, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
