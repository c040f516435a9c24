"""Decides what to train, where, and for how long.

From Python, `search` searches a training function of the user, with `Range` and `Choice` for its parameters.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def __getattr__(name: str) -> Any:
    if name not in ("Choice", "Range"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from search.config import space  # imports Optuna, which not every command needs

    return getattr(space, name)


def search(
    function: Callable[..., Any], space: Mapping[str, Any], *, name: str, accept_changes: bool = False, **settings: Any
) -> Any:
    """Search the parameters of a training function; the same call again continues the search.

    Call it below `if __name__ == "__main__":`, because the workers import the function from its file.

    Args:
        function: A generator function at the top of a module. Its first argument is a `trainables.own.Run`; it yields a
            dict of metrics in each epoch.
        space: A `Range`, a `Choice` or a fixed value by the name of a parameter; others keep their defaults.
        name: Name of the study and of its folder.
        accept_changes: Whether a study continues although settings or code differ.
        settings: Keys of the study (results, resources, cluster, tracking, storage) or of its `search` (metric, goal,
            num_trials, max_epochs, sampler, ...).

    Returns:
        The trials that have a value, the best first: each has `params`, `epochs` and `get_peak()`.

    Raises:
        InputError: If the study cannot start; a script ends with one sentence and exit code 2 instead.
    """
    from search.commands.terminal import build_console
    from search.config.code import locate, take_function
    from search.config.load import parse
    from search.config.schema import StudyConfig
    from search.config.space import Choice, Range
    from search.record.trial import rank_trials
    from search.run import run_search  # imports Ray, which a worker that imports the user's module does not need

    is_script = not inspect.isfunction(function) or function.__module__ == "__main__"
    with _end_script() if is_script else contextlib.nullcontext():
        module, folder = locate(function)
        trainable = f"{module}:{function.__name__}"
        take_function(trainable, function)
        known = {field.name for field in dataclasses.fields(StudyConfig)}
        values = {key: value for key, value in settings.items() if key in known}
        specs = {
            key: dataclasses.asdict(spec) if isinstance(spec, Range | Choice) else spec for key, spec in space.items()
        }
        values |= {"name": name, "trainable": trainable, "code": str(folder), "space": {function.__name__: specs}}
        values["search"] = {key: value for key, value in settings.items() if key not in known}
        study = run_search(parse(values), build_console(), resume=True, accept_changes=accept_changes, plain=False)
        return rank_trials(study.trials)


@contextlib.contextmanager
def _end_script() -> Iterator[None]:
    """End a script as a command ends: one sentence and an exit code."""
    import typer

    from search.commands.terminal import explain_errors

    try:
        with explain_errors("the same script"):
            yield
    except typer.Exit as end:
        raise SystemExit(end.exit_code) from None
