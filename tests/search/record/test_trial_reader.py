"""What plain Optuna, or a stranger, writes into the record: taken in as what it is, or refused in a sentence."""

import functools
import io
import json
import random
import shutil

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from rich.console import Console

from search.commands.inspect import Inspected, describe_study, show_top, show_trial
from search.config.load import parse
from search.record.journal import Journal
from search.record.manifest import save_manifest
from search.record.provenance import describe_code
from search.record.reading import read_study
from search.record.trial import State
from search.report.trials import write_trials
from search.study import Study
from trainables.errors import InputError

NUM_TRIALS = 8
SPACE = {
    "shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
    "cnn": {"filters": {"low": 8, "high": 64}, "head": {"choice": ["flatten", "gap"]}, "dense_units": 16},
}
POINT = {"cnn.learning_rate": 0.02, "cnn.filters": 17}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "x"


@functools.cache
def configure(folder, **search):
    known = {"num_trials": NUM_TRIALS, "max_epochs": 4, "reduction_factor": 2, "num_startup_trials": 2, "seed": 3}
    document = {"name": "x", "results": str(folder.parent), "search": {**known, **search}, "space": SPACE}
    return parse(document)


def open_study(folder, **search):
    folder.mkdir(exist_ok=True)
    config = configure(folder, **search)
    return Study(config, Journal(folder / "study.journal", "x", note=lambda _: None))


def run(study, limit=None):
    """Train a closed form, one trial after the other; stop, as if killed, after `limit` epochs."""
    trained = 0
    while (trial := study.ask()) is not None:
        stop = False
        while not stop:
            if trained == limit:
                return
            epoch = len(trial.epochs) + 1
            accuracy = 1 - trial.params["learning_rate"] / epoch
            metrics = {"epoch": epoch, "accuracy": accuracy, "loss": 0.5, "seconds": 1.0, "images_per_second": 9.0}
            stop = study.report(trial.number, metrics, "cpu")
            trained += 1


