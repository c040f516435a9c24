import csv
import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from search.config.load import load, parse
from search.evaluation import result
from search.evaluation.comparison import COLUMNS, DETAILS, METRICS, list_differences, summarize, summarize_lower
from search.evaluation.result import Result
from search.record.trial import State, Trial
from search.report.cells import Table, format_latex
from search.report.overview import describe_accuracies, draw_accuracies, list_quotes
from search.report.page import _describe_origin
from search.report.searches import describe_sampler, list_search_tables
from search.report.tables import list_tables, write_report
from search.report.terminal import render

PUBLISHED = load(Path(__file__).parents[3] / "configs" / "cifake.yaml").published
LABELS = np.repeat([0, 1], 100).astype(np.uint8)


def make_model(architecture="cnn", *, seed=0, rank=1, trial=0, accuracy=0.9, **known):
    metrics = dict.fromkeys((*METRICS, *DETAILS), 0.5)
    metrics |= {"accuracy": accuracy, "precision": 0.91, "recall": 0.92, "f1": 0.93, "auroc": 0.94, "loss": 0.2}
    return result.TestedModel(
        label=f"{architecture}{'' if rank == 1 else f'-rank{rank}'}-seed{seed}",
        architecture=architecture,
        rank=rank,
        seed=seed,
        trial=trial,
        parameters=141_345,
        threshold=0.5,
        metrics=metrics,
        confusion=((90, 10), (7 + seed, 93 - seed)),
        cost=known.get("cost", {"macs": 3_375_168.0, "training_seconds": 12.5}),
    )


def make_trial(number=0, architecture="cnn", *, accuracies=(0.7, 0.9, 0.8), params=None, **known):
    epochs = [
        {
            "epoch": epoch,
            "train_loss": 0.6 / epoch,
            "train_accuracy": 0.7 + 0.05 * epoch,
            "loss": 0.5,
            "accuracy": value,
            "seconds": 36.0,
        }
        for epoch, value in enumerate(accuracies, start=1)
    ]
    return Trial(number=number, architecture=architecture, params=params or {}, epochs=epochs, **known)


def predict(model):
    """Return probabilities that are right as often as the model's accuracy says, REAL or FAKE alike."""
    wrong = np.tile(np.arange(100) < 100 - round(100 * model.metrics["accuracy"]), 2)
    return np.where(wrong, 1 - LABELS, LABELS).astype(np.float32) * 0.8 + 0.1


def make_result(models=None, trials=None, notes=()):
    models = [make_model(seed=seed, accuracy=0.9 + 0.01 * seed) for seed in range(3)] if models is None else models
    return Result(
        study="mine",
        config=dataclasses.replace(parse({"name": "mine"}), published=PUBLISHED),
        manifest={},
        models=models,
        trials=trials or [make_trial()],
        labels=LABELS,
        predictions={model.label: predict(model).astype(np.float32) for model in models},
        mistakes={},
        notes=list(notes),
    )


def test_the_table_has_a_row_per_architecture_and_then_the_published_ones():
    models = [make_model(), make_model(seed=1), make_model("resnet50", trial=4)]
    frame = summarize(make_result(models))
    assert tuple(frame.columns) == COLUMNS
    names = ["cnn", "resnet50", "cnn, 2 seeds averaged", *(published.model for published in PUBLISHED.models)]
    assert list(frame["model"]) == names
    assert list(frame["source"]) == ["this study"] * 2 + ["ensemble"] + ["published"] * len(PUBLISHED.models)
    assert list(frame["protocol"][:5]) == ["sealed"] * 3 + ["peak on test"] * 2
    assert list(frame["seeds"].fillna(0)) == [2, 1, 0, *[0] * len(PUBLISHED.models)]


def test_figures_are_means_and_sample_deviations_over_the_seeds():
    row = summarize(make_result([make_model(seed=seed, accuracy=value) for seed, value in enumerate((0.8, 0.9))])).loc[
        0
    ]
    assert row["accuracy"] == pytest.approx(0.85)
    assert row["accuracy_std"] == pytest.approx(0.1 / np.sqrt(2))
    assert (row["recall"], row["recall_std"]) == (0.92, 0.0)


def test_one_seed_has_no_deviation():
    assert summarize(make_result([make_model()])).loc[0, [name for name in COLUMNS if "std" in name]].isna().all()


