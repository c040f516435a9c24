"""Writes every file of a study that a promise rests on, in the order of a search, and says after each what is promised.

python -m tests.writing ROOT SOURCE MARKS
python -m tests.writing < LINES   does so for each line of these three
"""

import hashlib
import os
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from search.config.load import parse
from search.evaluation.choices import choose
from search.evaluation.evaluate import _open
from search.evaluation.model_file import ModelRecord, describe_preprocessing, load_model, save_model
from search.evaluation.result import RATES
from search.record.checkpoints import TrialCheckpoints
from search.record.folder import OpenStudy, check_absent, create_folder
from search.record.journal import Journal
from search.record.manifest import compare_manifest, save_manifest
from search.study import Study
from trainables import checkpoint
from trainables.config import build_train_config, list_values
from trainables.errors import InputError
from trainables.models.model import build_model
from trainables.pack import pack

MODEL = {"filters": 4, "dense_units": 8}


class Writer:
    """A study of a closed-form objective; a second one in the same place continues the first."""

    def __init__(self, root, source, marks):
        self.marks = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.source, self.root = source, root

    def mark(self, *words):
        os.write(self.marks, " ".join(map(str, words)).encode() + b"\n")

    def on_start(self, trial):
        pass

    def on_epoch(self, trial):
        pass

    def on_end(self, trial):
        self.mark("deleted", self.checkpoints.get_path(trial.number).name)

    def close(self):
        pass

    def configure(self, **evaluation):
        return parse(
            {
                "name": "tiny",
                "results": str(self.root / "deep" / "results"),
                "space": {"cnn": {"filters": {"low": 4, "high": 64}}},
                "search": {"max_epochs": 3, "num_trials": 3, "architectures": ["cnn"], "num_startup_trials": 2},
                "data": {"path": str(self.source), "cache": str(self.root / "cache")},
                "evaluation": evaluation,
            }
        )

    def run(self):
        config = self.configure()
        packed = pack(self.source, self.root / "cache")
        check_absent(config, resume=True)
        create_folder(config, packed)
        self.folder = config.directory
        manifest, _ = compare_manifest(config, packed, accept_changes=True)
        self.journal = Journal(config.journal, "tiny", note=print)
        save_manifest(self.folder, manifest)
        self.mark_record()
        self.mark_journal()
        self.search(config)
        self.conclude(config, manifest, 0.25)
        self.conclude(self.configure(seeds=2), manifest, 0.75)

    def search(self, config):
        self.checkpoints = TrialCheckpoints(self.folder / "checkpoints")
        study = Study(config, self.journal, [self, self.checkpoints])
        self.checkpoints.delete_leftovers(study.trials)
        while (trial := study.ask()) is not None:
            self.mark_journal()
            path, is_ended = self.checkpoints.get_path(trial.number), False
            if (state := checkpoint.load(path)) is not None:
                assert state["epoch"] - len(trial.epochs) in (0, 1), "a checkpoint is of the last epoch, or one ahead"
                assert torch.equal(state["weights"], torch.full((40, 40), float(state["epoch"])))
            while not is_ended:
                epoch = len(trial.epochs) + 1
                checkpoint.save(path, {"epoch": epoch, "weights": torch.full((40, 40), float(epoch))})
                self.mark("saved", path.name, epoch)
                value = 0.9 - 1 / trial.params["filters"] - 0.1 / epoch
                metrics = {"epoch": epoch, "accuracy": value, "seconds": 1.0, "images_per_second": 1.0}
                is_ended = study.report(trial.number, metrics, "cpu")
                self.mark_journal()

    def conclude(self, config, manifest, fill):
        choices = choose(config, self.journal.load(), "f" * 64)
        _open(
            OpenStudy(config=config, manifest=manifest, journal=self.journal, mirror=None), choices, Console(quiet=True)
        )
        self.mark_record()
        self.mark_journal()
        self.mark("opened", sum(bool(entry["opened"]) for entry in manifest["evaluations"]))
        small = build_train_config("cnn", MODEL, epochs=3, seed=5)
        weights = build_model(small.model, seed=1).state_dict()
        shared = {"label": "cnn-seed0", "architecture": "cnn", "rank": 1, "seed": 0, "trial": 0}
        model = ModelRecord(
            retraining={
                **shared,
                **{"params": MODEL, "train_seed": 5, "max_epochs": 3, "epochs": 2, "max_train_images": None},
                **{"split_seed": 0, "fingerprint": "f" * 64, "threshold": fill},
            },
            parameters=list_values(small),
            tested={
                **shared,
                **{"parameters": 1, "threshold": fill, "confusion": ((9, 1), (1, 9)), "cost": {}},
                **{"metrics": {**dict.fromkeys(RATES, 0.9), "brier": 0.1, "loss": 0.3}},
            },
            preprocessing=describe_preprocessing(("FAKE", "REAL"), small),
            hardware={"type": "cpu", "name": "a CPU", "threads": 1, "cpus": 1.0, "gpus": 0.0},
            code={"commit": "c", "dirty": False, "source": "0" * 64, "python": "3.11", "packages": {}},
        )
        self.mark("replacing", "cnn-seed0")
        filled = {name: torch.full_like(tensor, fill) for name, tensor in weights.items()}
        save_model(self.folder / "models", model, filled, {"probabilities": np.full(5, fill)})
        self.mark(
            "model", "cnn-seed0", hashlib.sha256((self.folder / "models/cnn-seed0.json").read_bytes()).hexdigest()
        )
        load_model(self.folder / "models/cnn-seed0.safetensors")

    def mark_record(self):
        self.mark("record", hashlib.sha256((self.folder / "study.yaml").read_bytes()).hexdigest())

    def mark_journal(self):
        self.mark("journal", (self.folder / "study.journal").stat().st_size)


def write(root, source, marks):
    """Return the exit code of a command: 2 for what the user can mend, 1 for a disk that fails."""
    try:
        Writer(Path(root), Path(source), marks).run()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def serve():
    """Write for each line, the first time here, so that all is imported, and then in processes that begin stopped.

    Each says its number, and then how it ended.
    """
    torch.set_num_threads(1)
    for count, line in enumerate(sys.stdin):
        if count == 0:
            say(write(*line.split()))
        elif (child := os.fork()) == 0:
            code = 70
            try:
                os.kill(os.getpid(), signal.SIGSTOP)
                code = write(*line.split())
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                sys.stderr.flush()
                os._exit(code)
        else:
            say(child)
            say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def say(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(write(*sys.argv[1:]) if len(sys.argv) > 1 else serve())