def open_plain(folder):
    """The same study by plain Optuna."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name="x", storage=storage)


def summarize(study):
    return [(t.number, t.architecture, t.params, t.epochs, t.state, t.reason) for t in study.trials]


def look(folder):
    """Do what inspect does with a study."""
    if not (folder / "study.yaml").exists():
        config = json.loads(json.dumps(describe_config(folder)))
        data = {"fingerprint": "0" * 64, "counts": {}, "skipped": [], "leaked": 0, "duplicates": 0}
        save_manifest(folder, {"id": "1", "config": config, "data": data, "code": describe_code(), "evaluations": []})
    with read_study(folder) as reader:
        study = Inspected(reader)
    console = Console(file=io.StringIO(), width=80)
    console.print(study.get_status())
    show_top(study.trials, 10, console)
    for trial in study.trials:
        show_trial(trial, console)
    json.dumps(describe_study(study))
    for name in ("table.csv", "table.parquet"):
        write_trials(study.trials, folder / name)
    return study


def describe_config(folder):
    from search.config.load import dump

    return dump(configure(folder))


def test_an_enqueued_point_is_the_next_trial_and_the_sampler_fills_the_rest(folder):
    run(open_study(folder), 5)
    open_plain(folder).enqueue_trial(POINT, user_attrs={"note": "by hand"})
    number = len(open_study(folder).trials) - 1
    study = open_study(folder)
    asked = [study.ask() for _ in range(3)]
    trial = next(trial for trial in asked if trial.number == number)
    assert (trial.architecture, trial.params["learning_rate"], trial.params["filters"]) == ("cnn", 0.02, 17)
    assert trial.params["dense_units"] == 16
    assert trial.params["head"] in ("flatten", "gap")
    assert asked.index(trial) < 2
    recorded = open_plain(folder).trials[number]
    assert recorded.state is TrialState.RUNNING
    assert recorded.params == {f"cnn.{name}": trial.params[name] for name in ("learning_rate", "filters", "head")}
    assert recorded.user_attrs["note"] == "by hand"


def test_a_point_enqueued_on_a_finished_study_is_trained_by_resuming_it(folder):
    run(open_study(folder))
    open_plain(folder).enqueue_trial(POINT)
    before = look(folder)
    assert not before.is_over
    assert before.trials[-1].waits
    run(open_study(folder))
    after = look(folder)
    assert after.is_over
    assert after.trials[NUM_TRIALS].params["filters"] == 17
    assert after.trials[NUM_TRIALS].state in (State.COMPLETE, State.PRUNED)


def test_a_study_with_enqueued_points_that_is_cut_off_after_any_line_equals_one_that_is_not(folder):
    run(open_study(folder), 7)
    for point in (POINT, {"resnet50.learning_rate": 0.03}, {"cnn.filters": 9000}):
        open_plain(folder).enqueue_trial(point)
    begun = (folder / "study.journal").read_bytes()
    straight = open_study(folder)
    run(straight)
    lines = (folder / "study.journal").read_bytes().splitlines(keepends=True)
    for count in range(begun.count(b"\n"), len(lines)):
        cut = folder.parent / "cut"
        cut.mkdir()
        (cut / "study.journal").write_bytes(b"".join(lines[:count]))
        killed = open_study(cut)
        run(killed)
        assert summarize(killed) == summarize(straight), count
        shutil.rmtree(cut)


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ({"cnn.filters": 9000}, "cnn.filters = 9000 is outside the space"),
        ({"cnn.filters": 16.5}, "expected int, not float"),
        ({"cnn.dense_units": 64}, "cnn.dense_units = 64 is outside the space"),
        ({"cnn.depth": 1}, "cnn has no parameter depth"),
        ({"cnn.head": ["gap"]}, "expected one of flatten, gap"),
        ({"learning_rate": 0.01}, "such as cnn.learning_rate"),
        ({"cnn.filters": 16, "resnet50.stem": "cifar"}, "such as cnn.learning_rate"),
        ({}, "such as cnn.learning_rate"),
        ({"cnn.learning_rate": float("nan")}, "expected a finite number"),
    ],
)
def test_an_enqueued_point_that_cannot_be_trained_fails_with_its_reason_and_the_search_continues(folder, point, reason):
    run(open_study(folder), 3)
    open_plain(folder).enqueue_trial(point)
    number = len(open_study(folder).trials) - 1
    study = open_study(folder)
    run(study)
    assert study.is_over
    for trials in (study.trials, look(folder).trials):
        assert trials[number].state is State.FAIL
        assert reason in trials[number].reason
        assert len(trials) == NUM_TRIALS


def test_a_point_of_an_architecture_that_is_not_searched_fails(folder):
    run(open_study(folder, architectures=("cnn",)), 1)
    open_plain(folder).enqueue_trial({"resnet50.stem": "cifar"})
    study = open_study(folder, architectures=("cnn",))
    run(study)
    assert "this study does not search resnet50" in study.trials[1].reason


def test_a_trial_that_plain_optuna_asked_reported_or_added_counts_as_failed_and_the_search_continues(folder):
    run(open_study(folder), 5)
    plain = open_plain(folder)
    first = len(plain.trials)
    plain.ask()
    plain.tell(plain.ask(), 0.99)
    plain.tell(plain.ask(), state=TrialState.FAIL)
    plain.add_trial(create_trial(state=TrialState.COMPLETE, value=0.99, user_attrs={"seconds": "long"}))
    plain.trials[0].user_attrs["architecture"]
    study = open_study(folder)
    run(study)
    assert study.is_over
    for trials in (study.trials, look(folder).trials):
        foreign = trials[first : first + 4]
        assert {(trial.is_foreign, trial.state, len(trial.epochs)) for trial in foreign} == {(True, State.FAIL, 0)}
        assert "plain Optuna" in foreign[0].reason
        assert all(trial.state in (State.COMPLETE, State.PRUNED) for trial in trials[first + 4 :])
    assert summarize(open_study(folder)) == summarize(study)


def test_a_running_trial_that_plain_optuna_told_is_taken_as_what_it_is(folder):
    study = open_study(folder)
    run(study, 1)
    plain = open_plain(folder)
    study.ask()
    plain.tell(1, 0.99)
    plain.tell(0, state=TrialState.PRUNED)
    trials = look(folder).trials
    assert (trials[0].state, len(trials[0].epochs)) == (State.PRUNED, 1)
    assert (trials[1].state, trials[1].epochs) == (State.FAIL, [])
    assert "ended it before its first epoch" in trials[1].reason
    row = {"epoch": 1, "accuracy": 0.5, "seconds": 1.0, "images_per_second": 1.0}
    with pytest.raises(InputError, match=r"another program ended trial 1 of .*study\.journal while it was trained"):
        study.report(1, row, "cpu")
    run(open_study(folder))


def test_a_value_that_plain_optuna_reported_is_no_epoch(folder):
    run(open_study(folder), 1)
    plain = open_plain(folder)
    trial = optuna.trial.Trial(plain, plain._storage.get_trial_id_from_study_id_trial_number(plain._study_id, 0))
    trial.report(0.99, step=3)
    assert len(look(folder).trials[0].epochs) == 1
    study = open_study(folder)
    run(study)
    assert study.is_over


def test_what_plain_optuna_writes_while_the_search_runs_moves_no_trial(folder):
    study = open_study(folder)
    run(study, 2)
    open_plain(folder).enqueue_trial(POINT)
    optuna.create_study(study_name="y", storage=open_plain(folder)._storage).ask()
    study.fail(0, "gone")
    run(study)
    assert study.is_over
    assert [trial.number for trial in study.trials] == list(range(NUM_TRIALS))
    assert sum(trial.params.get("filters") == 17 for trial in study.trials) == 1
    assert not any(trial.is_foreign for trial in study.trials)
    assert summarize(open_study(folder)) == summarize(study)


@pytest.mark.parametrize("first", [True, False])
def test_a_recipe_is_tried_first_though_a_point_was_enqueued_before_it(folder, first):
    recipe = {"architecture": "cnn", "params": {"filters": 33, "dense_units": 16}}
    config = parse({"name": "x", "search": {"num_trials": 3, "max_epochs": 2}, "space": SPACE, "recipes": [recipe]})
    folder.mkdir()
    journal = Journal(folder / "study.journal", "x", note=print)
    if first:
        open_plain(folder).enqueue_trial(POINT)
    study = Study(config, journal)
    run(study)
    assert [trial.params["filters"] for trial in study.trials if "filters" in trial.params][: 1 + first] == (
        [17, 33] if first else [33]
    )


@pytest.mark.parametrize(
    "line",
    [
        {"op_code": 99, "worker_id": "x"},
        {"worker_id": "x"},
        {"op_code": 4, "worker_id": "x", "study_id": 0, "datetime_start": "yesterday"},
        {"op_code": 8, "worker_id": "x", "trial_id": [0], "user_attr": {}},
        {"op_code": 6, "worker_id": "x", "trial_id": 1, "state": 77, "values": None},
    ],
)
def test_a_line_that_optuna_cannot_take_in_is_named(folder, line):
    study = open_study(folder)
    run(study, 5)
    path = folder / "study.journal"
    number = path.read_bytes().count(b"\n") + 1
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(InputError, match=f"has a line {number} that Optuna cannot read"):
        run(study)  # the search that is under way
    before = path.read_bytes()
    for reading in (open_study, look):
        with pytest.raises(InputError, match=f"has a line {number} that Optuna cannot read"):
            reading(folder)
    assert path.read_bytes() == before


def test_a_damaged_line_amid_a_journal_is_named_to_a_reader_too(folder):
    run(open_study(folder), 5)
    path = folder / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"nonsense\n", *lines[3:]]))
    with pytest.raises(InputError, match="damaged in line 4"):
        look(folder)


def test_a_journal_whose_study_was_deleted_is_not_begun_again(folder):
    run(open_study(folder), 5)
    open_plain(folder)._storage.delete_study(0)
    for reading in (open_study, look):
        with pytest.raises(InputError, match="has no study: restore the file"):
            reading(folder)


VALUES = [
    None,
    True,
    -1,
    0,
    1,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 50,
    "\x1b[2J",
    [],
    {},
    [[]],
]


def mutate(lines, draw):
    """Change one thing in the record: a value anywhere, a key, a line."""
    lines = [dict(json.loads(line)) for line in lines]
    place = draw.randrange(len(lines))
    match draw.choice(["value", "value", "value", "value", "key", "line", "copy"]):
        case "line":
            del lines[place]
        case "copy":
            lines.insert(draw.randrange(len(lines) + 1), lines[place])
        case how:
            node = lines[place]
            while True:
                key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
                if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.8:
                    node = node[key]
                    continue
                break
            if how == "key":
                del node[key]
            else:
                node[key] = draw.choice(VALUES)
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.mark.parametrize("seed", range(8))
def test_no_mutation_of_a_journal_is_a_traceback(folder, seed):
    run(open_study(folder), 9)
    open_plain(folder).enqueue_trial(POINT)
    open_plain(folder).ask()
    run(open_study(folder), 4)
    lines = (folder / "study.journal").read_text().splitlines()
    draw = random.Random(seed)
    refused = 0
    for number in range(40):
        changed = folder.parent / "changed" / "x"
        changed.mkdir(parents=True)
        (changed / "study.journal").write_text(text := mutate(lines, draw))
        for reading in (look, lambda place: run(open_study(place))):
            try:
                reading(changed)
            except InputError:
                refused += 1
            except Exception as error:
                raise AssertionError(f"mutation {number}: {text}") from error
        shutil.rmtree(changed.parent)
    assert 5 < refused < 75