def test_only_the_best_configuration_of_an_architecture_is_compared():
    models = [make_model(accuracy=0.8), make_model(rank=2, accuracy=0.99)]
    frame = summarize(make_result(models))
    assert len(frame) == 1 + len(PUBLISHED.models)
    assert frame.loc[0, "accuracy"] == 0.8


def test_the_overview_has_a_point_for_each_row_and_intervals_for_ours():
    published = [dataclasses.replace(PUBLISHED.models[0], metrics={"f1": 0.5}), *PUBLISHED.models]
    result = make_result([make_model(seed=seed, accuracy=0.95) for seed in range(2)])
    config = dataclasses.replace(result.config, published=dataclasses.replace(PUBLISHED, models=tuple(published)))
    result = dataclasses.replace(result, config=config)
    figure = draw_accuracies(result)
    axes = figure.axes[0]
    rows = {"cnn": 0.95, "cnn, 2 seeds averaged": 0.95} | {
        published.model: published.metrics["accuracy"] for published in PUBLISHED.models
    }
    names = sorted(rows, key=lambda name: -rows[name])
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    points = {place: value for line in axes.get_lines() for value, place in zip(*line.get_data(), strict=True)}
    assert [points[place] for place in range(len(names))] == pytest.approx([rows[name] for name in names])
    assert len(axes.collections) == 2  # the intervals of this study and of its averaged seeds
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told[:2] == ["this study, 95 % interval", "ensemble, 95 % interval"]
    assert {f"published, {each.protocol}" for each in PUBLISHED.models} == {*told[2:]}
    assert "CNN (paper) 94.85" in describe_accuracies(result)


def test_a_winner_is_quoted_in_one_sentence_on_the_page_and_in_the_file(tmp_path):
    models = [make_model(seed=seed, accuracy=0.9 + 0.01 * seed) for seed in range(3)]
    result = make_result([*models, make_model(rank=2), make_model("resnet50", trial=0, accuracy=0.95)])
    cnn, resnet50 = list_quotes(result)
    assert cnn == "cnn: accuracy 91.00 ± 1.00 % (95 % interval 86.83 to 94.67, 3 seeds, sealed, 200 images)"
    assert resnet50.startswith("resnet50: accuracy 95.00 % (95 % interval")
    assert resnet50.endswith(", 1 seed, sealed, 200 images)")
    write_report(result, tmp_path)
    assert (tmp_path / "comparison.md").read_text().splitlines()[2] == cnn
    assert f"<span>{cnn}</span> <button" in (tmp_path / "report.html").read_text()
    with Image.open(tmp_path / "figures/accuracy.png") as picture:
        assert picture.size[0] == 660


def test_the_csv_is_the_table_to_the_last_digit(tmp_path):
    result = make_result([make_model(seed=seed, accuracy=value) for seed, value in enumerate((1 / 3, 2 / 7))])
    write_report(result, tmp_path)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    expected = summarize(result).astype(object)
    for position, column in enumerate(header):
        cells = [type(value)(row[position]) for row, value in zip(rows, expected[column], strict=True) if row[position]]
        assert cells == list(expected[column].dropna()), column


def test_an_interval_holds_the_mean_over_the_seeds_and_is_no_wider_than_that_of_one_seed():
    row = summarize(make_result()).loc[0]
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    assert row["accuracy_high"] - row["accuracy_low"] == pytest.approx(2 * 1.96 * np.sqrt(0.91 * 0.09 / 200), rel=0.15)
    assert summarize(make_result()).loc[2:, "accuracy_low"].isna().all()


def test_two_architectures_are_compared_on_the_same_images():
    models = [make_model(accuracy=0.95), make_model(seed=1, accuracy=0.95), make_model("resnet50", accuracy=0.9)]
    (difference,) = list_differences(make_result(models))
    mean, interval = difference.metrics["accuracy"]
    assert mean == pytest.approx(0.05)
    assert 0.0199 < interval.low < 0.05 < interval.high <= 0.09
    assert list(difference.pairings) == [0]
    assert (difference.pairings[0].only_first, difference.pairings[0].only_second) == (10, 0)
    assert list_differences(make_result([make_model(accuracy=0.95)])) == []


