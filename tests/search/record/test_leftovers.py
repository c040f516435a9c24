import torch

from search.config.load import parse
from search.record.journal import Journal, State, Trial
from search.record.leftovers import Checkpoints
from search.study import Study
from trainables.checkpoint import save


def make_trial(number, state):
    return Trial(number=number, architecture="cnn", params={}, state=state)


def test_an_ended_trial_leaves_nothing_and_a_running_one_keeps_two(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for number in (0, 1):
        for _ in range(3):
            save(checkpoints.get_path(number), {"weights": torch.zeros(3)})
        checkpoints.get_path(number).with_name(f"trial-{number}.ckpt.partial").touch()
    checkpoints.on_end(make_trial(0, State.PRUNED))
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["trial-1.ckpt", "trial-1.ckpt.partial", "trial-1.ckpt.previous"]


def test_what_a_kill_left_of_an_ended_trial_is_swept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for number in (0, 1):
        save(checkpoints.get_path(number), {"weights": torch.zeros(3)})
    checkpoints.sweep([make_trial(0, State.COMPLETE), make_trial(1, State.RUNNING)])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["trial-1.ckpt"]
    checkpoints.close()
    checkpoints.on_end(make_trial(1, State.FAIL))
    checkpoints.close()
    assert list(tmp_path.iterdir()) == []


def test_a_study_never_holds_more_than_two_checkpoints_a_trial_under_way_and_none_at_its_end(tmp_path):
    space = {"shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}}
    config = parse({"name": "x", "search": {"num_trials": 30, "max_epochs": 9, "reduction_factor": 2}, "space": space})
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    study = Study(config, Journal(tmp_path / "study.journal", "x", note=print), [checkpoints])
    slots, running, most = 3, {}, 0
    while True:
        while len(running) < slots and (trial := study.ask()) is not None:
            running[trial.number] = trial
        if not running:
            break
        for trial in list(running.values()):
            epoch = len(trial.epochs) + 1
            save(checkpoints.get_path(trial.number), {"epoch": epoch})
            most = max(most, len(list((tmp_path / "checkpoints").iterdir())))
            accuracy = 1 - trial.params["learning_rate"] / epoch
            row = {"epoch": epoch, "accuracy": accuracy, "seconds": 0.5, "images_per_second": 9.0}
            if study.report(trial.number, row, "cpu"):
                del running[trial.number]
    assert most == 2 * slots
    assert list((tmp_path / "checkpoints").iterdir()) == []
