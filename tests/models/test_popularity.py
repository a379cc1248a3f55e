"""Popularity: what is counted of items without a visitor."""

import numpy as np

from recsys.models import popularity
from tests.models.test_sources import sequences


def test_kinds_are_what_a_plain_count_gives() -> None:
    """Share and late events of strangers, late events of long sessions, length, decayed sum."""
    rng = np.random.default_rng(7)
    sessions = [rng.integers(0, 6, rng.integers(1, 9)).tolist() for _ in range(80)]
    strangers = rng.random(80) < 0.4
    counts = np.sort(rng.random(6).astype(np.float32))[::-1]
    kinds = popularity.fit(sequences(*sessions), strangers, counts).kinds
    events = [
        (item, stranger, len(session))
        for session, stranger in zip(sessions, strangers.tolist(), strict=True)
        for item in session
    ]
    shared = np.mean([stranger for _, stranger, _ in events])
    usual = np.mean([np.log(length) for *_, length in events])
    half = np.median([length for *_, length in events])
    for item in range(6):
        own = [
            (stranger, length, (len(events) - place - 1) / len(events))
            for place, (row, stranger, length) in enumerate(events)
            if row == item
        ]
        late = [(stranger, length) for stranger, length, after in own if after < popularity.LATE]
        total = len(own) + popularity.PRIOR
        truth = [
            (sum(stranger for stranger, *_ in own) + popularity.PRIOR * shared) / total,
            np.log1p(sum(stranger for stranger, _ in late)),
            np.log1p(sum(length > half for _, length in late)),
            (sum(np.log(length) for _, length, _ in own) + popularity.PRIOR * usual) / total,
            np.log1p(sum(np.exp(-popularity.LATEST * after) for *_, after in own)),
        ]
        np.testing.assert_allclose(kinds[item], truth, rtol=1e-5)
