import random

import pytest

from search.config.search import SearchConfig
from search.schedulers.scheduler import SCHEDULERS


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_replaying_the_journal_rebuilds_any_scheduler(name):
    search = SearchConfig(scheduler=name, max_epochs=9)
    draw = random.Random(0)
    record = [(number, epoch, draw.random()) for epoch in range(1, 9) for number in range(12)]
    straight, rebuilt = SCHEDULERS[name](search, "cnn"), SCHEDULERS[name](search, "cnn")
    for row in record[:50]:
        straight.report(*row)
        rebuilt.report(*row)
    assert [straight.report(*row) for row in record[50:]] == [rebuilt.report(*row) for row in record[50:]]


def test_the_scheduler_none_stops_no_trial():
    scheduler = SCHEDULERS["none"](SearchConfig(scheduler="none"), "cnn")
    assert not any(scheduler.report(number, 1, -number) for number in range(10))
