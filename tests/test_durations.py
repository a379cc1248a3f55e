"""Durations as people write them."""

import pytest

from recsys.durations import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), (" 1.5 H ", 5400), ("2d", 172_800), ("1w", 604_800), ("0s", 0)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    """Units from seconds to weeks, spaces and capitals as people type them."""
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "1y", "-1h", "1h30m", "1,5h"])
def test_other_texts_are_none(text: str) -> None:
    """What is no duration is not guessed at."""
    assert seconds_of(text) is None
