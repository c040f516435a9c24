import torch

from search.checkpoints import Checkpoints
from search.journal import State, Trial
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
