"""A study of a training function: what it may name, and what is refused before the first trial."""

import dataclasses
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import search
from search import Choice, Range, run
from search.commands import evaluate, reproduce
from search.commands.terminal import build_console
from search.config.load import dump, load, parse
from search.record.folder import create_folder, open_study
from search.record.journal import Journal
from search.record.provenance import hash_own
from search.record.trial import State
from search.report.publish import publish_search
from search.study import Study
from trainables import names
from trainables.errors import InputError

ROOT = Path(__file__).parents[2]
MODULE = """
from typing import Literal


def curve(run, rate: float = 0.1, size: int = 3, kind: Literal["a", "b"] = "a"):
    for epoch in run.epochs():
        yield {"accuracy": rate}


def untyped(run, rate=0.1):
    yield


def required(run, rate: float):
    yield


def plain(run, rate: float = 0.1):
    return {"accuracy": rate}
"""
STUDY = """
name: curves
trainable: {module}:{function}
search: {{num_trials: 3, max_epochs: 4, scheduler: none}}
space: {{{function}: {space}}}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a study and its module: write(function="curve", space="{}") -> path of the study."""
    for name in list(names.IMPORTED):
        monkeypatch.delitem(names.IMPORTED, name)
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = f"curves_{abs(hash(tmp_path))}"

    def write(function="curve", space="{rate: {low: 0.1, high: 1.0}, size: {choice: [2, 3]}}", module=module):
        (tmp_path / f"{module}.py").write_text(MODULE)
        path = tmp_path / "study.yaml"
        path.write_text(STUDY.format(module=module, function=function, space=space))
        return path

    return write


def test_a_study_may_name_a_function_beside_its_file(write, tmp_path):
    config = load(write())
    assert config.search.architectures == (config.trainable,)
    assert config.code == str(tmp_path)
    assert parse(dump(config)) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "{rato: 3.0}"}, "space.curve.rato: unknown parameter; known: kind, rate, size"),
        ({"space": "{size: 2.5}"}, "space.curve.size = 2.5: expected int, not float"),
        ({"space": "{kind: c}"}, "space.curve.kind = 'c': expected one of a, b"),
        ({"space": "{rate: {low: 1.0, high: 0.1}}"}, "space.curve.rate: expected low below high"),
        ({"function": "untyped"}, "untyped: give its parameter rate a type"),
        ({"function": "required"}, "required: give its parameter rate a type"),
        ({"function": "plain"}, "expected a generator function, which yields its metrics in each epoch"),
        ({"function": "missing"}, "cannot be imported (AttributeError"),
        ({"function": "curve:x"}, "trainable = "),
    ],
)
def test_a_wrong_function_is_refused_before_the_first_trial(write, arguments, message):
    with pytest.raises(InputError) as caught:
        load(write(**arguments))
    assert message in str(caught.value)


def test_a_function_takes_the_place_of_the_architectures(write):
    with pytest.raises(InputError, match=r"search.architectures: leave it out"):
        load(write(), ["search.architectures=[cnn]"])
    with pytest.raises(InputError, match=r"space.cnn: expected one of curve"):
        load(write(), ["space.cnn={}"])


def test_a_reader_of_a_study_imports_no_code_and_accepts_its_space(write):
    stored = dump(load(write()))
    names.IMPORTED.clear()
    sys.modules.pop(stored["trainable"].partition(":")[0])
    config = parse(stored)
    assert config.space["curve"]["rate"] == Range(0.1, 1.0)
    assert stored["trainable"].partition(":")[0] not in sys.modules


def test_a_module_that_only_claims_a_file_is_no_code_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claims = types.ModuleType("claims")
    claims.__file__ = "_ops.py"  # as torch.ops has it
    monkeypatch.setitem(sys.modules, "claims", claims)
    assert hash_own(str(tmp_path)) == {}


def test_a_study_whose_module_was_changed_is_not_continued(write, tmp_path):
    config = dataclasses.replace(load(path := write()), results=str(tmp_path))
    with open_study(config, print, is_search=True):
        pass
    with open_study(config, print, is_search=True):
        pass
    module = path.with_name(config.trainable.partition(":")[0] + ".py")
    module.write_text(MODULE + "# other\n")
    before = (config.directory / "study.yaml").read_bytes()
    with open_study(config, print):  # as `sync` does, which neither compares nor changes anything
        pass
    assert (config.directory / "study.yaml").read_bytes() == before
    with (
        pytest.raises(InputError, match=f"your {module.name} has other content"),
        open_study(config, print, is_search=True),
    ):
        pass


def test_a_trial_that_ends_by_itself_is_complete(write, tmp_path):
    config = load(write())
    study = Study(config, Journal(tmp_path / "study.journal", "curves", note=print))
    trial = study.ask()
    assert not study.report(trial.number, {"epoch": 1, "accuracy": 0.5}, "cpu")
    study.complete(trial.number)
    assert (trial.state, trial.reason) == (State.COMPLETE, "its function ended after epoch 1")
    resumed = Study(config, Journal(tmp_path / "study.journal", "curves", note=print))
    assert resumed.trials[0].state is State.COMPLETE
    assert resumed.ask().number == 1


