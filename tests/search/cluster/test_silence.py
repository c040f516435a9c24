import re
import threading
import time

import pytest

from search.cluster.silence import FIRST_S, LEAST_S, TIMES, Silence
from search.record.trial import Trial


class Notes:
    """Takes sentences and lets the test wait for one."""

    def __init__(self):
        self.said = []
        self.spoke = threading.Event()

    def __call__(self, sentence):
        self.said.append(sentence)
        self.spoke.set()


def build_trial(*seconds):
    return Trial(number=0, architecture="cnn", params={}, epochs=[{"seconds": each} for each in seconds])


def test_the_patience_follows_from_the_slowest_epoch_so_far():
    with Silence(None, print, "wait") as silence:
        assert silence.get_patience() == FIRST_S
        silence.on_start(build_trial())
        assert silence.get_patience() == FIRST_S
        silence.on_epoch(build_trial(0.5))
        assert silence.get_patience() == LEAST_S
        silence.on_epoch(build_trial(0.5, 20.0))
        silence.on_epoch(build_trial(0.5, 20.0, 3.0))
        silence.on_end(build_trial(0.5, 20.0, 3.0))
        assert silence.get_patience() == TIMES * 20.0


def test_the_patience_is_the_timeout_where_one_is_set():
    with Silence(7.0, print, "wait") as silence:
        silence.on_epoch(build_trial(20.0))
        assert silence.get_patience() == 7.0


def test_a_silence_is_said_once_and_the_next_one_again():
    notes = Notes()
    with Silence(0.05, notes, "wait", look_s=0.01) as silence:
        assert notes.spoke.wait(60)
        time.sleep(0.2)
        assert len(notes.said) == 1
        notes.spoke.clear()
        silence.hear()
        assert notes.spoke.wait(60)
    assert len(notes.said) == 2
    sentence = r"no training has reported for \d+ seconds: an epoch or a test takes long, or a worker hangs; wait"
    assert re.fullmatch(sentence, notes.said[0])


@pytest.mark.parametrize("heard", [True, False])
def test_nothing_is_said_after_the_end(heard):
    notes = Notes()
    silence = Silence(600.0, notes, "wait", look_s=0.01)
    if heard:
        silence.hear()
    silence.close()
    silence._heard -= 1000.0
    time.sleep(0.1)
    assert notes.said == []
