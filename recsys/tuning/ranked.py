"""Ranked: the pipeline with its ranker, trained on the head again and again over the same sources.

A trial changes how many candidates the sources give, what continuations compare and how the ranker
is trained; the sources themselves are fitted once, as training fits them.
"""

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from rich.progress import Progress

from recsys import features, training
from recsys.bundle import Bundle
from recsys.config import Config
from recsys.logs import Log

# Requests of the latest tail that the ranker of a trial learns from, at most: a third of them puts
# configurations in the same order in a third of the time.
REQUESTS = 10_000
REMEMBERED = 3  # tables of examples, and bundles


class Ranked:
    """Bundles of one head whose sources are fitted as ``config`` says."""

    def __init__(self, head: Log, config: Config, progress: Progress | None = None) -> None:
        stages = training.Stages(progress)
        latest = training.tails(head, config)[0]
        self.before = training.fit_sources(latest.train, config, stages, "tail1_")
        self.tail = latest.test
        self.whole = training.fit_sources(head, config, stages, "")
        self._examples: OrderedDict[Any, training.Examples] = OrderedDict()
        self._bundles: OrderedDict[Any, Bundle] = OrderedDict()

    def bundle(self, config: Config) -> Bundle:
        """What training gives for another [retrieval], [ranker], and context of [continuations]."""
        key = (config.retrieval, config.continuations, config.ranker)
        if key not in self._bundles:
            self._bundles[key] = self._trained(config)
            if len(self._bundles) > REMEMBERED:
                self._bundles.popitem(last=False)
        return self._bundles[key]

    def _trained(self, config: Config) -> Bundle:
        examples = self._examples_of(config)
        if len(examples.groups) < training.fewest(config):
            return replace(self.whole, config=config)  # too few candidates: the blend ranks
        # Questions are asked in any order, and aggregates go forward only.
        ranker = training.learn(examples, config, without=features.live_features(config.aggregate))
        facts = replace(self.whole.facts, features=ranker.features, openings=ranker.openings)
        return replace(self.whole, config=config, forest=ranker.forest, net=ranker.net, facts=facts)

    def _examples_of(self, config: Config) -> training.Examples:
        key = (config.retrieval, config.continuations)
        if key not in self._examples:
            few = replace(config.ranker, requests=min(config.ranker.requests, REQUESTS), tails=1)
            config = replace(config, ranker=few)
            before = replace(self.before, config=config)
            self._examples[key] = training.replayed(before, self.tail, config)
            if len(self._examples) > REMEMBERED:
                self._examples.popitem(last=False)
        return self._examples[key]