def test_a_finished_study_needs_no_ray(write, tmp_path, monkeypatch):
    config = dataclasses.replace(load(write()), results=str(tmp_path))
    with open_study(config, print, is_search=True) as opened:
        study = Study(config, opened.journal)
        while (trial := study.ask()) is not None:
            study.report(trial.number, {"epoch": 1, "accuracy": 0.5, "seconds": 0.1}, "cpu")
            study.complete(trial.number)
    monkeypatch.setattr(run, "connect", lambda _: pytest.fail("Ray was started"))
    how = {"resume": True, "accept_changes": False, "plain": True}
    found = run.run_search(config, build_console(), **how)
    assert [trial.state for trial in found.trials] == [State.COMPLETE] * 3
    assert (tmp_path / "curves/report/report.html").exists()


def test_a_search_without_a_value_says_why(write, tmp_path):
    config = dataclasses.replace(load(write()), results=str(tmp_path))
    with open_study(config, print, is_search=True) as opened:
        study = Study(config, opened.journal)
        study.fail(study.ask().number, "ValueError: too steep")
        with pytest.raises(InputError, match="has a value: ValueError: too steep"):
            publish_search(opened, build_console(), [])


def test_the_report_of_a_search_shows_its_best_trials_and_no_test(write, tmp_path, capsys):
    config = dataclasses.replace(load(write()), results=str(tmp_path))
    with open_study(config, print, is_search=True) as opened:
        study = Study(config, opened.journal)
        while (trial := study.ask()) is not None:
            study.report(trial.number, {"epoch": 1, "accuracy": 0.5 + trial.number / 10}, "cpu")
            study.complete(trial.number)
        publish_search(opened, build_console(), ["The search ended early: no."])
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split()[:4] == ["2", "0.7", "1", "COMPLETE"]
    page = (tmp_path / "curves/report/report.html").read_text()
    assert "Trial 2, the best: accuracy per epoch" in page
    assert "The search ended early: no." in page
    for absent in ("Confusion", "REAL", "The data", "retrain"):
        assert absent not in page.partition("<details>")[0]


def test_commands_that_need_a_model_refuse_a_study_of_a_function(write, tmp_path):
    config = dataclasses.replace(load(write()), results=str(tmp_path))
    create_folder(config, None)
    for command in (evaluate, reproduce):
        app = typer.Typer()
        app.command()(command.main)
        done = CliRunner().invoke(app, [str(tmp_path / "curves")])
        assert done.exit_code == 2
        assert f"searched the training function {config.trainable}: it has no models" in done.stderr


def test_ranges_and_choices_are_written_shortly():
    assert Range(8, 128, log=True) == Range(low=8, high=128, log=True)
    assert Choice(["a", "b"]).choice == ["a", "b"]


def run_script(folder, source):
    (folder / "script.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "script.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_importing_the_search_loads_neither_torch_nor_ray_nor_optuna(tmp_path):
    source = "from search import search; import sys; print(sorted({'torch', 'ray', 'optuna'} & set(sys.modules)))"
    assert run_script(tmp_path, source).stdout == "[]\n"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("search(curve, {'rato': 1.0}, name='x')", "error: space.curve.rato: unknown parameter; known: rate"),
        ("search(curve, {}, name='x', num_trails=3)", "error: search.num_trails: unknown key"),
        ("search(curve, {'rate': Range(1, 'a')}, name='x')", "error: space.curve.rate.high"),
        ("search(lambda run: (yield), {}, name='x')", "define it at the top of a .py file"),
        ("search('curve', {}, name='x')", "expected a function that is defined with `def`, not 'curve'"),
        ("from functools import partial; search(partial(curve), {}, name='x')", "with `def`, not 'functools"),
    ],
)
def test_a_script_ends_with_one_sentence_and_exit_code_2(tmp_path, call, message):
    source = f"from search import Range, search\ndef curve(run, rate: float = 0.1):\n    yield\n{call}\n"
    done = run_script(tmp_path, source)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.ray
def test_a_call_at_the_top_of_the_module_is_refused_when_a_worker_imports_it(tmp_path):
    source = "from search import search\ndef curve(run, rate: float = 0.1):\n    yield {'accuracy': 1.0}\n"
    done = run_script(tmp_path, f"{source}search(curve, {{}}, name='x', num_trials=1, cluster={{'cpus': 1}})\n")
    assert done.returncode == 1
    assert 'call search() below `if __name__ == "__main__":`' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_from_a_module_errors_are_exceptions():
    def curve(_run):
        yield

    with pytest.raises(InputError, match="define it at the top"):
        search.search(curve, {}, name="x")