def test_a_report_is_written_where_failed_retrainings_left_no_common_seed(tmp_path):
    models = [make_model(seed=0), make_model("resnet50", seed=1)]
    write_report(make_result(models), tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert "cnn minus resnet50" in text
    assert "McNemar" not in text


def test_a_report_is_written_where_all_retrainings_of_the_best_failed(tmp_path):
    write_report(make_result([make_model(rank=2)]), tmp_path)
    assert (tmp_path / "report.html").exists()


def test_costs_are_means_over_the_seeds_where_they_are_known():
    models = [make_model(cost={"macs": 5.0, "training_seconds": 10.0}), make_model(seed=1, cost={"macs": 5.0})]
    row = summarize(make_result(models)).loc[0]
    assert (row["macs"], row["training_seconds"]) == (5.0, 10.0)
    assert np.isnan(row["peak_memory_bytes"])


def test_the_seeds_of_a_winner_averaged_are_one_row_whose_cost_is_the_sum():
    costs = {"macs": 5.0, "training_seconds": 10.0, "images_per_second_1": 20.0, "peak_memory_bytes": 7.0}
    models = [
        make_model(accuracy=0.9, cost=costs),
        make_model(seed=1, accuracy=0.8, cost=costs | {"images_per_second_1": 30.0, "peak_memory_bytes": 9.0}),
        make_model("resnet50", trial=0),
        make_model(rank=2),
        make_model(seed=1, rank=2),
    ]
    result = make_result(models)
    (row,) = [row for row in summarize(result).to_dict("records") if row["source"] == "ensemble"]
    assert (row["model"], row["protocol"], row["parameters"]) == ("cnn, 2 seeds averaged", "sealed", 2 * 141_345)
    assert pd.isna(row["seeds"])
    assert np.isnan(row["accuracy_std"])
    assert (row["macs"], row["training_seconds"], row["peak_memory_bytes"]) == (10.0, 20.0, 9.0)
    assert row["images_per_second_1"] == pytest.approx(12.0)
    assert np.isnan(row["images_per_second_256"])
    mean = (result.predictions["cnn-seed0"] + result.predictions["cnn-seed1"]) / 2
    assert row["accuracy"] == np.mean((mean > 0.5) == LABELS)
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    assert row["brier"] == pytest.approx(np.mean((mean - LABELS) ** 2))


def test_an_ensemble_is_in_the_tables_of_comparison_and_cost_and_in_no_other():
    tables = list_tables(make_result([make_model(), make_model(seed=1), make_model("resnet50", trial=0)]))
    titles = [table.title for table in tables if "averaged" in str([table.header, *table.rows])]
    assert titles == ["On the test split, in percent", "Cost of a model"]
    (row,) = [row for row in tables[0].rows if row[1] == "ensemble"]
    assert (row[0], row[3]) == ("cnn, 2 seeds averaged", "")
    (line,) = [line for line in str(render(make_result())).splitlines() if "ensemble" in line]
    assert line.startswith("cnn, 3 seeds")


def test_the_calibration_error_without_the_temperature_is_shown_where_there_is_one(tmp_path):
    plain = make_model()
    warm = make_model("resnet50", trial=0)
    warm = dataclasses.replace(warm, temperature=2.0, metrics=warm.metrics | {"ece_uncalibrated": 0.25})
    for models, is_shown in (([plain], False), ([plain, warm], True)):
        write_report(make_result(models), tmp_path)
        text = (tmp_path / "comparison.md").read_text()
        assert ("Calibration error without the temperature" in text) == is_shown
        assert ("ece_uncalibrated" in (tmp_path / "comparison.csv").read_text()) == is_shown
    (row,) = [line for line in text.splitlines() if "error without" in line]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["", "25.00"]
    assert ("Temperature", "1, 2") in _describe_origin(make_result([plain, warm]))


def test_the_markdown_has_all_tables_in_percent_and_the_notes_below(tmp_path):
    models = [make_model(seed=seed, accuracy=0.9 + 0.01 * seed) for seed in range(3)]
    write_report(make_result([*models, make_model("resnet50", trial=0)], notes=["One.", "Two."]), tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    tables = [part.splitlines() for part in text.split("## ")[1:]]
    titles = [table[0].split(",")[0].split(":")[0] for table in tables]
    assert titles == [
        "On the test split",
        "Mean ± deviation over seeds (95 % interval over test images)",
        "Answers with at least a confidence (predict --abstain)",
        "cnn minus resnet50",
        "McNemar's exact test",
        "Cost of a model",
        "The search",
        "Notes",
    ]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[0] if line.startswith("|")]
    assert rows[0][:6] == ["Model", "Source", "Protocol", "Seeds", "Accuracy", "95 % interval"]
    assert rows[2][:5] == ["cnn", "this study", "sealed", "3", "91.00 ± 1.00"]
    assert " to " in rows[2][5]
    assert rows[4][:4] == ["cnn, 3 seeds averaged", "ensemble", "sealed", ""]
    assert rows[5][:7] == ["CNN (paper)", "published", "peak on test", "", "94.85", "", "94.34"]
    assert rows[5][-1] == "141,345"
    assert text.splitlines()[-3:] == ["One.", "", "Two."]
    assert tables[-1][2].startswith("Sampler: portfolio, which draws ")
    for table in tables[:-1]:
        assert len({line.count("|") for line in table if line.startswith("|")}) == 1


def test_the_parameters_that_mattered_are_told_once_there_are_enough_trials():
    params = [{"learning_rate": 10 ** -(1 + number / 10), "dropout": 0.01 * (number % 3)} for number in range(20)]
    values = [[1 - one["learning_rate"]] for one in params]
    trials = [
        make_trial(number, accuracies=value, params=one, state=State.COMPLETE)
        for number, (value, one) in enumerate(zip(values, params, strict=True))
    ]
    result = make_result(trials=trials)
    space = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "dropout": {"low": 0.0, "high": 0.1}}
    config = parse({"name": "mine", "space": {"cnn": space}, "search": {"architectures": ["cnn"]}})
    table = list_search_tables(dataclasses.replace(result, config=config))[-1]
    assert table.title.startswith("Parameter importance")
    assert table.rows[0][0] == "learning_rate"


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        (
            "portfolio",
            "portfolio, which draws a sampler for each proposal (random 20 %, tpe_tame 40 %, gp_rungs 40 %). It is ",
        ),
        ("tpe", "tpe, named in the configuration."),
        ("qmc", "qmc, named in the configuration."),
        ("my_sampler:Wide", "my_sampler:Wide, named in the configuration."),
    ],
)
def test_a_sentence_says_which_sampler_proposed_and_why(sampler, told):
    search = parse({"name": "mine", "search": {"sampler": sampler}}).search
    assert describe_sampler(search).startswith(f"Sampler: {told}")


