"""A study: hands out trials, records their epochs, and decides when they end. It knows the journal, but no worker.

Its driver (Ray Tune in cluster/runner.py, a plain loop in the tests) does three things: it calls `ask` for a trial,
`report` for each of its epochs, and `fail` if it fails. Every fact is in the journal before anything acts on it, and
the state of this class is rebuilt from the journal alone, so a killed study continues as if it had never stopped.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from search.config.schema import StudyConfig
from search.record.journal import Journal
from search.record.trial import Listener, State, Trial
from search.samplers.candidates import EXHAUSTED, Proposer
from search.samplers.shares import check_shares
from search.schedulers import search_end
from search.schedulers.scheduler import Scheduler, ask_scheduler, build_scheduler
from search.schedulers.trial_end import find_end
from trainables.errors import InputError
from trainables.names import is_own, require_imported


def check_search(config: StudyConfig) -> None:
    """Check, before a study starts, that its sampler and its schedulers can be built, and its trials be shared."""
    if is_own(config.search.sampler):
        from search.samplers.own import check_sampler

        check_sampler(config)
    for architecture in config.search.architectures:
        build_scheduler(config.search, architecture)  # raises InputError where it cannot
    check_shares(config)


class Study:
    """One search, rebuilt from its journal."""

    def __init__(
        self, config: StudyConfig, journal: Journal, listeners: Sequence[Listener] = (), learnt: Sequence[Trial] = ()
    ) -> None:
        self.config = config
        self.trials = journal.load()
        """All trials by number."""
        self.num_epochs = sum(len(trial.epochs) for trial in self.trials)
        """Number of recorded epochs of all trials; it is counted because it is read at every event."""
        self._journal = journal
        self._listeners = listeners
        search = config.search
        own = [trial for trial in self.trials if not trial.is_foreign]
        for trial in own:
            if trial.state is State.RUNNING:
                require_imported(trial.architecture, trial.params.get("optimizer"))
        names = dict.fromkeys([*search.architectures, *(trial.architecture for trial in own)])
        self._proposer = Proposer(config, names, learnt)
        self._candidates = self._proposer.candidates
        self._schedulers: dict[str, Scheduler] = {name: build_scheduler(search, name) for name in names}
        self._recipes = [recipe for recipe in config.recipes if recipe.architecture in search.architectures]
        self._first = [trial.number for trial in own if trial.enqueued is None][: len(self._recipes)]  # of recipes
        self._waiting: deque[Trial] = deque()
        self._running: dict[int, Trial] = {}
        self._ends: list[str | None] = []  # for each trial that ended, in order: why it failed, or None
        self._stops = journal.list_stops()
        self._started = time.monotonic() - search_end.count_elapsed(search, self.trials, journal.elapsed_s)
        self._replay()

    @property
    def elapsed_s(self) -> float:
        """Seconds of searching, over all resumptions."""
        return time.monotonic() - self._started

    @property
    def halt_reason(self) -> str | None:
        """Why the study ends before its last trial, or None."""
        search = self.config.search
        spent = search_end.describe_spent(search, self.num_epochs, self.elapsed_s)
        exhausted = EXHAUSTED if self._proposer.is_exhausted and not (self._running or self._waiting) else None
        stopped = search_end.describe_stop(search, self._stops)
        ended = self._progress.describe_end(search) or search_end.describe_failures(self._ends)
        return stopped or spent or ended or exhausted

    @property
    def is_over(self) -> bool:
        """Whether every trial has ended and no other will start."""
        return not self._waiting and not self._running and len(self.trials) >= self.config.search.num_trials

    def ask(self) -> Trial | None:
        """Hand out the next trial, unfinished ones first; None when there are no more or the study halts."""
        if self.halt_reason:
            return None
        trial = None
        while trial is None and self._waiting:
            trial = self._take_up(self._waiting.popleft())
        if trial is None and len(self.trials) < self.config.search.num_trials:
            trial = self._propose()
        if trial is None:
            return None
        self._running[trial.number] = trial
        for listener in self._listeners:
            listener.on_start(trial)
        return trial

    def report(self, number: int, metrics: Mapping[str, float], device: str, precision: str | None = None) -> bool:
        """Record an epoch of a trial and return whether the trial ends with it.

        Nothing changes if the trial has ended, or if the epoch is recorded already, since a resumed worker may report
        it again. A trial whose metric is missing or not a finite number fails.
        """
        if number not in self._running:
            return True
        trial = self._running[number]
        if metrics["epoch"] <= len(trial.epochs):
            return False
        assert metrics["epoch"] == len(trial.epochs) + 1, f"trial {number} skipped an epoch: {metrics['epoch']}"
        if problem := trial.find_problem(metrics):
            self.fail(number, problem)
            return True
        known = {"precision": precision} if precision else {}
        self._journal.add_epoch(trial, metrics, elapsed_s=self.elapsed_s, device=device, **known)
        self.num_epochs += 1
        self._progress.add_epoch(trial, len(trial.epochs))
        for listener in self._listeners:
            listener.on_epoch(trial)
        return self._end_if_due(trial, stop=self._ask_scheduler(trial, len(trial.epochs)))

    def fail(self, number: int, reason: str, traceback: str | None = None) -> None:
        """Record that a trial failed; the search continues. Nothing changes if the trial has ended."""
        if number in self._running:
            self._ends.append(reason)
            self._end(self._running[number], State.FAIL, reason, traceback)

    def complete(self, number: int) -> None:
        """Record that a trial ended by itself before its last epoch. Nothing changes if the trial has ended."""
        if number in self._running:
            trial = self._running[number]
            self._ends.append(None)
            self._end(trial, State.COMPLETE, f"its function ended after epoch {len(trial.epochs)}")

    def halt(self, reason: str) -> None:
        """End every unfinished trial as pruned, for this reason; if the hours are used, record that first."""
        hours = self.config.search.max_hours
        if hours is not None and self._journal.elapsed_s < hours * 3600 <= self.elapsed_s:
            self._journal.add_halt(self.elapsed_s)
        for trial in [*self._running.values(), *self._waiting]:
            self._end(trial, State.PRUNED if trial.epochs else State.FAIL, reason)
        self._waiting.clear()

    def stop(self, request: str) -> None:
        """Record that the search was stopped by hand: it halts, and continues only with another budget."""
        self._journal.add_stop(request, search_end.list_budget(self.config.search))
        self._stops = self._journal.list_stops()

    def stop_trial(self, number: int) -> bool:
        """End a trial by hand; return whether there was one that had not ended."""
        trial = self.trials[number] if 0 <= number < len(self.trials) else None
        if trial is None or trial.state is not State.RUNNING:
            return False
        if trial in self._waiting:
            self._waiting.remove(trial)
        reason = f"stopped by hand after {len(trial.epochs)} epochs"
        self._end(trial, State.PRUNED if trial.epochs else State.FAIL, reason)
        return True

    def enqueue(self, point: Mapping[str, Any], request: str) -> None:
        """Enqueue a point of `ask`; nothing changes if the journal has this request."""
        if trial := self._journal.enqueue(point, request):
            self._adopt(trial.number + 1)

    def _ask_scheduler(self, trial: Trial, epoch: int) -> bool:
        """Report an epoch to the scheduler, which changes its rungs, and return whether the trial stops after it.

        A trial that is spared does not stop.
        """
        scheduler, score = self._schedulers[trial.architecture], trial.list_scores()[epoch - 1]
        stop = ask_scheduler(scheduler, self.config.search.scheduler, trial.number, epoch, score)
        return stop and not (self.config.search.spare_first and trial.number in self._first)

    def _propose(self) -> Trial | None:
        """Return a new trial; None if every configuration of the space was already a trial."""
        number, is_first = len(self.trials), len(self._first) < len(self._recipes)
        recipe = self._recipes[len(self._first)] if is_first else None
        chosen = (
            self._proposer.propose(number, self.trials) if recipe is None else self._proposer.complete_recipe(recipe)
        )
        if chosen is None:
            return None
        architecture, params = chosen
        noted = self._candidates[architecture].sampler.noted.pop(number, {})
        is_outside = is_first and not self._candidates[architecture].has(params)
        distributions = {} if is_outside else self._candidates[architecture].sampler.distributions
        trial = self._journal.add_trial(architecture, params, distributions, noted)
        self._adopt(trial.number)
        if is_first:
            self._first.append(trial.number)
        self._candidates[trial.architecture].start(trial, is_first=trial.number in self._first)
        self.trials.append(trial)
        return trial

    def _adopt(self, stop: int) -> None:
        """Take in the trials below a number that another program or a request has added."""
        for foreign in self._journal.load_between(len(self.trials), stop):
            self.trials.append(foreign)
            if foreign.waits:
                self._waiting.append(foreign)

    def _take_up(self, trial: Trial) -> Trial | None:
        """Return a waiting trial, ready to start; None if it was enqueued and cannot be trained."""
        if not trial.waits:
            return trial
        try:
            architecture, params = self._proposer.complete(trial)
        except InputError as error:
            self._end(trial, State.FAIL, f"the enqueued point cannot be trained: {error}")
            return None
        self._journal.note(trial, self._candidates[architecture].sampler.noted.pop(trial.number, {}))
        self._journal.take_up(trial, architecture, params, self._candidates[architecture].sampler.distributions)
        self._candidates[trial.architecture].start(trial, is_first=trial.number in self._first)
        return trial

    def _end_if_due(self, trial: Trial, *, stop: bool) -> bool:
        if end := find_end(self.config.search, trial, stop=stop):
            self._end(trial, *end)
        if trial.state is State.RUNNING:
            return False
        self._ends.append(None)
        return True

    def _end(self, trial: Trial, state: State, reason: str | None, traceback: str | None = None) -> None:
        attributes = trial.measure_cost() | ({} if traceback is None else {"traceback": traceback})
        if trial.architecture in self._candidates:
            self._journal.note(trial, self._candidates[trial.architecture].sampler.after_trial(trial, state))
        self._journal.end_trial(trial, state, reason, attributes)
        self._running.pop(trial.number, None)
        if state is State.FAIL and trial.epochs:  # its values no longer count
            self._progress = search_end.Progress(self.trials, self._journal.list_epochs())
        else:
            self._progress.add_end(trial)
        if trial.architecture in self._candidates:
            self._candidates[trial.architecture].end(trial)
        for listener in self._listeners:
            listener.on_end(trial)

    def _replay(self) -> None:
        """Replay the journal into samplers and schedulers, and queue the unfinished trials."""
        own = [trial for trial in self.trials if not (trial.is_foreign or trial.waits)]
        for trial in own:
            self._candidates[trial.architecture].start(trial, is_first=trial.number in self._first)
        stops: dict[int, bool] = {}
        epochs = self._journal.list_epochs()
        self._progress = search_end.Progress(self.trials, epochs)
        for number, epoch in epochs:
            stops[number] = self._ask_scheduler(self.trials[number], epoch)
        for trial in self.trials:
            if trial.waits:
                self._waiting.append(trial)
            elif trial.state is not State.RUNNING:
                if not trial.is_foreign:
                    self._candidates[trial.architecture].end(trial)
            elif not self._end_if_due(trial, stop=stops.get(trial.number, False)):
                self._waiting.append(trial)
