import math

import pytest

from search.report.cells import format_duration


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0 ms"),
        (0.000123, "0.123 ms"),
        (0.0421, "42.1 ms"),
        (0.99949, "999 ms"),
        (0.9995, "1.0 s"),
        (12.34, "12.3 s"),
        (59.949, "59.9 s"),
        (59.95, "1 min"),
        (75.4, "1 min 15 s"),
        (3599.4, "59 min 59 s"),
        (3599.5, "1 h"),
        (7620, "2 h 7 min"),
        (86_369, "23 h 59 min"),
        (86_370, "1 d"),
        (270_000, "3 d 3 h"),
        (math.nan, ""),
        (math.inf, ""),
    ],
)
def test_a_duration_has_the_units_that_show_it(seconds, shown):
    assert format_duration(seconds) == shown
