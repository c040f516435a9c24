import pytest

from search.config.rungs import list_brackets, list_rungs
from search.config.search import SearchConfig


@pytest.mark.parametrize(
    ("grace", "factor", "max_epochs", "rungs"),
    [
        (1, 3, 27, [1, 3, 9]),
        (1, 3, 28, [1, 3, 9, 27]),
        (2, 2, 5, [2, 4]),
        (5, 3, 5, []),
        (1, 1.5, 6, [1, 2, 3, 4]),
        (1, 2, 1, []),
    ],
)
def test_rungs_are_grace_times_powers_of_the_factor_below_the_last_epoch(grace, factor, max_epochs, rungs):
    assert list_rungs(grace, factor, max_epochs) == rungs


def test_hyperband_gives_its_brackets_the_same_epochs():
    assert [first for first, _ in list_brackets(1, 3, 9)] == [1, 3, 9]
    assert [share for _, share in list_brackets(1, 3, 9)] == pytest.approx([3 / 5.5, 1.5 / 5.5, 1 / 5.5])
    assert list_brackets(5, 3, 5) == [(5, 1.0)]


@pytest.mark.parametrize(
    ("search", "rungs"),
    [
        ({"max_epochs": 52}, [18, 18]),
        ({"max_epochs": 52, "max_total_epochs": 20 * 52}, [18, 18]),
        ({"max_epochs": 52, "max_total_epochs": 20 * 52 - 1}, [6, 6]),
        ({"max_epochs": 52, "max_total_epochs": 20 * 52 - 1, "grace_epochs": None}, [18, 18]),
        ({"max_epochs": 52, "max_total_epochs": 20 * 52 - 1, "grace_epochs": 5}, [5, 5]),
        ({"max_epochs": 52, "max_total_epochs": 20 * 52 - 1, "scheduler": "median"}, [18, 18]),
        ({"max_epochs": 52, "max_total_epochs": 20 * 52 - 1, "scheduler": "hyperband"}, [1, 1]),
        ({"max_epochs": 30, "max_total_epochs": 475, "shares": {"cnn": 100, "resnet50": 30}}, [10, 4]),
        ({"max_epochs": {"cnn": 20, "resnet50": 10}, "max_total_epochs": 300}, [3, 4]),
        ({"max_epochs": 1, "max_total_epochs": 1}, [1, 1]),
    ],
)
def test_the_first_rung_is_lower_where_an_architecture_has_fewer_than_ten_whole_trainings(search, rungs):
    search = SearchConfig(**search)
    assert [search.find_first_rung(name) for name in search.architectures] == rungs


def test_an_architecture_of_an_earlier_configuration_has_a_rung_too():
    search = SearchConfig(architectures=("cnn",), max_epochs=9, max_total_epochs=45, shares={"cnn": 2})
    assert search.find_first_rung("mine:Vit") == search.find_first_rung("cnn") == 1
