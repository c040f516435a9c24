"""Warns if no training has reported for longer than expected, once each time."""

import threading
import time
from collections.abc import Callable
from typing import Self

from search.record.trial import Listener, Trial

LEAST_S = 60.0
"""Shortest silence that is reported, in seconds."""
FIRST_S = 300.0
"""Seconds allowed for the first epoch: a process starts, the data are read, kernels are compiled."""
TIMES = 10.0
"""Silence allowed after an epoch, in multiples of the slowest epoch so far."""
LOOK_S = 1.0
"""Seconds between two checks."""


class Silence(Listener):
    """Reports a silence of all trainings; it ends no training."""

    def __init__(
        self, timeout_s: float | None, note: Callable[[str], None], cure: str, *, look_s: float = LOOK_S
    ) -> None:
        """Start the watch.

        Args:
            timeout_s: Seconds of silence that are allowed; None derives them from the slowest epoch.
            note: Prints the sentence; called from a thread.
            cure: What the user may do; the end of the sentence.
            look_s: Seconds between two checks.
        """
        self._timeout_s = timeout_s
        self._note = note
        self._cure = cure
        self._look_s = look_s
        self._slowest_s: float | None = None
        self._heard = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="silence")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hear(self, epoch_s: float | None = None) -> None:
        """Note a sign of life, such as an epoch and the seconds that it took."""
        self._heard = time.monotonic()
        if epoch_s is not None:
            self._slowest_s = max(epoch_s, self._slowest_s or 0.0)

    def get_patience(self) -> float:
        """Return the seconds of silence that are allowed."""
        if self._timeout_s is not None:
            return self._timeout_s
        return FIRST_S if self._slowest_s is None else max(LEAST_S, TIMES * self._slowest_s)

    def on_start(self, trial: Trial) -> None:  # noqa: ARG002 a listener's
        """A trial was handed out."""
        self.hear()

    def on_epoch(self, trial: Trial) -> None:
        """A trial reported."""
        self.hear(trial.epochs[-1]["seconds"])

    def on_end(self, trial: Trial) -> None:  # noqa: ARG002 a listener's
        """A trial ended."""
        self.hear()

    def close(self) -> None:
        """End the watch."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        said = None
        while not self._stop.wait(self._look_s):
            heard = self._heard
            silent_s = time.monotonic() - heard
            if heard != said and silent_s > self.get_patience():
                said = heard
                self._note(
                    f"no training has reported for {silent_s:.0f} seconds: an epoch or a test takes long, or a worker "
                    f"hangs; {self._cure}"
                )
