"""LCBench as a source of the replay; a stand-in has the model's inputs and outputs, the model itself is fetched."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import replay
from benchmarks.arms import BASELINE, DEFAULT
from benchmarks.lcbench import EPOCHS, PARTS, SPACE, TASKS, Task, find_best, list_tasks
from benchmarks.simulation import Plan, list_plans, simulate
from benchmarks.source import draw_points, list_distributions
from trainables.errors import InputError

LCBENCH = os.environ.get("LCBENCH_PATH")
needs_lcbench = pytest.mark.skipif(LCBENCH is None, reason="needs the real model: LCBENCH_PATH names no folder")


@pytest.fixture
def folder(tmp_path):
    """A model whose accuracy in percent is 10 + epoch / 2 + 40 momentum - task, and whose time is 3 epochs."""
    weights = np.zeros((9, 6), dtype=np.float32)
    weights[0, 1], weights[1, 1], weights[4, 1], weights[1, 0] = -1.0, 0.5, 40.0, 3.0
    write_model(tmp_path / "model.onnx", weights)
    codes = {task: number for number, task in enumerate(TASKS, start=1)}
    (tmp_path / "encoding.json").write_text(json.dumps({"OpenML_task_id": {"#na#": 0, **codes}}))
    return tmp_path


def write_model(path, weights):
    bias = np.array([0, 10, 0, 0, 0, 0], dtype=np.float32)
    width = len(weights) - 1
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x_cat"], ["task"], to=TensorProto.FLOAT),
            helper.make_node("Concat", ["task", "x_cont"], ["row"], axis=1),
            helper.make_node("Gemm", ["row", "weights", "bias"], ["output"]),
        ],
        "lcbench",
        [
            helper.make_tensor_value_info("x_cat", TensorProto.INT32, ["n", 1]),
            helper.make_tensor_value_info("x_cont", TensorProto.FLOAT, ["n", width]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)


def test_a_curve_has_the_accuracy_of_each_epoch_and_the_same_for_any_seed(folder):
    source = Task(folder, "7593")
    [params] = draw_points(source, 1)
    curve = source.train(params, [0, 1])
    assert curve.accuracies == pytest.approx((8 + np.arange(1, EPOCHS + 1) / 2 + 40 * params["momentum"]) / 100)
    assert curve.seconds == pytest.approx(3.0)
    again = source.train(params, [5, 1])
    assert np.array_equal(curve.accuracies, again.accuracies)
    assert curve[1:] == again[1:]


def test_a_task_differs_by_its_own_number(folder):
    [params] = draw_points(Task(folder, "3945"), 1)
    first, second = (Task(folder, task).predict([params])[0] for task in TASKS[:2])
    assert first - second == pytest.approx(np.full((1, EPOCHS), 0.01), abs=1e-6)


def test_regret_is_the_distance_to_the_best_random_configuration(folder):
    source = Task(folder, "3945")
    assert find_best(source) == pytest.approx((9 + EPOCHS / 2 + 40 * 0.99) / 100, abs=1e-3)
    point = {name: distribution.low for name, distribution in list_distributions(source).items()}
    assert source.train(point, [0]).regret == pytest.approx(40 * 0.89, abs=0.1)


@pytest.mark.parametrize("arm", [BASELINE, DEFAULT, "portfolio 10 + asha from 3", "tpe 10 from qmc + asha from 3"])
def test_a_search_of_a_task_repeats_exactly(folder, arm):
    plan = Plan(arm=arm, slots=4, seed=0, epochs=300, source=Task(folder, "3945"))
    first = simulate(plan)
    assert first.shape == (300, 2)
    assert np.array_equal(first, simulate(plan))


def test_the_first_rung_of_the_default_is_a_third_of_a_training(folder):
    search = Task(folder, "3945").build_study().search
    assert search.find_first_rung(search.architectures[0]) == 18


def test_each_task_has_its_own_seeds_which_all_arms_share(folder):
    plans = list_plans([BASELINE, DEFAULT], [4], 2, 100, list_tasks(folder, ["3945", "7593"]), first_seed=10)
    assert [(plan.source.task, plan.seed) for plan in plans[:4]] == [
        *(("3945", 10), ("3945", 11)),
        *(("7593", 12), ("7593", 13)),
    ]
    assert [(plan.source, plan.seed) for plan in plans[4:]] == [(plan.source, plan.seed) for plan in plans[:4]]


def test_every_task_belongs_to_one_part():
    assert sorted(task for part in PARTS.values() for task in part) == sorted(TASKS)
    assert list(TASKS) == sorted(set(TASKS), key=int)
    assert {name: len(part) for name, part in PARTS.items()} == {"choose": 12, "confirm": 11, "keep": 11}


def test_tasks_are_named_by_number_or_by_part_and_taken_once(folder):
    assert [source.task for source in list_tasks(folder, ["3945", "choose"])] == list(PARTS["choose"])


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the replay in this process; return its exit code and what it printed, to both streams."""

    def call(*options):
        monkeypatch.setattr(sys, "argv", ["replay", *map(str, options)])
        try:
            replay.main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


