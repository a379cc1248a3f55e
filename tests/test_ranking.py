"""The feature table."""

import numpy as np
import pytest

from recsys import ranking, retrieval
from recsys.bundle import Bundle
from recsys.training import train
from tests.synthetic import small_config
from tests.test_recommend import session_of
from tests.test_training import RANKED, circle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(circle(), small_config(**RANKED))


def test_a_source_that_is_not_asked_has_proposed_nothing(bundle: Bundle) -> None:
    """Its rank is the worst and its score 0, as the forest learned for what it did not find."""
    who = retrieval.profile(bundle, session_of("i2", "i3"))
    candidates = retrieval.retrieve(bundle, who, 0, ("transitions",))
    features = ranking.feature_table(bundle, who, candidates)
    table = dict(zip(bundle.facts.features, features, strict=True))
    assert set(table["session_knn_rank"]) == {bundle.config.retrieval.session_knn}
    assert set(table["session_knn_score"]) == {0}
    assert np.min(table["transitions_rank"]) == 0


def test_going_back_is_told_in_events(bundle: Bundle) -> None:
    """A visitor who went i3, i1, i2, i1 is back at i1 for the second time."""
    who = retrieval.profile(bundle, session_of("i3", "i1", "i2", "i1"))
    candidates = retrieval.retrieve(bundle, who, 0)
    features = ranking.feature_table(bundle, who, candidates)
    at = np.searchsorted(candidates.rows, bundle.items.rows(["i1", "i2", "i3"]))
    told = {
        name: row[at].tolist() for name, row in zip(bundle.facts.features, features, strict=True)
    }
    assert told["times_touched"] == [2, 1, 1]
    assert told["events_since_touched"] == [0, 1, 3]
    assert told["events_since_first_touched"] == [3, 2, 4]
    assert told["led_to_last"] == [0, 0, 1]
    assert told["followed_last"] == [0, 1, 0]
    assert told["late_repeats"] == [1, 1, 1]
    assert told["run"] == [1, 1, 1]
    assert told["events_since_last_visit"] == [2, 2, 2]
