"""Decides what to train, where, and for how long.

From Python, `search` searches a training function of the user, with `Range` and `Choice` for its parameters.
"""

from collections.abc import Callable, Mapping
from typing import Any


def __getattr__(name: str) -> Any:
    if name not in ("Choice", "Range"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from search.config import space  # with Optuna, which a command that needs none does not load

    return getattr(space, name)


def search(function: Callable[..., Any], space: Mapping[str, Any], *, name: str, **settings: Any) -> Any:
    """Search the parameters of a training function; the same call again continues where it was.

    Call it below `if __name__ == "__main__":`, since the workers import the function from its file.

    Args:
        function: A generator function at the top of a module. Its first argument is a `trainables.own.Run`; it yields a
            dict of metrics in each epoch.
        space: A `Range`, a `Choice` or a fixed value by the name of a parameter; others keep their defaults.
        name: Name of the study and of its folder.
        settings: Keys of the study (results, resources, cluster, tracking, storage) or of its `search` (metric, goal,
            num_trials, max_epochs, sampler, ...).

    Returns:
        The trials that have a value, the best first: see `params`, `epochs` and `get_peak()` of each.

    Raises:
        InputError: If the study cannot start; a script ends with one sentence and exit code 2 instead.
    """
    from search.run import search_function  # with Ray, which a worker that imports the user's module does not need here

    return search_function(function, space, name=name, **settings)