def test_without_a_folder_one_sentence_says_where_the_model_is(call):
    code, _, error = call("--source", "lcbench")
    assert code == 2
    assert error.startswith("error: --source lcbench needs --lcbench FOLDER")
    assert "github.com/slds-lmu/yahpo_data" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["model.onnx", "encoding.json"])
def test_a_missing_file_is_named_with_its_cure(call, folder, name):
    (folder / name).unlink()
    code, _, error = call("--source", "lcbench", "--lcbench", folder)
    assert code == 2
    assert error.startswith(f"error: {folder / name} is missing: ")
    assert "git clone" in error


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.onnx", b"no model"),
        ("encoding.json", b"{"),
        ("encoding.json", b"[]"),
        ("encoding.json", b'{"OpenML_task_id": {"3945": 1}}'),
        ("encoding.json", b"\xff\xfe"),
    ],
)
def test_a_file_that_is_not_the_models_is_refused_in_one_sentence(call, folder, name, content):
    (folder / name).write_bytes(content)
    code, _, error = call("--source", "lcbench", "--lcbench", folder)
    assert code == 2
    assert error.startswith(f"error: {folder} has no readable LCBench")


def test_another_model_is_refused(folder):
    write_model(folder / "model.onnx", np.zeros((8, 6), dtype=np.float32))
    with pytest.raises(InputError, match="has another model than LCBench's"):
        list_tasks(folder, ["3945"])


def test_an_unknown_task_is_refused_with_the_known_ones(call, folder):
    code, _, error = call("--source", "lcbench", "--lcbench", folder, "--tasks", "167083")
    assert code == 2
    assert error.startswith("error: --tasks 167083: expected one of choose, confirm, keep, 3945, 7593")


def test_a_missing_onnxruntime_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs onnxruntime: pip install"):
        list_tasks(folder, ["3945"])


@pytest.mark.slow
def test_several_tasks_have_a_table_by_source_and_a_row_for_each_search(call, folder, tmp_path):
    options = ("--epochs", 104, "--repetitions", 2, "--slots", 2, "--processes", 1, "--json", tmp_path / "figures.json")
    code, output, _ = call(
        "--source", "lcbench", "--lcbench", folder, "--tasks", *TASKS[:2], "--arms", DEFAULT, *options
    )
    assert code == 0
    assert "| slots | arm | all | lcbench 3945 | lcbench 7593 |" in output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["sources"] == ["lcbench 3945", "lcbench 7593"]
    assert len(figures["searches"]) == 2 * 2 * 2
    gaps = figures["rows"][1]["difference_by_source"]
    ends = {(row["arm"], row["source"], row["seed"]): row["regret_1"] for row in figures["searches"]}
    own = [ends[DEFAULT, "lcbench 7593", seed] - ends[BASELINE, "lcbench 7593", seed] for seed in (2, 3)]
    assert gaps["lcbench 7593"] == pytest.approx(np.mean(own))


@needs_lcbench
def test_the_space_and_the_tasks_are_those_of_the_snapshot():
    known = json.loads((Path(LCBENCH) / "config_space.json").read_text())["hyperparameters"]
    specs = {each["name"]: each for each in known}
    assert tuple(specs.pop("OpenML_task_id")["choices"]) == TASKS
    assert specs.pop("epoch")["upper"] == EPOCHS
    assert {name: (each["lower"], each["upper"], each["log"]) for name, each in specs.items()} == {
        name: (pytest.approx(spec["low"]), pytest.approx(spec["high"]), spec.get("log", False))
        for name, spec in SPACE.items()
    }


@needs_lcbench
def test_the_model_of_the_snapshot_learns_over_the_epochs_on_every_task():
    for source in list_tasks(Path(LCBENCH), list(PARTS)):
        accuracies, seconds = source.predict(draw_points(source, 50))
        assert accuracies.shape == (50, EPOCHS)
        assert (seconds > 0).all()
        assert np.median(accuracies[:, -1] - accuracies[:, 0]) > 0
