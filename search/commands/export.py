"""Exports a trained model for use outside this project.

python -m search export MODEL --format onnx [--output PATH] [--code FOLDER]
"""

import importlib
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from search.commands.terminal import CodeOption, check_target, explain_errors
from search.config.printable import escape
from search.evaluation.cost import count_batch
from search.evaluation.model_card import describe_limits
from search.evaluation.model_file import TrainedModel, load_model
from trainables.classifier import Classifier
from trainables.durable import replace_file
from trainables.errors import InputError

TOLERANCE = 1e-4
"""Largest accepted difference between probabilities of the exported model and of PyTorch."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extra `export`."""


def main(
    model: Annotated[Path, typer.Argument(help="A .safetensors file in results/NAME/models.")],
    form: Annotated[Literal["onnx"], typer.Option("--format", help="The only format so far.")] = "onnx",
    output: Annotated[Path | None, typer.Option(help="File to write; MODEL's name with .onnx by default.")] = None,
    code: CodeOption = None,
) -> None:
    """Export a trained model. It takes uint8 images and returns their probabilities of the positive class."""
    with explain_errors():
        trained = load_model(model, code)
        target = output or model.with_suffix(f".{form}")
        check_target(target)
        difference = export_onnx(trained, target)
        size, positive = trained.record.size, escape(trained.record.classes[1])
        what = f"input images (N, {size}, {size}, 3) uint8, output probability of {positive} (N,)"
        typer.echo(f"{escape(target)}: {trained.record.label}, {what}")
        typer.echo(f"onnxruntime and torch differ by at most {difference:.1e} on noise. {describe_limits(size)}.")


def export_onnx(trained: TrainedModel, path: Path) -> float:
    """Write a model as ONNX, after a check that onnxruntime agrees with PyTorch.

    Returns:
        The largest difference of a probability, on noise images from dark to bright.

    Raises:
        InputError: If packages are missing, the results differ, or the file cannot be written.
    """
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            raise InputError(f"exporting needs {name}: pip install '.[export]'") from None
    temperature = trained.record.tested["temperature"]
    classifier = Classifier(trained.model, flip_average=trained.config.flip_average, temperature=temperature).eval()
    size = trained.record.size
    num = max(2, min(16, count_batch(trained.config.model, size=trained.record.size)))
    brightness = np.linspace(1, 256, num, dtype=np.int64)[:, None, None, None]
    noise = np.random.default_rng(0).integers(brightness, size=(num, size, size, 3), dtype=np.uint8)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".exporting-") as scratch:
            staged = Path(scratch) / path.name
            _write(classifier, noise, _describe(trained), staged)
            with torch.inference_mode():
                difference = float(np.abs(run_onnx(staged, noise) - classifier(torch.from_numpy(noise)).numpy()).max())
            if not difference <= TOLERANCE:
                raise InputError(f"onnxruntime and torch differ by {difference:.1e} on this model; nothing was written")
            replace_file(staged, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise InputError(f"torch cannot export this model: {reason}; change the forward method of its class") from None
    return difference


def run_onnx(path: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute the probabilities of label 1 (N,) of images (N, size, size, 3) by an exported model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    probabilities: NDArray[np.float32] = session.run(["probability"], {"images": images})[0]
    return probabilities


def _write(classifier: Classifier, example: NDArray[np.uint8], metadata: dict[str, str], path: Path) -> None:
    """Trace the classifier with an example batch; the batch size stays dynamic."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # from torch 2.14's exporter and onnxscript, not from the model
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        program: Any = torch.onnx.export(
            classifier,
            (torch.from_numpy(example),),
            input_names=["images"],
            output_names=["probability"],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update(metadata)
    program.save(path)


def _describe(trained: TrainedModel) -> dict[str, str]:
    record = trained.record
    return {
        "label": record.label,
        "threshold": repr(record.tested["threshold"]),
        "temperature": repr(record.tested["temperature"]),
        "rule": f"{record.classes[1]} where probability > threshold, both as float32",
        "positive": record.classes[1],
        "negative": record.classes[0],
        "size": str(record.size),
        "weights_sha256": record.sha256["weights"],
        "limits": describe_limits(record.size),
    }
