from search.config.search import SearchConfig
from search.schedulers.scheduler import SCHEDULERS


def make_median(grace_epochs=2):
    return SCHEDULERS["median"](SearchConfig(scheduler="median", max_epochs=9, grace_epochs=grace_epochs), "cnn")


def test_the_median_stops_no_trial_before_the_grace_epochs_or_without_peers():
    median = make_median()
    assert not any(median.report(number, 1, 1.0 - number) for number in range(10))
    assert not any(median.report(number, 2, 1.0 - number) for number in range(5))
    assert median.report(5, 2, -5.0)


def test_the_median_compares_the_best_so_far_with_the_averages_of_the_others():
    median = make_median()
    for number in range(5):
        median.report(number, 1, 0.2)
        median.report(number, 2, 0.6)
    assert not median.report(5, 1, 0.4)
    assert not median.report(5, 2, 0.1)  # its best, 0.4, ties with the average of 0.2 and 0.6
    assert not median.report(6, 1, 0.3)
    assert median.report(6, 2, 0.3)


def test_the_median_lets_a_tie_continue():
    median = make_median(grace_epochs=1)
    assert not any(median.report(number, epoch, 0.5) for epoch in range(1, 9) for number in range(12))
