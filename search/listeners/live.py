"""Shows a running search on a terminal: a view at its bottom, kept up to date."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live

from search.config.printable import escape
from search.config.search import SearchConfig
from search.listeners.log import View
from search.listeners.status import Status
from search.listeners.usage import Usage
from search.record.trial import State, Trial

REFRESHES_PER_SECOND = 2


class LiveView(View):
    """Keeps a view of the search at the bottom of a terminal; it reads the epochs from the trials themselves."""

    def __init__(
        self, name: str, search: SearchConfig, *, console: Console, trials: Sequence[Trial], elapsed_s: float
    ) -> None:
        super().__init__(console)
        self._name = name
        self._search = search
        self._trials = {trial.number: trial for trial in trials}
        self._begun = time.monotonic() - elapsed_s
        self._usage = Usage()
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=REFRESHES_PER_SECOND)

    def on_start(self, trial: Trial) -> None:
        """Show the trial among the running ones."""
        self._trials[trial.number] = trial
        self._live.start()

    def on_end(self, trial: Trial) -> None:
        """Remove the trial from the running ones; print the reason of a failed one."""
        self._trials[trial.number] = trial
        if trial.state is State.FAIL:
            self.note(f"{trial.name} FAIL: {escape(trial.reason)}")

    def close(self) -> None:
        """Print the last view and release the terminal."""
        self._live.stop()

    def render(self) -> Status:
        """Return the current state; called from the thread that refreshes the view."""
        return Status(
            name=self._name,
            search=self._search,
            trials=list(self._trials.values()),
            elapsed_s=time.monotonic() - self._begun,
            usage=self._usage.describe(),
        )
