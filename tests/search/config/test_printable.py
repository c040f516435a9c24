"""Hostile text: what terminals, spreadsheets, Markdown, LaTeX and pages are given of it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from search.config.printable import defuse, escape, escape_latex, escape_lines, escape_markdown
from search.config.yaml import format_yaml, read_yaml
from search.record.trial import State, Trial
from search.report.cells import Table, format_latex, format_pipes
from search.report.trials import write_trials

ROOT = Path(__file__).parents[3]
HOSTILE = "=cmd|'/c calc'!A1\x1b[2J\x1b]0;title\x07\u202egnp\r\n\x9b31m\u2028\udcff<script>"
ANY_TEXT = st.text(st.characters(codec=None), max_size=40)
PLAIN = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""An output that knows ASCII alone, and answers what it does not know with an error."""


@given(ANY_TEXT)
@example(HOSTILE)
def test_shown_text_has_no_control_characters(text):
    assert escape(text).isprintable()
    assert escape_lines(text).count("\n") == text.count("\n")
    assert escape_lines(text).replace("\n", "").isprintable()


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=40))
def test_text_that_is_printable_is_shown_as_it_is(text):
    assert escape(text) == text


@given(ANY_TEXT)
@example(HOSTILE)
@example(" =1+1")
@example("\t=1+1")
@example("＝1+1")  # noqa: RUF001 the point
def test_no_cell_begins_as_a_formula_unless_it_is_a_number(text):
    cell = defuse(text)
    assert cell.isprintable()
    if cell.lstrip()[:1] in tuple("=+-@＝＋－＠"):  # noqa: RUF001
        float(cell)


@pytest.mark.parametrize("cell", [-1.5, "-1.5", "+1e-3", 3, None, True, "cnn", float("-inf")])
def test_numbers_and_plain_words_stay_what_they_are(cell):
    assert defuse(cell) is cell


def test_a_table_of_trials_is_harmless_in_a_spreadsheet(tmp_path):
    trial = Trial(number=0, architecture="resnet50", params={"weights": HOSTILE, HOSTILE: -1.5})
    trial.state, trial.reason, trial.attributes = State.FAIL, "@SUM(A1)", {"device": "+1+1"}
    with write_trials([trial], tmp_path / "trials.csv").open(newline="") as file:
        header, row = csv.reader(file)
    cells = dict(zip(header, row, strict=True))
    assert cells["reason"] == "'@SUM(A1)"
    assert cells["device"] == "'+1+1"
    assert cells["weights"].startswith("'=cmd")
    assert cells[defuse(HOSTILE)] == "-1.5"
    write_trials([trial], tmp_path / "trials.parquet")


def test_a_cell_of_markdown_and_latex_is_text_alone():
    table = Table(title="x", header=["model", "a", "b"], rows=[["[2cm] *x* | <b>`", "\\\\input{/etc/passwd}\n", "1"]])
    pipes = format_pipes(table)
    assert len(pipes) == 3
    assert r"\[2cm\] \*x\* \| \<b\>\`" in pipes[2]
    latex = format_latex(table)
    assert r"{[}2cm] {*}x{*}" in latex
    assert r"\input" not in latex
    assert escape_markdown("&#8238; &lt;b&gt; & c") == r"\&#8238; \&lt;b\&gt; & c"
    assert escape_markdown("0.98 ± 0.01, learning_rate") == "0.98 ± 0.01, learning_rate"
    assert escape_latex("50 %") == r"50 \%"


@given(st.lists(ANY_TEXT, max_size=5))
@example([HOSTILE, "\x85", "\ufeff", "é\u2028", "\ud800"])
def test_a_study_yaml_keeps_every_name_to_the_letter(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("record") / "study.yaml"
    path.write_text(format_yaml({"skipped": names}), encoding="utf-8")
    assert read_yaml(path)["skipped"] == names


@pytest.fixture
def hostile_data(tmp_path, write_noise):
    """A tiny data set, in each class a file that is no image, with a name that attacks terminals and spreadsheets."""
    for place, part in enumerate(("train/FAKE", "train/REAL", "test/FAKE", "test/REAL")):
        for number in range(8):
            write_noise(tmp_path / "data" / part / f"{number}.png", number + 8 * place)
        (tmp_path / "data" / part / os.fsdecode(b"=\xff\x1b[2J\xe2\x80\xae\n'x.png")).write_bytes(b"nothing")
    return tmp_path / "data"


def call(*arguments):
    """Run a command whose output knows ASCII alone; return exit code, output and errors."""
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=os.environ | PLAIN, check=False)
    return done.returncode, done.stdout, done.stderr


def is_harmless(output):
    return all(byte in b"\n" or 32 <= byte < 127 for byte in output)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_prints_hostile_names_on_an_output_that_knows_ascii_alone(hostile_data, saved_model, tmp_path):
    place = [f"data.path={hostile_data}", f"data.cache={tmp_path / 'cache'}", f"results={tmp_path}"]
    settings = [word for setting in place for word in ("--set", setting)]
    nowhere = os.fsdecode(b"no\xff\x1b[2J\nwhere")
    calls = {
        0: [
            ("search.run", "--dry-run", "--plain", *settings),
            ("search", "audit", hostile_data),
            ("search.run", "--help"),
        ],
        1: [
            ("search", "predict", saved_model, hostile_data),
            ("search", "predict", saved_model, hostile_data, "--csv"),
        ],
        2: [
            ("search.run", "--plain", *settings),
            ("search", "inspect", nowhere),
            ("search", "evaluate", nowhere),
            ("search", "predict", f"{nowhere}.safetensors", hostile_data),
            ("search", "audit", nowhere),
        ],
    }
    for expected, commands in calls.items():
        for arguments in commands:
            code, output, errors = call(*arguments)
            assert code == expected, (arguments, errors)
            assert is_harmless(output), arguments
            assert is_harmless(errors), (arguments, errors)
    assert rb"\udcff\x1b[2J" in call("search", "audit", hostile_data)[1]
