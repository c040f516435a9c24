"""The benchmarks run, and write their figures under names that stay."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.optuna_alone import open_study
from benchmarks.peers.plan import Plan
from benchmarks.search import count_lost, draw_configs, measure

ROOT = Path(__file__).parent.parent

KINDS = ("before", "kept", "loop", "bare", "usual")
MEASURED = {f"{kind}_{name}" for kind in KINDS for name in ("images_per_second", "cpu_us_per_image", "faults_per_step")}
NAMES = {
    "chaos": {
        "kills",
        "hangs",
        "unexplained",
        "by_kind",
        "trials_lost",
        "zombies",
        "failures",
        "epochs_missing",
        "differences",
        "epochs_recorded",
        "epochs_repeated",
        "seconds",
    },
    "growth": {"sampler", "rows"},
    "scale": {"sampler", "epochs", "rows"},
    "search": {"trials", "images", "epochs", "slots", "rounds", "precision", "sides"},
    "packing": {"images", "pack_seconds", "pack_images_per_second", "find_seconds", "open_seconds", "verify_seconds"},
    "training": {
        "device",
        "torch",
        "threads",
        "cudnn_benchmark",
        "deterministic",
        "compile",
        "precision",
        "macs_per_second",
        "bytes_per_second",
    }
    | {"models", "twenty_epochs_seconds", "twenty_epochs_to_usual"},
    "starting": {"rounds", "slots", "phases"},
    "recipes": {"device", "accuracies", "difference_interval"},
    "replay": {"sources", "epochs", "rows", "searches"},
    "resuming": {"5"},
    "sharing": {"device", "torch", "model", "processes"},
    "shipping": {"trials", "epochs", "folder", "bucket"},
    "tracking": {"trials", "epochs", "rounds", "ours", "stock", "stock_to_ours"},
}


@pytest.fixture
def call(spawn):
    """Run a command to its end and return its exit code and what it printed, to either stream."""

    def call(command, **options):
        process = spawn(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    return call


@pytest.fixture
def run(call):
    """Run a benchmark and return its figures."""

    def run(name, *options, path):
        done = call([sys.executable, "-m", f"benchmarks.{name}", *options, "--json", str(path)])
        assert done.returncode == 0, done.stderr
        figures = json.loads(path.read_text())
        assert figures.keys() == NAMES[name]
        return figures

    return run


@pytest.mark.slow
def test_the_packing_benchmark_writes_its_figures(run, image_folder, tmp_path):
    assert run("packing", str(image_folder), path=tmp_path / "figures.json")["images"] == 50


@pytest.mark.slow
@pytest.mark.parametrize("data", ["made up", "zip"])
def test_the_training_benchmark_compares_five_loops(run, data, image_zip, tmp_path):
    options = () if data == "made up" else ("--data", str(image_zip))
    figures = run("training", "--short", "--models", "paper_cnn", *options, path=tmp_path / "figures.json")
    [(batch_size, row)] = figures["models"]["paper_cnn"].items()
    assert batch_size == ("128" if data == "made up" else "20")
    assert figures["twenty_epochs_seconds"]["paper_cnn"].keys() == {"128"}
    if data == "made up":
        ratio = 20 * 256 / figures["twenty_epochs_seconds"]["paper_cnn"]["128"] / row["usual_images_per_second"]
        assert figures["twenty_epochs_to_usual"]["paper_cnn"] == {"128": pytest.approx(ratio)}
    assert row.keys() == MEASURED | {f"loop_to_{kind}" for kind in KINDS if kind != "loop"} | {
        "parameters",
        "images",
        "usual_workers",
        "macs_per_image",
        "bytes_per_image",
        "floor_images_per_second",
    }
    assert row["parameters"] == 141_345
    # Forward: 864 + 9,216 a pixel of the first and second layer, and two dense ones; backward twice that, but for
    # the gradient of the images, which no weight needs.
    forward = 864 * 1024 + 9216 * 256 + 64 * 2048 + 64
    assert row["macs_per_image"] == 3 * forward - 864 * 1024


@pytest.mark.slow
def test_a_cut_run_of_the_training_benchmark_keeps_what_it_measured(tmp_path, spawn):
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.training", "--short", "--models", "paper_cnn", "resnet50"]
    process = spawn([*command, "--json", str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert any(line.startswith("paper_cnn") for line in process.stdout)
    process.kill()
    process.wait()
    assert json.loads(path.read_text())["models"].keys() == {"paper_cnn"}


@pytest.mark.slow
def test_the_epochs_are_timed_alone(run, tmp_path):
    options = ("--short", "--only", "epochs", "--models", "paper_cnn", "--cudnn-benchmark", "--deterministic")
    figures = run("training", *options, path=tmp_path / "figures.json")
    assert (figures["models"], figures["cudnn_benchmark"], figures["deterministic"]) == ({}, True, True)
    assert figures["twenty_epochs_seconds"]["paper_cnn"]["128"] > 0


@pytest.mark.slow
def test_a_broken_process_of_the_sharing_benchmark_ends_the_others_at_once(call):
    done = call([sys.executable, "-c", "from benchmarks.sharing import measure; measure('no such model', 2, 256)"])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "one of 2 trainings side by side ended with code 1"


@pytest.mark.slow
def test_the_sharing_benchmark_adds_up_processes(run, tmp_path):
    figures = run("sharing", "--short", path=tmp_path / "figures.json")
    assert figures["processes"].keys() == {"1", "2"}
    assert all(found["images_per_second"] > 0 for found in figures["processes"].values())


@pytest.mark.slow
def test_the_steps_for_a_gpu_leave_words_and_figures_and_those_that_were_not_asked_for_do_not_run(
    run_gpu_steps, tmp_path
):
    done = run_gpu_steps(tmp_path / "gpu", "tests", "paper_cnn_epochs", "paper_cnn_sharing", python=sys.executable)
    assert done.returncode == 0, done.stdout
    names = {path.name for path in (tmp_path / "gpu").iterdir()}
    figures = {"paper_cnn_epochs.json", "paper_cnn_sharing.json"}
    assert names == {"pytest.ini", "tests.txt", "paper_cnn_epochs.txt", "paper_cnn_sharing.txt", *figures}
    assert "deselected" in (tmp_path / "gpu" / "tests.txt").read_text()


def test_a_step_for_a_gpu_that_fails_keeps_no_other_from_running(run_gpu_steps, tmp_path):
    done = run_gpu_steps(tmp_path, python="false")
    assert done.returncode == 1
    started = [line.removeprefix("== ") for line in done.stdout.splitlines() if line.startswith("== ")]
    assert started[0] == "tests"
    assert [line for line in done.stdout.splitlines() if line.endswith(" failed")] == [
        f"{step} failed" for step in started
    ]


def test_a_step_for_a_gpu_that_is_not_known_is_an_error_that_names_those_that_are(run_gpu_steps, tmp_path):
    done = run_gpu_steps(tmp_path, "testing", python="false")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("no step is called testing; known: tests paper_cnn_epochs ")


@pytest.fixture
def run_gpu_steps(call):
    """Run steps of gpu.sh, with an interpreter of Python."""

    def run_gpu_steps(folder, *steps, python):
        environment = {**os.environ, "SHORT": "1", "PYTHON": python}
        return call([ROOT / "benchmarks" / "gpu.sh", folder, *steps], env=environment)

    return run_gpu_steps


@pytest.mark.slow
def test_the_recipes_benchmark_trains_each_recipe_with_each_seed(run, image_zip, tmp_path):
    options = ("--data", str(image_zip), "--images", "20", "--val-images", "8", "--epochs", "1", "--seeds", "2")
    figures = run("recipes", *options, path=tmp_path / "figures.json")
    assert {name: len(found) for name, found in figures["accuracies"].items()} == {"small_cnn": 2, "paper_cnn": 2}


@pytest.mark.slow
def test_the_replay_benchmark_has_a_row_for_each_arm(run, tmp_path):
    figures = run("replay", "--short", "--plot", str(tmp_path / "regret.png"), path=tmp_path / "figures.json")
    assert [row["arm"] for row in figures["rows"]] == ["random + asha", "portfolio 10 + asha from 3"]
    assert figures["rows"][0]["difference"] == [0.0, 0.0, 0.0]
    assert (tmp_path / "regret.png").stat().st_size > 0


@pytest.mark.slow
def test_the_resuming_benchmark_proposes_the_next_trial(run, tmp_path):
    figures = run("resuming", "--trials", "5", "--rounds", "1", path=tmp_path / "figures.json")
    assert figures["5"]["epochs"] >= 4
    assert figures["5"]["ready_seconds"] > 0


def test_the_tracking_benchmark_tells_both_sides_the_same(run, tmp_path):
    figures = run("tracking", "--short", path=tmp_path / "figures.json")
    assert (
        figures["ours"].keys()
        == {"total_seconds", "driver_seconds", "seconds_per_trial", "seconds_per_epoch"}
        == figures["stock"].keys()
    )
    assert figures["trials"] == 4


@pytest.mark.slow
def test_the_growth_benchmark_has_a_row_for_each_search(run, tmp_path):
    figures = run("growth", "--short", "--plot", str(tmp_path / "growth.png"), path=tmp_path / "figures.json")
    assert [(row["slots"], row["trials"]) for row in figures["rows"]] == [(2, 2), (2, 20)]
    assert all(row["driver_bytes"] > 0 for row in figures["rows"])
    assert figures["rows"][1]["late_to_early"] > 0
    assert (tmp_path / "growth.png").stat().st_size > 0


@pytest.mark.slow
def test_the_starting_benchmark_sees_every_phase_in_its_order(run, tmp_path):
    figures = run("starting", "--short", path=tmp_path / "figures.json")
    assert list(figures["phases"]) == ["imports", "data", "ray", "study", "worker", "images", "step"]
    moments = [phase["seconds"] for phase in figures["phases"].values()]
    assert moments[0] > 0
    assert moments == sorted(moments)


@pytest.mark.slow
def test_the_scale_benchmark_weighs_nodes_driver_and_journal(run, tmp_path):
    [row] = run("scale", "--short", path=tmp_path / "figures.json")["rows"]
    assert (row["nodes"], row["trials"]) == (2, 20)
    assert row["journal_bytes"] > 20 * 500  # a trial writes half a kilobyte at the least
    assert min(row["bytes_per_node"], row["driver_bytes"]) > 10e6
    assert row["trials_per_second"] > 0


@pytest.mark.slow
def test_the_search_benchmark_lets_all_train_the_same_and_loses_nothing_of_ours(run, tmp_path):
    sides = ("--sides", "ours", "optuna_alone")
    figures = run("search", "--short", *sides, path=tmp_path / "figures.json")
    assert figures["sides"].keys() == {"ours", "optuna_alone"}
    for row in figures["sides"].values():
        assert 0 < row["first_step_seconds"] < row["wall_seconds"]
        assert 0 < row["training_seconds"] < 2 * row["wall_seconds"]
        assert row["seconds_beyond_per_trial"] > 0
    assert figures["sides"]["ours"]["epochs_lost"] == 0


def test_no_trial_of_optuna_alone_is_stopped_not_even_after_its_last_epoch(tmp_path):
    study = open_study(tmp_path, Plan(data="", val_fraction=0.2, epochs=3, slots=1, configs=[]))
    for accuracy in (0.9, 0.5, 0.4, 0.3):
        trial = study.ask()
        for epoch in (1, 2, 3):
            trial.report(accuracy, epoch)
            assert not trial.should_prune()


@pytest.mark.parametrize(
    ("lines", "held", "lost"),
    [
        (["0.1 1 5.0", "0.1 2 5.1", "0.2 1 5.2", "0.2 2 5.3"], 4, 0),
        (["0.1 1 5.0", "0.1 2 5.1", "0.2 1 5.2"], 2, 2),
        (["0.1 1 5.0", "0.1 2 5.1"], 2, 2),
        (["0.1 1 5.0", "0.1 2 5.1", "0.2 1 5.2", "0.2 1 5.4", "0.2 2 5.3"], 4, 1),
    ],
    ids=["all held", "killed, never tried again", "killed before its first epoch", "one epoch trained again"],
)
def test_lost_epochs_are_missing_or_were_trained_twice(lines, held, lost):
    plan = Plan(data="", val_fraction=0.2, epochs=2, slots=2, configs=[{"learning_rate": rate} for rate in (0.1, 0.2)])
    assert count_lost(lines, held, plan) == lost


@pytest.mark.slow
def test_optuna_alone_loses_nothing_if_it_is_not_killed(image_folder):
    plan = Plan(data=str(image_folder), val_fraction=0.2, epochs=2, slots=1, configs=draw_configs(4))
    assert measure("optuna_alone", plan)["epochs_lost"] == 0


@pytest.mark.parametrize(
    ("codes", "pieces", "code"),
    [((124, 124, 0), 1000, 0), ((124, 2), 1000, 2), ((124, 130), 1000, 130), ((124, 124, 0), 2, 124)],
    ids=["done", "refused", "Ctrl-C by hand", "used up"],
)
def test_pieces_go_on_until_the_study_is_done_or_refused(call, tmp_path, codes, pieces, code):
    """A stand-in for Python hangs until it is interrupted where 124 stands, else ends with that code."""
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f'#!/bin/bash\necho "$@" >> {tmp_path}/told\ncodes=({" ".join(map(str, codes))})\n'
        f"code=${{codes[$(wc -l < {tmp_path}/told) - 1]}}\n"
        'trap "exit 130" INT\nwhile [ "$code" = 124 ]; do sleep 0.1; done\nexit "$code"\n'
    )
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PIECES": str(pieces)}
    command = [ROOT / "benchmarks" / "pieces.sh", "1", "study.yaml", "--set", "a=b"]
    answer = call(command, env=environment)
    assert answer.returncode == code, answer.stderr
    told = (tmp_path / "told").read_text().splitlines()
    assert told == ["-m search.run study.yaml --set a=b --resume"] * min(len(codes), pieces)


@pytest.mark.slow
def test_the_shipping_benchmark_finds_the_whole_journal_in_the_bucket(run, tmp_path):
    figures = run("shipping", "--short", path=tmp_path / "figures.json")
    assert 1 <= figures["bucket"]["parts"] <= figures["trials"]
    assert figures["folder"].keys() < figures["bucket"].keys()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_kills_of_single_processes_of_ray_and_wandb_cost_a_search_nothing(tmp_path, run):
    figures = run("chaos", "--infrastructure", "--kills", "2", "--trials", "20", path=tmp_path / "figures.json")
    assert figures["kills"] == sum(figures["by_kind"].values()) == 2
    assert figures["epochs_recorded"] >= 20
    for name in ("hangs", "unexplained", "trials_lost", "zombies", "failures", "epochs_missing", "differences"):
        assert figures[name] == 0
