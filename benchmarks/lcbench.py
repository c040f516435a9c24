"""A source of `benchmarks.replay`: LCBench, curves of networks on 34 data sets, from YAHPO Gym's model.

    git clone --depth 1 --branch v1.0.2 https://github.com/slds-lmu/yahpo_data
    python -m benchmarks.replay --source lcbench --lcbench yahpo_data/lcbench --tasks choose --repetitions 3

The model is a network in ONNX that was fitted to 2,000 random configurations of each data set. It gives the accuracy of
a configuration after each of 52 epochs. It has no noise: every training of a configuration has the same curve for any
seed, and regret is computed from the accuracy that the search saw.

Source: Zimmer, Lindauer and Hutter 2021, Auto-PyTorch Tabular (arXiv:2006.13799), for the trainings; Pfisterer et al.
2022, YAHPO Gym (arXiv:2109.03670), for the model and its columns.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.source import Curve, draw_points
from search.config.code import take_function
from search.config.load import parse
from search.config.schema import StudyConfig
from trainables.errors import InputError

TASKS = (
    *("3945", "7593", "34539", "126025", "126026", "126029", "146212", "167104", "167149", "167152", "167161"),
    *("167168", "167181", "167184", "167185", "167190", "167200", "167201", "168329", "168330", "168331", "168335"),
    *("168868", "168908", "168910", "189354", "189862", "189865", "189866", "189873", "189905", "189906", "189908"),
    "189909",
)
"""OpenML's tasks, ascending."""
PARTS = {"choose": TASKS[::3], "confirm": TASKS[1::3], "keep": TASKS[2::3]}
"""Name -> tasks: arms are chosen on the first part and confirmed on the second; the third is for later claims."""
EPOCHS = 52
NUM_POINTS = 4000
"""Random configurations of a task. The best of them has regret 0; a better configuration has a negative regret."""
SPACE: dict[str, Any] = {
    "batch_size": {"low": 16, "high": 512, "log": True},
    "learning_rate": {"low": 1e-4, "high": 0.1, "log": True},
    "momentum": {"low": 0.1, "high": 0.99},
    "weight_decay": {"low": 1e-5, "high": 0.1},
    "num_layers": {"low": 1, "high": 5},
    "max_units": {"low": 64, "high": 1024, "log": True},
    "max_dropout": {"low": 0.0, "high": 1.0},
}
"""The space of the model's config_space.json, in the order of the model's columns after the epoch."""
SNAPSHOT = "`git clone --depth 1 --branch v1.0.2 https://github.com/slds-lmu/yahpo_data` has it as yahpo_data/lcbench"


def funnel(
    run: Any,
    batch_size: int = 91,
    learning_rate: float = 3e-3,
    momentum: float = 0.5,
    weight_decay: float = 0.05,
    num_layers: int = 3,
    max_units: int = 256,
    max_dropout: float = 0.5,
) -> Iterator[dict[str, float]]:
    """State the parameters of LCBench's funnel-shaped networks; nothing is trained."""
    yield from ()


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A Source: one data set."""

    folder: Path
    """Folder of model.onnx and encoding.json."""
    task: str
    """One of TASKS."""

    @property
    def name(self) -> str:
        """See Source."""
        return f"lcbench {self.task}"

    @property
    def architecture(self) -> str:
        """See Source."""
        return f"{__name__}:funnel"

    @property
    def max_epochs(self) -> int:
        """See Source."""
        return EPOCHS

    def build_study(self, **search: Any) -> StudyConfig:
        """See Source."""
        take_function(self.architecture, funnel)
        return parse(
            {
                "name": "lcbench",
                "trainable": self.architecture,
                "search": {"max_epochs": EPOCHS, **search},
                "space": {"funnel": SPACE},
            }
        )

    def train(self, params: Mapping[str, Any], seed: Sequence[int]) -> Curve:
        """See Source."""
        [accuracies], [seconds] = self.predict([params])
        return Curve(accuracies, float(seconds), 100 * (find_best(self) - float(accuracies.max())))

    def predict(self, points: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the accuracies (points, EPOCHS) of configurations, and the seconds (points,) of an epoch.

        All epochs have the mean duration of a full training, because the model's time of training does not always
        grow with the epoch.
        """
        session, codes = load_model(self.folder)
        rows = np.empty((len(points), EPOCHS, 1 + len(SPACE)), dtype=np.float32)
        rows[:, :, 0] = np.arange(1, EPOCHS + 1)
        rows[:, :, 1:] = np.array([[params[name] for name in SPACE] for params in points])[:, None]
        code = np.full((len(points) * EPOCHS, 1), codes[self.task], dtype=np.int32)
        [found] = session.run(None, {"x_cat": code, "x_cont": rows.reshape(len(code), -1)})
        told = np.asarray(found, dtype=np.float64).reshape(len(points), EPOCHS, -1)
        return np.clip(told[:, :, 1] / 100, 0.0, 1.0), told[:, -1, 0] / EPOCHS


@functools.cache
def find_best(source: Task) -> float:
    """Return the best accuracy of many random configurations at any epoch."""
    points = draw_points(source, NUM_POINTS)
    parts = [points[start : start + 500] for start in range(0, NUM_POINTS, 500)]
    return max(float(source.predict(part)[0].max()) for part in parts)


def list_tasks(folder: Path | None, names: Sequence[str]) -> list[Task]:
    """Return tasks by their numbers or the names of PARTS.

    Raises:
        InputError: If one is unknown, or the folder does not have the model.
    """
    if folder is None:
        raise InputError(f"--source lcbench needs --lcbench FOLDER, which has model.onnx and encoding.json: {SNAPSHOT}")
    tasks = list(dict.fromkeys(task for name in names for task in PARTS.get(name, (name,))))
    if unknown := [task for task in tasks if task not in TASKS]:
        raise InputError(f"--tasks {unknown[0]}: expected one of {', '.join(PARTS)}, {', '.join(TASKS)}")
    load_model(folder)
    return [Task(folder, task) for task in tasks]


@functools.cache
def load_model(folder: Path) -> tuple[Any, dict[str, int]]:
    """Return onnxruntime's session, and the model's number of each task.

    Raises:
        InputError: If a file is missing or is not the model's, or onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError("LCBench's model needs onnxruntime: pip install '.[export]'") from None
    for name in ("model.onnx", "encoding.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing: {SNAPSHOT}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # searches run side by side
    try:
        session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        widths = {given.name: given.shape[1] for given in session.get_inputs()}
        codes = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]
        is_known = widths == {"x_cat": 1, "x_cont": 1 + len(SPACE)} and all(type(codes[task]) is int for task in TASKS)
    except Exception as error:  # onnxruntime has a class for each kind of damaged model
        raise InputError(f"{folder} has no readable LCBench ({error}): {SNAPSHOT}") from error
    if not is_known:
        raise InputError(f"{folder} has another model than LCBench's: {SNAPSHOT}")
    return session, codes
