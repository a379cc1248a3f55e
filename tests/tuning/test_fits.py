"""Fits of the head: what a trial asks is what training would serve."""

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.config import Config
from recsys.evaluation.split import EvaluationError
from recsys.interactions import Interactions, fold
from recsys.logs import Log, log_from_frame
from recsys.training import train
from recsys.tuning import space
from recsys.tuning.fits import FITS, Fits, Parts
from recsys.tuning.space import Setting, with_values
from tests.synthetic import returning, small_config

SETTINGS: dict[str, tuple[Setting, ...]] = {
    "transitions": space.TRANSITIONS,
    "session_knn": space.SESSION_KNN,
    "session_embedding": space.SESSION_EMBEDDING,
    "item_knn": space.ITEM_KNN,
    "embedding": space.EMBEDDING["als"] + space.EMBEDDING_PAST,
}
CONFIG = small_config(
    training={"threads": 1},
    ranker={"enabled": False},
    embedding={"model": "als", "embedding_size": 8, "epochs": 2},
    session_embedding={"embedding_size": 8, "negatives": 32, "epochs": 1},
)


@pytest.fixture(scope="module")
def log() -> Log:
    return log_from_frame(returning(30))


@pytest.fixture(scope="module")
def start(log: Log) -> Bundle:
    return train(log, CONFIG)


@pytest.fixture(scope="module")
def data(log: Log) -> Interactions:
    return fold(log.frame, CONFIG.events)


def test_every_fitted_table_is_covered_here() -> None:
    """A source that is new must be tested too."""
    assert set(SETTINGS) == set(FITS)


@pytest.mark.parametrize("table", SETTINGS)
def test_no_setting_is_asked_of_a_fit_with_another(
    table: str, start: Bundle, data: Interactions
) -> None:
    """Whatever one setting is changed to, and whatever is remembered, it is as freshly fitted."""
    fits = Fits(start, data)
    for setting in SETTINGS[table]:
        end = int(setting.low) if setting.whole else float(setting.low)
        config = with_values(CONFIG, {setting.name: end})
        tried = fits.bundle(config, table)
        fresh = vars(FITS[table](data, config, True)[table])
        for name, array in fresh.items():
            assert np.array_equal(vars(getattr(tried, table))[name], array), setting.name


def test_the_starts_own_fit_is_not_repeated(
    start: Bundle, data: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What training fitted is asked as it is, and a fit that is remembered is not made again."""
    made: list[str] = []
    original = FITS["transitions"]

    def counted(data: Interactions, config: Config, ordered: bool) -> Parts:
        made.append("transitions")
        return original(data, config, ordered)

    monkeypatch.setitem(FITS, "transitions", counted)
    fits = Fits(start, data)
    other = with_values(CONFIG, {"transitions.window": 3})
    for config in (CONFIG, other, with_values(other, {"transitions.decay": 0.3}), CONFIG):
        fits.bundle(config, "transitions")
    assert made == ["transitions"]


def test_events_that_the_start_was_not_trained_on_are_refused(start: Bundle, log: Log) -> None:
    """Fits on other events than those that precede the tail would tell of the future."""
    other = fold(log.frame.head(100), CONFIG.events)
    with pytest.raises(EvaluationError, match="not those that precede the tail"):
        Fits(start, other)
