import csv
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from search import result
from search.config import parse
from search.journal import Trial
from search.published import PUBLISHED
from search.report import render, summarize, write_report
from search.result import Result

COLUMNS = (
    "model,source,seeds,accuracy,accuracy_std,precision,precision_std,recall,recall_std,f1,f1_std,auroc,auroc_std,"
    "parameters"
)


def make_model(architecture="cnn", *, seed=0, rank=1, trial=0, accuracy=0.9):
    metrics = {"accuracy": accuracy, "precision": 0.91, "recall": 0.92, "f1": 0.93, "auroc": 0.94, "loss": 0.2}
    confusion = ((90, 10), (7 + seed, 93 - seed))
    return result.TestedModel(
        label=f"{architecture}{'' if rank == 1 else f'-rank{rank}'}-seed{seed}",
        threshold=0.5,
        cost={},
        architecture=architecture,
        rank=rank,
        seed=seed,
        parameters=141_345,
        metrics=metrics,
        confusion=confusion,
        trial=trial,
    )


def make_trial(number=0, architecture="cnn", *, accuracies=(0.7, 0.9, 0.8), params=None, **known):
    epochs = [
        {
            "epoch": epoch,
            "train_loss": 0.6 / epoch,
            "train_accuracy": 0.7 + 0.05 * epoch,
            "loss": 0.5,
            "accuracy": value,
        }
        for epoch, value in enumerate(accuracies, start=1)
    ]
    return Trial(number=number, architecture=architecture, params=params or {}, epochs=epochs, **known)


def make_result(models=None, trials=None, notes=()):
    models = [make_model(seed=seed, accuracy=0.9 + 0.01 * seed) for seed in range(3)] if models is None else models
    return Result(
        study="mine",
        config=parse({"name": "mine"}),
        record={},
        models=models,
        trials=trials or [make_trial()],
        labels=np.empty(0, np.uint8),
        predictions={},
        mistakes={},
        notes=list(notes),
    )


def test_the_table_has_a_row_per_architecture_and_then_the_published_ones():
    models = [make_model(), make_model(seed=1), make_model("resnet50", trial=4)]
    frame = summarize(make_result(models))
    assert ",".join(frame.columns) == COLUMNS
    assert list(frame["model"]) == ["cnn", "resnet50", *(published.model for published in PUBLISHED)]
    assert list(frame["source"]) == ["this study"] * 2 + ["published"] * 3
    assert list(frame["seeds"].fillna(0)) == [2, 1, 0, 0, 0]


def test_figures_are_means_and_sample_deviations_over_the_seeds():
    row = summarize(make_result([make_model(seed=seed, accuracy=value) for seed, value in enumerate((0.8, 0.9))])).loc[
        0
    ]
    assert row["accuracy"] == pytest.approx(0.85)
    assert row["accuracy_std"] == pytest.approx(0.1 / np.sqrt(2))
    assert (row["recall"], row["recall_std"]) == (0.92, 0.0)


def test_one_seed_has_no_deviation():
    assert (
        summarize(make_result([make_model()]))
        .loc[0, [name for name in COLUMNS.split(",") if "std" in name]]
        .isna()
        .all()
    )


def test_only_the_best_configuration_of_an_architecture_is_compared():
    models = [make_model(accuracy=0.8), make_model(rank=2, accuracy=0.99)]
    frame = summarize(make_result(models))
    assert len(frame) == 1 + len(PUBLISHED)
    assert frame.loc[0, "accuracy"] == 0.8


def test_the_csv_is_the_table_to_the_last_digit(tmp_path):
    result = make_result([make_model(seed=seed, accuracy=value) for seed, value in enumerate((1 / 3, 2 / 7))])
    write_report(result, tmp_path)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert ",".join(header) == COLUMNS
    expected = summarize(result).astype(object)
    for position, column in enumerate(header):
        cells = [type(value)(row[position]) for row, value in zip(rows, expected[column], strict=True) if row[position]]
        assert cells == list(expected[column].dropna()), column


def test_the_markdown_is_in_percent_with_the_notes_below(tmp_path):
    write_report(make_result(notes=["First sentence.", "Second sentence."]), tmp_path)
    lines = (tmp_path / "comparison.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {9}
    assert rows[0] == ["Model", "Source", "Seeds", "Accuracy", "Precision", "Recall", "F1", "AUROC", "Parameters"]
    assert rows[2][:4] == ["cnn", "this study", "3", "91.00 ± 1.00"]
    assert rows[3][:5] == ["CNN (paper)", "published", "", "94.85", "94.34"]
    assert rows[3][-1] == "141,345"
    assert lines[-3:] == ["First sentence.", "", "Second sentence."]


def test_lower_ranks_stand_in_a_table_of_their_own(tmp_path):
    write_report(make_result([make_model(), make_model(rank=2, accuracy=0.8)]), tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert text.index("CNN (Bird & Lotfi)") < text.index("Ranked lower on validation") < text.index("cnn, rank 2")


def test_the_terminal_table_fits_80_columns():
    models = [make_model("resnet50", seed=seed, accuracy=0.9 + seed / 100) for seed in range(5)]
    text = render(make_result(models, notes=["See [the report]."])).plain
    table, note = text.split("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    assert "resnet50, 5 seeds" in table
    assert "92.00 ± 1.58" in table
    assert note == "See [the report]."


def test_latex_is_escaped_and_needs_no_package(tmp_path):
    write_report(make_result([make_model("my_net")], [make_trial(architecture="cnn")]), tmp_path)
    text = (tmp_path / "comparison.tex").read_text()
    assert r"my\_net" in text
    assert r"CNN (Bird \& Lotfi)" in text
    assert text.isascii()
    body = [line for line in text.splitlines() if "&" in line]
    assert {line.replace(r"\&", "").count("&") for line in body} == {8}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    write_report(make_result(), tmp_path)
    document = r"\documentclass{article}\begin{document}\input{comparison.tex}\end{document}"
    (tmp_path / "paper.tex").write_text(document)
    subprocess.run(["pdflatex", "-halt-on-error", "paper.tex"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "paper.pdf").exists()


def test_every_architecture_has_its_two_figures_and_nothing_else_is_left(tmp_path):
    trials = [make_trial(), make_trial(4, "resnet50", accuracies=(0.6,))]
    paths = write_report(make_result([make_model(), make_model("resnet50", trial=4)], trials), tmp_path / "report")
    assert sorted(path for path in (tmp_path / "report").rglob("*") if path.is_file()) == sorted(paths)
    figures = [path.name for path in paths if path.suffix == ".png"]
    assert figures == ["cnn_confusion.png", "cnn_curves.png", "resnet50_confusion.png", "resnet50_curves.png"]
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
