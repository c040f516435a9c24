import pytest

from search.config.rungs import list_brackets, list_rungs


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
