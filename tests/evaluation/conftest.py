"""Two worlds, trained once for all tests of the evaluation."""

import polars as pl
import pytest

from recsys.bundle import Bundle
from recsys.evaluation.split import split
from recsys.logs import Log, log_from_frame
from recsys.training import train
from tests.synthetic import small_config, two_worlds


def trained(frame: pl.DataFrame) -> tuple[Bundle, Log]:
    """A bundle of all but the last quarter, and that quarter."""
    parts = split(log_from_frame(frame), "25%")
    return train(parts.train, small_config()), parts.test


@pytest.fixture(scope="session")
def anonymous() -> tuple[Bundle, Log]:
    """Two worlds without users."""
    return trained(two_worlds(240))


@pytest.fixture(scope="session")
def known() -> tuple[Bundle, Log]:
    """Two worlds of ten users."""
    return trained(two_worlds(240, known=True))
