import pytest

from search.config import parse
from search.plan import estimate_epochs


def test_the_estimate_counts_all_epochs_of_trials_that_are_spared():
    search = {"num_trials": 10, "max_epochs": 9, "spare_first": True, "first": ["a"], "grace_epochs": 1}
    study = parse({"name": "x", "search": search, "recipes": [{"architecture": "cnn"}]})
    assert estimate_epochs(study) == (9 + 9 * 1 + 3 * 2 + 1 * 6, 90)


@pytest.mark.parametrize(
    ("search", "epochs"),
    [
        ({"num_trials": 9, "max_epochs": 9, "scheduler": "none"}, (81, 81)),
        ({"num_trials": 9, "max_epochs": 9, "grace_epochs": 1}, (9 * 1 + 3 * 2 + 1 * 6, 81)),
        ({"num_trials": 9, "max_epochs": 9}, (9 * 3 + 3 * 6, 81)),
        ({"num_trials": 9, "max_epochs": 9, "scheduler": "asha", "max_total_epochs": 12}, (12, 12)),
        ({"num_trials": 2, "max_epochs": 9, "grace_epochs": 1}, (2 + 2 + 6, 18)),
        ({"num_trials": 11, "max_epochs": 9, "scheduler": "hyperband"}, ((6 + 2 * 2 + 6) + (3 * 3 + 6) + 2 * 9, 99)),
        ({"num_trials": 9, "max_epochs": 9, "scheduler": "median"}, (81, 81)),
    ],
)
def test_the_estimate_lets_one_in_reduction_factor_survive_each_rung(search, epochs):
    assert estimate_epochs(parse({"name": "x", "search": search})) == epochs