def test_lower_ranks_stand_in_a_table_of_their_own(tmp_path):
    result = make_result([make_model(), make_model(rank=2, accuracy=0.8)])
    write_report(result, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert text.index("CNN (Bird & Lotfi)") < text.index("Ranked lower on validation") < text.index("cnn, rank 2")
    assert list(summarize_lower(result)["accuracy"]) == [0.8]


def test_the_terminal_table_fits_80_columns():
    models = [make_model("resnet50", seed=seed, accuracy=0.9 + seed / 100) for seed in range(5)]
    text = render(make_result(models, notes=["See [the report]."])).plain
    table, told, note = text.split("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    assert "resnet50, 5 seeds" in table
    assert "92.00 ± 1.58" in table
    assert told.startswith("cnn: 1 trials, 3 epochs")
    assert note == "See [the report]."


def test_latex_is_escaped_and_needs_no_package(tmp_path):
    assert r"my\_net & 5 \% & & 1" in format_latex(Table(title="", header=["my_net", "5 %", "", "1"], rows=[])).replace(
        "  ", " "
    )
    write_report(make_result(), tmp_path)
    text = (tmp_path / "comparison.tex").read_text()
    assert r"CNN (Bird \& Lotfi)" in text
    assert text.isascii()
    body = [line for line in text.splitlines() if "&" in line]
    assert {line.replace(r"\&", "").count("&") for line in body} == {10}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    write_report(make_result(), tmp_path)
    document = r"\documentclass{article}\begin{document}\input{comparison.tex}\end{document}"
    (tmp_path / "paper.tex").write_text(document)
    subprocess.run(["pdflatex", "-halt-on-error", "paper.tex"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "paper.pdf").exists()


def test_every_architecture_has_its_two_figures_and_nothing_else_is_left(tmp_path):
    trials = [make_trial(), make_trial(1, "resnet50", accuracies=(0.6,))]
    paths = write_report(make_result([make_model(), make_model("resnet50", trial=1)], trials), tmp_path / "report")
    assert sorted(path for path in (tmp_path / "report").rglob("*") if path.is_file()) == sorted(paths)
    figures = [path.name for path in paths if path.suffix == ".png"]
    own = ["cnn_confusion.png", "cnn_curves.png", "resnet50_confusion.png", "resnet50_curves.png"]
    assert figures == ["accuracy.png", *own]
    assert paths[-1].name == "report.html"
    for path in paths[3:-1]:
        with Image.open(path) as image:
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(2**24)) > 10


def test_an_earlier_report_is_replaced_and_a_second_one_is_the_same(tmp_path):
    before = {path: path.read_bytes() for path in write_report(make_result(), tmp_path)}
    assert {path: path.read_bytes() for path in write_report(make_result(), tmp_path)} == before
    write_report(make_result([make_model(accuracy=0.5)]), tmp_path)
    assert pd.read_csv(tmp_path / "comparison.csv").loc[0, "accuracy"] == 0.5


def test_a_baseline_stands_below_the_winners_and_is_compared_with_its_own():
    models = [make_model(accuracy=0.95), make_model("resnet50", accuracy=0.9), make_model(rank=2, accuracy=0.92)]
    models += [make_model(rank=7, accuracy=0.8)]
    winners = [
        {"architecture": "cnn", "rank": rank, "recipe": "paper_cnn" if rank == 7 else None} for rank in (1, 2, 7)
    ]
    found = dataclasses.replace(
        make_result(models), manifest={"evaluations": [{"top_k": 2, "winners": [{**each} for each in winners]}]}
    )
    rows = summarize(found)
    assert list(rows["model"][:4]) == ["cnn", "resnet50", "paper cnn", "CNN (paper)"]
    assert list(rows["source"][:4]) == ["this study", "this study", "baseline", "published"]
    assert rows["accuracy_low"][2] < 0.8 < rows["accuracy_high"][2]
    assert list(summarize_lower(found)["model"]) == ["cnn, rank 2"]
    assert [(each.first, each.second) for each in list_differences(found)] == [
        ("cnn", "resnet50"),
        ("cnn", "paper cnn"),
    ]
    assert list_differences(found)[1].metrics["accuracy"][0] == pytest.approx(0.15)
    [line] = [line for line in str(render(found)).splitlines() if line.startswith("paper cnn ")]
    assert line.split()[2:4] == ["baseline", "80.00"]


def test_configurations_are_told_where_they_were_searched_or_are_not_the_default():
    config = parse({"name": "mine", "space": {"cnn": {"filters": {"low": 16, "high": 64}, "kernel_size": 5}}})
    trials = [make_trial(params={"filters": 48, "kernel_size": 5}), make_trial(1, params={"learning_rate": 1 / 3})]
    result = make_result([make_model(), make_model(rank=2, trial=1)], trials)
    table = list_search_tables(dataclasses.replace(result, config=config))[0]
    assert table.title == "Configurations of cnn"
    assert table.header == ["Parameter", "Default", "cnn", "cnn, rank 2"]
    assert sorted(table.rows) == [
        ["filters", "32", "48", "32"],
        ["kernel_size", "3", "5", "3"],
        ["learning_rate", "0.001", "0.001", "0.3333"],
    ]


def test_changed_test_images_are_in_every_part_of_the_report_and_leave_it_with_the_next(tmp_path):
    plain = make_result()
    further = result.FurtherResult(kind="perturbation", name="jpeg30", labels=LABELS, predictions=plain.predictions)
    files = write_report(dataclasses.replace(plain, further=[further]), tmp_path)
    assert tmp_path / "robustness.csv" in files
    assert "JPEG 30" in (tmp_path / "comparison.md").read_text()
    assert 'id="robustness"' in (tmp_path / "report.html").read_text()
    assert tmp_path / "robustness.csv" not in write_report(plain, tmp_path)
    assert not (tmp_path / "robustness.csv").exists()
    assert "changed test images" not in (tmp_path / "comparison.md").read_text()
    assert 'id="robustness"' not in (tmp_path / "report.html").read_text()
