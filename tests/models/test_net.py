"""The net beside the forest: what it learns, how its scores are made."""

import dataclasses

import numpy as np
import pytest

from recsys.config import RankerConfig
from recsys.models import net

CONFIG = RankerConfig(net_weight=1.0, net_units=8)


def data(seed: int, requests: int = 1_500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Requests of which the candidate is wanted that is near 1 in one feature and high in another:
    no sum of the two tells it. The third has one value, the fourth is a rank of thousands."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(2, 30, requests)
    table = rng.normal(size=(groups.sum(), 4)).astype(np.float32)
    table[:, 2] = 3
    table[:, 3] = rng.integers(0, 5_000, len(table))
    labels = np.zeros(len(table), dtype=np.int8)
    ends = np.cumsum(groups)
    for start, end in zip(ends - groups, ends, strict=True):
        worth = 0.5 * table[start:end, 1] - np.abs(table[start:end, 0] - 1)
        labels[start + worth.argmax()] = 1
    return table, labels, groups


def firsts(model: net.Net, seed: int) -> float:
    """How many of other requests have what is wanted first."""
    table, labels, groups = data(seed)
    scores = net.scores(model, np.ascontiguousarray(table.T))
    ends = np.cumsum(groups)
    right = [
        labels[start + scores[start:end].argmax()]
        for start, end in zip(ends - groups, ends, strict=True)
    ]
    return float(np.mean(right))


def test_it_learns_what_no_sum_of_features_tells() -> None:
    """What is wanted comes first in most requests that it has not seen; each step is told of."""
    ticks: list[int] = []
    model = net.fit(*data(1), CONFIG, 1, lambda: ticks.append(1))
    assert len(ticks) == net.steps(CONFIG, 1_500) == 40 * 12
    assert firsts(model, 2) > 0.6  # by chance it would be .1


def test_it_goes_through_few_requests_more_often() -> None:
    """As many steps as many requests take, but no request too often; many as often as is said."""
    assert net.epochs(CONFIG, 1) == net.epochs(CONFIG, 1_500) == net.MOST_EPOCHS
    assert net.epochs(CONFIG, 15_000) == 20
    assert net.epochs(CONFIG, 10**6) == CONFIG.net_epochs


def test_scores_are_those_of_the_layers() -> None:
    """What the compiled code gives is what plain sums of the same weights give."""
    table, labels, groups = data(1)
    model = net.fit(table, labels, groups, CONFIG, 1)
    inputs = table[:, model.features].astype(np.float64)
    size = 1 + np.abs(inputs) / model.unit
    exponent = np.floor(np.log2(size))
    logarithm = np.sign(inputs) * (exponent + size / 2**exponent - 1)
    values = np.clip((logarithm - model.centre) / model.spread, -net.LIMIT, net.LIMIT)
    for weights in (model.inner, model.outer):
        sums = values @ weights[:-1] + weights[-1]
        values = np.maximum(sums, net.LEAK * sums)
    scores = net.scores(model, np.ascontiguousarray(table.T))
    np.testing.assert_allclose(scores, values @ model.last, atol=1e-3)


def test_a_score_does_not_depend_on_the_other_candidates() -> None:
    """Whichever of them stand beside it, in whatever number, it is the same to the bit."""
    table, labels, groups = data(1)
    model = net.fit(table, labels, groups, CONFIG, 1)
    whole = net.scores(model, np.ascontiguousarray(table[:100].T))
    for rows in (np.arange(7), np.arange(3, 40), np.array([99]), np.arange(99, -1, -1)):
        part = net.scores(model, np.ascontiguousarray(table[rows].T))
        assert part.tobytes() == whole[rows].tobytes()


def test_the_same_data_and_seed_give_the_same_net() -> None:
    """To the bit; another seed gives another."""
    one, same, other = (net.fit(*data(1), CONFIG, seed) for seed in (1, 1, 2))
    for field in dataclasses.fields(net.Net):
        assert getattr(one, field.name).tobytes() == getattr(same, field.name).tobytes()
    assert one.last.tobytes() != other.last.tobytes()


def test_its_weight_is_that_of_its_scores() -> None:
    """Half the weight, half of each score."""
    table = np.ascontiguousarray(data(1)[0].T)
    whole, half = (
        net.scores(net.fit(*data(1), dataclasses.replace(CONFIG, net_weight=weight), 1), table)
        for weight in (1.0, 0.5)
    )
    np.testing.assert_allclose(half, whole / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        (1.0, np.nextafter(np.float32(1), np.float32(2))),
        (1.7e9, 1.7e9 + 128),
        (np.nan, np.nan),
        (np.nan, 3.0),
        (np.inf, -np.inf),
        (np.inf, 3.0),
        (1e-40, 3e38),
    ],
)
def test_odd_values_of_a_feature_harm_no_other(values: tuple[float, float]) -> None:
    """Those that differ too little to tell, are no numbers or have no end: it learns all the same,
    and every score is a number."""
    table, labels, groups = data(1)
    table[:, 2] = np.where(np.arange(len(table)) % 3, *values)
    model = net.fit(table, labels, groups, CONFIG, 1)
    assert np.isfinite(net.scores(model, np.ascontiguousarray(table.T))).all()
    assert firsts(model, 2) > 0.6


def test_no_number_counts_as_nothing() -> None:
    """NaN is as 0, as it is to the trees."""
    table, labels, groups = data(1)
    model = net.fit(table, labels, groups, CONFIG, 1)
    other = table[:50].copy()
    other[:, 1] = 0
    wanted = net.scores(model, np.ascontiguousarray(other.T))
    other[:, 1] = np.nan
    assert net.scores(model, np.ascontiguousarray(other.T)).tobytes() == wanted.tobytes()


def test_requests_with_several_wanted_candidates() -> None:
    """They share what a request weighs: all of them come before most others."""
    table, labels, groups = data(1)
    ends = np.cumsum(groups)
    for start, end in zip(ends - groups, ends, strict=True):
        worth = 0.5 * table[start:end, 1] - np.abs(table[start:end, 0] - 1)
        labels[start:end] = worth >= np.sort(worth)[-2]
    model = net.fit(table, labels, groups, CONFIG, 1)
    scores = net.scores(model, np.ascontiguousarray(table.T))
    places = [
        np.argsort(np.argsort(-scores[start:end]))[labels[start:end] > 0].mean() / (end - start)
        for start, end in zip(ends - groups, ends, strict=True)
        if end - start > 10
    ]
    assert np.mean(places) < 0.15  # by chance it would be .5


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_without_a_feature_that_varies_there_is_none(value: float) -> None:
    """It says nothing of any candidate."""
    table, labels, groups = data(1)
    table[:] = value
    model = net.fit(table, labels, groups, CONFIG, 1)
    assert model is net.EMPTY
    assert not net.scores(model, np.ascontiguousarray(table.T)).any()


def test_a_feature_that_nearly_always_has_one_value_harms_nothing() -> None:
    """Where a value lies a million spreads off, it counts as five: scores stay numbers."""
    table, labels, groups = data(1)
    table[:, 2] = 0
    table[5, 2] = 1e9
    model = net.fit(table, labels, groups, CONFIG, 1)
    assert 2 in model.features
    assert np.isfinite(net.scores(model, np.ascontiguousarray(table.T))).all()
    assert firsts(model, 2) > 0.6
