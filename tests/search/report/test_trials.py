import pandas as pd

from search.record.trial import State, Trial
from search.report.trials import write_trials
from trainables.models.cnn.config import CnnConfig


def make_trial(number=0, architecture="cnn", *, accuracies=(0.7, 0.9, 0.8), **known):
    epochs = [{"epoch": epoch, "accuracy": value} for epoch, value in enumerate(accuracies, start=1)]
    return Trial(number=number, architecture=architecture, epochs=epochs, **{"params": {}, **known})


def test_trials_are_rows_with_their_parameters_in_columns(tmp_path):
    attributes = {"seconds": 12.5, "device": "cpu", "images_per_second": 900.0, "traceback": "long"}
    trials = [
        make_trial(0, params={"filters": 16, "learning_rate": 1e-3}, state=State.COMPLETE, attributes=attributes),
        make_trial(1, "resnet50", params={"stem": "cifar"}, state=State.PRUNED, reason="stopped, at epoch 3"),
        make_trial(2, accuracies=(), state=State.FAIL, reason='loss is "nan"\nin epoch 1'),
    ]
    frame = pd.read_csv(write_trials(trials, tmp_path / "trials.csv"))
    fixed = "number architecture state reason epochs best_accuracy best_epoch last_accuracy"
    assert list(frame.columns[:8]) == fixed.split()
    assert list(frame.columns[8:]) == ["seconds", "device", "images_per_second", "filters", "learning_rate", "stem"]
    assert list(frame["state"]) == ["COMPLETE", "PRUNED", "FAIL"]
    assert frame.loc[0, ["epochs", "best_accuracy", "last_accuracy"]].tolist() == [3, 0.9, 0.8]
    assert frame.loc[0, ["seconds", "device", "images_per_second"]].tolist() == [12.5, "cpu", 900.0]
    assert frame.loc[1, "reason"] == "stopped, at epoch 3"
    assert frame.loc[2, "reason"] == r'loss is "nan"\nin epoch 1'
    assert frame.loc[2, ["best_accuracy", "seconds", "device"]].isna().all()


def test_a_parameter_that_a_trial_leaves_out_has_its_default_and_one_it_cannot_have_is_empty(tmp_path):
    trials = [make_trial(0, params={"filters": 16}), make_trial(1), make_trial(2, "resnet50", params={"stem": "cifar"})]
    write_trials(trials, tmp_path / "trials.csv")
    rows = [line.split(",")[-2:] for line in (tmp_path / "trials.csv").read_text().splitlines()]
    assert rows == [["filters", "stem"], ["16", ""], [str(CnnConfig().filters), ""], ["", "cifar"]]


def test_the_precision_auto_is_shown_as_what_it_stood_for(tmp_path):
    trials = [
        make_trial(0, params={"precision": "auto"}, attributes={"precision": "bfloat16"}),
        make_trial(1, params={"precision": "auto"}),
    ]
    frame = pd.read_csv(write_trials(trials, tmp_path / "trials.csv"))
    assert frame["precision"].tolist() == ["bfloat16", "auto"]


def test_a_study_without_trials_has_a_header(tmp_path):
    assert (write_trials([], tmp_path / "trials.csv")).read_text().startswith("number,architecture,state,")


def test_parquet_keeps_the_types_that_csv_loses(tmp_path):
    trials = [
        make_trial(0, params={"filters": 16, "learning_rate": 1, "batch_norm": True, "head": "gap"}),
        make_trial(1, accuracies=(), params={"filters": 8, "learning_rate": 0.5}, reason="7"),
        make_trial(2, "resnet50", params={"stem": "cifar", "learning_rate": 0.1}, attributes={"seconds": 2.0}),
    ]
    frame = pd.read_parquet(write_trials(trials, tmp_path / "trials.parquet"), dtype_backend="numpy_nullable")
    csv = pd.read_csv(write_trials(trials, tmp_path / "trials.csv"))
    assert list(frame.columns) == list(csv.columns)
    assert frame["number"].tolist() == [0, 1, 2]
    assert frame["reason"].tolist()[1] == "7"
    assert frame["batch_norm"].dtype == "boolean"
    assert frame["filters"].tolist()[:2] == [16, 8]
    assert frame["learning_rate"].tolist() == [1.0, 0.5, 0.1]
    assert frame.loc[0, "best_epoch"] == 2
    assert pd.isna(frame.loc[1, "best_accuracy"])


def test_a_study_without_trials_is_an_empty_parquet_table(tmp_path):
    frame = pd.read_parquet(write_trials([], tmp_path / "trials.parquet"))
    assert len(frame) == 0
    assert "best_accuracy" in frame.columns


def test_parameters_with_the_names_of_results_and_of_several_types_are_kept(tmp_path):
    first = {"epochs": 2, "device": "x", "param_epochs": 5, "mixed": True}
    trials = [make_trial(0, params=first), make_trial(1, params={"mixed": 0.5})]
    csv = pd.read_csv(write_trials(trials, tmp_path / "trials.csv"))
    frame = pd.read_parquet(write_trials(trials, tmp_path / "trials.parquet"))
    for table in (csv, frame):
        assert list(table.columns[-4:]) == ["param_epochs", "param_device", "param_param_epochs", "mixed"]
        assert (table.loc[0, "epochs"], table.loc[0, "param_epochs"], table.loc[0, "param_device"]) == (3, 2, "x")
        assert table["mixed"].tolist() == ["True", "0.5"]
