"""The one prediction function."""

import dataclasses
import itertools

import numpy as np
import polars as pl
import pytest

from recsys import retrieval
from recsys.bundle import Bundle
from recsys.config import Config, Placement
from recsys.events import Event, InputError
from recsys.logs import log_from_frame
from recsys.recommend import Request, UnknownPlacementError, recommend, similar
from recsys.session import Session
from recsys.training import train
from tests.synthetic import checkerboard, log_frame, small_config
from tests.test_training import RANKED, circle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(checkerboard(), small_config())


def session_of(*items: str, type_: str = "view", user: str | None = None) -> Session:
    events = [Event(type_, "s", item, timestamp=float(k)) for k, item in enumerate(items)]
    return Session.from_events(events, user_id=user)


def sides(items: list[str]) -> set[int]:
    return {int(item[1:]) % 2 for item in items}


def test_the_session_decides_the_side(bundle: Bundle) -> None:
    """A stranger who views two even items gets even items."""
    answer = recommend(bundle, session_of("i2", "i4"), Request(n=5))
    assert answer.tier == "session"
    assert sides(answer.item_ids) == {0}
    assert answer.scores == sorted(answer.scores, reverse=True)
    assert answer.bundle == bundle.version


def test_the_latest_click_wins_over_history(bundle: Bundle) -> None:
    """A user of the even side who now views odd items gets odd items."""
    request = Request(n=3, placement="discover")
    usual = recommend(bundle, Session(user_id="u0"), request)
    assert usual.tier == "batch"
    now = recommend(bundle, session_of("i1", "i3", "i5", user="u0"), request)
    assert sides(now.item_ids) == {1}


def test_a_known_user_without_session_gets_their_side(bundle: Bundle) -> None:
    """The batch tier answers from history."""
    answer = recommend(bundle, Session(user_id="u1"), Request(n=5, placement="continue"))
    assert answer.tier == "batch"
    assert sides(answer.item_ids) == {1}


def test_a_stranger_gets_popular_items_those_of_late_first() -> None:
    """Nothing known: what is popular at the log's end leads, then what was popular before."""
    order = ["old"] * 60 + ["rare"] * 5 + ["new"] * 5
    rows = [{"session_id": f"s{k}", "item_id": i} for k, i in enumerate(order) for _ in range(2)]
    answer = recommend(train(log_frame(rows), small_config()), Session(), Request(n=3))
    assert answer.tier == "popular"
    assert answer.item_ids == ["new", "old", "rare"]
    assert answer.reasons == ["recent", "popularity", "popularity"]


def test_the_end_of_a_log_in_order_of_users_is_not_its_latest_part() -> None:
    """Without times and with one session a user, the last rows are only the last users."""
    rows = [{"user": f"u{k}", "item": "old"} for k in range(60)]
    rows += [{"user": f"u{k}", "item": "new"} for k in range(60, 70)]
    both = {"user_id": "user", "session_id": "user", "item_id": "item"}
    bundle = train(log_from_frame(pl.DataFrame(rows), columns=both), small_config())
    assert recommend(bundle, Session(), Request(n=2)).item_ids == ["old", "new"]


def test_unknown_items_and_users_are_ignored(bundle: Bundle) -> None:
    """A session of items the bundle never saw is a stranger's."""
    answer = recommend(bundle, session_of("new", "newer", user="nobody"), Request(n=4))
    assert answer == dataclasses.replace(
        recommend(bundle, Session(), Request(n=4)), timings=answer.timings
    )


def test_what_may_not_be_shown_is_not(bundle: Bundle) -> None:
    """Excluded, carted, rejected and anchor items are out."""
    events = [
        Event("view", "s", "i2", timestamp=1),
        Event("cart", "s", "i4", timestamp=2),
        Event("dislike", "s", "i6", timestamp=3),
    ]
    session = Session.from_events(events)
    request = Request(n=20, exclude=("i8", "unknown"), item_id="i10")
    items = recommend(bundle, session, request).item_ids
    assert not {"i4", "i6", "i8", "i10"} & set(items)
    assert "i2" in items
    assert len(items) == 20 - 4


def test_old_events_still_keep_items_out(bundle: Bundle) -> None:
    """Sixty views later a purchase, a cart and a dislike still hold."""
    done = [Event(t, "s", f"i{k}") for k, t in enumerate(("cart", "purchase", "dislike"))]
    views = [Event("view", "s", f"i{5 + k % 9}", timestamp=1.0 + k) for k in range(60)]
    session = Session.from_events([*done, *views])
    assert not {"i0", "i1", "i2"} & set(recommend(bundle, session, Request(n=20)).item_ids)


def test_an_earlier_sessions_dislike_holds_until_the_item_is_sought(bundle: Bundle) -> None:
    """What a known user disliked last time is out, unless this session touches it."""
    disliked = Event("dislike", "before", "i4", user_id="u0", timestamp=1)
    now = [Event("view", "s", "i2", timestamp=2)]
    again = [*now, Event("view", "s", "i4", timestamp=3)]

    def shown(events: list[Event]) -> list[str]:
        session = Session.from_events(events, [disliked], user_id="u0")
        return recommend(bundle, session, Request(n=20, placement="continue")).item_ids

    assert "i4" not in shown(now)
    assert "i4" in shown(again)


def test_scores_are_always_numbers() -> None:
    """Ratings too small for single precision neither train nor rank anything."""
    rows = [{"session_id": s, "item_id": i} for s in "pq" for i in "abc"]
    tiny = {"session_id": "p", "item_id": "d", "type": "rating", "value": 1e-50}
    bundle = train(log_frame([*rows, tiny]), small_config())
    session = Session.from_events([Event("rating", "s", "a", value=1e-50)])
    assert np.isfinite(recommend(bundle, session, Request(n=9)).scores).all()
    assert "d" not in bundle.items


def test_a_short_catalogue_is_shown_whole(bundle: Bundle) -> None:
    """Fewer than n come back only when fewer may be shown."""
    everything = recommend(bundle, session_of("i2"), Request(n=1000))
    assert sorted(everything.item_ids) == sorted(bundle.items.ids(range(20)))
    unseen = recommend(bundle, session_of("i2"), Request(n=1000, placement="discover"))
    assert len(unseen.item_ids) == 19


def test_placements_differ_in_what_they_exclude() -> None:
    """`discover` leaves out all that was touched or bought, `continue` nothing."""
    rows = [
        {"session_id": "x", "user_id": "u", "item_id": i, "type": "purchase"} for i in "abc"
    ] + [{"session_id": s, "item_id": i} for s in "pqr" for i in "abcdef"]
    bundle = train(log_frame(rows), small_config())
    session = session_of("d", user="u")

    def shown(placement: str) -> set[str]:
        return set(recommend(bundle, session, Request(n=9, placement=placement)).item_ids)

    assert shown("continue") == set("abcdef")
    assert shown("discover") == set("ef")
    # Nobody bought anything twice here, so "auto" leaves out what was bought.
    assert shown("default") == set("def")


def test_where_people_buy_again_bought_items_may_return() -> None:
    """With repeat purchases in the log, `auto` keeps bought items in the lists."""
    rows = [
        {"session_id": f"{s}", "user_id": "u", "item_id": i, "type": "purchase"}
        for s in range(3)
        for i in "ab"
    ]
    bundle = train(log_frame(rows), small_config())
    assert not bundle.facts.exclude_bought
    assert set(recommend(bundle, Session(user_id="u"), Request()).item_ids) == {"a", "b"}


def test_an_explained_blend_is_the_sum_of_its_parts(bundle: Bundle) -> None:
    """explain names every source; without a ranker their parts add up to the score."""
    answer = recommend(bundle, session_of("i2"), Request(n=5, explain=True))
    for score, parts, reason in zip(answer.scores, answer.features, answer.reasons, strict=True):
        assert score == pytest.approx(sum(parts.values()), rel=1e-6)
        assert parts[reason] == max(parts.values())


def test_similar_items_are_of_the_same_side(bundle: Bundle) -> None:
    """Neighbours of an odd item are odd, and the item itself is not among them."""
    answer = similar(bundle, "i3", 5)
    assert sides(answer.item_ids) == {1}
    assert "i3" not in answer.item_ids
    with pytest.raises(KeyError):
        similar(bundle, "nothing", 5)


def test_an_unknown_placement_is_named(bundle: Bundle) -> None:
    """The error suggests the near name."""
    with pytest.raises(UnknownPlacementError, match="did you mean 'discover'"):
        recommend(bundle, Session(), Request(placement="discovery"))


def test_the_same_question_has_the_same_answer(bundle: Bundle) -> None:
    """Two calls differ in nothing but their timings."""
    one, two = (recommend(bundle, session_of("i2", "i7"), Request()) for _ in range(2))
    assert one.item_ids == two.item_ids
    np.testing.assert_array_equal(one.scores, two.scores)
    assert set(one.timings) == {"fold_in", "rules", "rank", "select"}


@pytest.mark.parametrize("source", retrieval.SOURCES)
def test_a_placement_may_be_one_source_in_its_own_order(source: str) -> None:
    """What the source proposes comes first, popular items fill the list."""
    own = Placement(exclude=(), exclude_bought="never", ranking=source)
    bundle = train(checkerboard(), dataclasses.replace(small_config(), placements={"default": own}))
    session = session_of("i2", "i4", user="u0")
    answer = recommend(bundle, session, Request(n=12))
    who = retrieval.profile(bundle, session)
    proposed, _ = retrieval.SOURCES[source](bundle, who, 12)
    assert answer.item_ids[: len(proposed)] == bundle.items.ids(proposed)
    assert len(answer.item_ids) == 12
    assert set(answer.reasons) == {source}


@pytest.fixture(scope="module")
def ranked() -> Bundle:
    return train(circle(), small_config(**RANKED))


@pytest.fixture(params=["blend", "ranker"])
def either(request: pytest.FixtureRequest) -> Bundle:
    """A bundle whose lists the blend ranks, and one whose lists a forest ranks."""
    name = "bundle" if request.param == "blend" else "ranked"
    found: Bundle = request.getfixturevalue(name)
    assert bool(len(found.forest.leaves)) == (request.param == "ranker")
    return found


PLACEMENTS = list(Config().placements)
EVERY_WAY = [(name, diversity) for name in PLACEMENTS for diversity in (None, 0.7)]


@pytest.mark.parametrize(("placement", "diversity"), EVERY_WAY)
def test_nothing_known_of_a_session_is_no_session(
    either: Bundle, placement: str, diversity: float | None
) -> None:
    """Unknown items and unknown anchors leave a full list, the one a stranger gets."""
    wanted = Request(n=6, placement=placement, diversity=diversity)
    stranger = recommend(either, Session(), wanted)
    assert len(stranger.item_ids) == 6
    for session in (Session(), session_of("new", "newer")):
        answer = recommend(either, session, dataclasses.replace(wanted, item_id="newest"))
        assert answer == dataclasses.replace(stranger, timings=answer.timings)


@pytest.mark.parametrize(("placement", "diversity"), EVERY_WAY)
def test_more_than_there_is_gives_all_that_may_be_shown(
    either: Bundle, placement: str, diversity: float | None
) -> None:
    """n beyond the catalogue gives each item once, less what the placement takes out."""
    session = session_of("i2", "i4")
    wanted = Request(n=1000, placement=placement, diversity=diversity, item_id="i6")
    answer = recommend(either, session, wanted)
    out = {"i6"} | ({"i2", "i4"} if placement in ("discover", "basket") else set())
    assert sorted(answer.item_ids) == sorted(set(either.items.ids(range(len(either.items)))) - out)
    assert np.isfinite(answer.scores).all()


@pytest.mark.parametrize(("placement", "diversity"), EVERY_WAY)
def test_with_everything_out_the_list_is_empty(
    either: Bundle, placement: str, diversity: float | None
) -> None:
    """An empty list is an answer, with its tier and no error."""
    everything = tuple(either.items.ids(range(len(either.items))))
    wanted = Request(placement=placement, diversity=diversity, exclude=everything, explain=True)
    for session in (Session(), session_of("i2", "new")):
        answer = recommend(either, session, wanted)
        assert (answer.item_ids, answer.scores, answer.reasons) == ([], [], [])


def test_a_basket_is_completed(bundle: Bundle, ranked: Bundle) -> None:
    """`basket` gives what goes with the session and the item shown, and neither of them."""
    basket = session_of("i2", type_="cart")
    for anchor in (None, "i4"):
        answer = recommend(bundle, basket, Request(n=4, placement="basket", item_id=anchor))
        assert sides(answer.item_ids) == {0}
        assert not {"i2", anchor} & set(answer.item_ids)
    onwards = recommend(ranked, basket, Request(n=2, placement="basket", item_id="i3"))
    assert onwards.item_ids[0] == "i4"
    assert not {"i2", "i3"} & set(onwards.item_ids)


def test_an_items_page_needs_no_session_for_its_basket(bundle: Bundle, ranked: Bundle) -> None:
    """The item on the page alone says what goes with it."""
    wanted = Request(n=4, placement="basket", item_id="i3")
    answer = recommend(bundle, Session(), wanted)
    assert (answer.tier, sides(answer.item_ids)) == ("session", {1})
    answer = recommend(ranked, Session(), wanted)
    assert (answer.tier, answer.item_ids[0]) == ("ranker", "i4")
    assert "i3" not in answer.item_ids


def test_what_was_bought_before_goes_with_a_basket() -> None:
    """Where nobody buys twice `default` leaves out what was bought; `basket` may show it."""
    bought = {"session_id": "x", "user_id": "u", "item_id": "b", "type": "purchase"}
    views = [{"session_id": s, "item_id": i} for s in "pqr" for i in "abc"]
    bundle = train(log_frame([bought, *views]), small_config())

    def shown(placement: str) -> set[str]:
        session = session_of("a", type_="cart", user="u")
        return set(recommend(bundle, session, Request(n=9, placement=placement)).item_ids)

    assert shown("default") == {"c"}
    assert shown("basket") == {"b", "c"}


def alike(bundle: Bundle, items: list[str]) -> float:
    """Mean cosine of the pairs in a list."""
    vectors = bundle.session_embedding.item_vectors
    if not len(vectors):
        vectors = bundle.embedding.item_factors
    chosen = vectors[bundle.items.rows(items)].astype(float)
    chosen /= np.linalg.norm(chosen, axis=1, keepdims=True)
    return float(np.mean((chosen @ chosen.T)[np.triu_indices(len(items), 1)]))


def test_diversity_makes_lists_less_alike(either: Bundle) -> None:
    """Each step leaves lists on average no more alike, and the last much less than the first.

    But for a hundredth: a greedy choice that is best at each place need not be best in all.
    """
    steps = [
        np.mean(
            [
                alike(either, recommend(either, session_of(f"i{k}"), wanted).item_ids)
                for k in range(12)
            ]
        )
        for wanted in (Request(n=4, diversity=d) for d in (0.0, 0.25, 0.5, 0.75, 1.0))
    ]
    assert all(later <= before + 0.01 for before, later in itertools.pairwise(steps)), steps
    assert steps[-1] < steps[0] - 0.05


def test_a_diverse_list_keeps_the_rankings_own_scores(either: Bundle) -> None:
    """Items move, the best stays first, and each brings the score that it has without."""
    session = session_of("i2", "i3")
    everything = recommend(either, session, Request(n=1000))
    own = dict(zip(everything.item_ids, everything.scores, strict=True))
    diverse = recommend(either, session, Request(n=6, diversity=0.8))
    assert diverse.item_ids != everything.item_ids[:6]
    assert diverse.item_ids[0] == everything.item_ids[0]
    assert diverse.scores == pytest.approx([own[item] for item in diverse.item_ids])


def test_a_request_overrides_its_placements_diversity(bundle: Bundle) -> None:
    """The placement's diversity holds where the request names none; 0 is a wish too."""
    varied = {**bundle.config.placements, "varied": Placement(diversity=0.8)}
    config = dataclasses.replace(bundle.config, placements=varied)
    chosen = dataclasses.replace(bundle, config=config)

    def shown(placement: str, diversity: float | None) -> list[str]:
        wanted = Request(n=6, placement=placement, diversity=diversity)
        return recommend(chosen, session_of("i2", "i3"), wanted).item_ids

    assert shown("varied", None) == shown("default", 0.8) != shown("default", None)
    assert shown("varied", 0.0) == shown("default", None)
    assert shown("varied", 0.3) == shown("default", 0.3)


@pytest.mark.parametrize("diversity", [-0.1, 1.1, float("nan")])
def test_a_diversity_beyond_its_bounds_is_refused(bundle: Bundle, diversity: float) -> None:
    """The error names the field, its bounds and what was given."""
    with pytest.raises(InputError, match="diversity: must be from 0 to 1, got"):
        recommend(bundle, Session(), Request(diversity=diversity))


def test_a_list_without_any_source_is_the_popular_one(ranked: Bundle) -> None:
    """A placement whose sources are all off still answers, and names popularity as the reason."""
    retrieval_off = dataclasses.replace(ranked.config.retrieval, recent=0)
    placements = {"bare": Placement(exclude=(), sources=("recent",))}
    config = dataclasses.replace(ranked.config, retrieval=retrieval_off, placements=placements)
    bare = dataclasses.replace(ranked, config=config)
    answer = recommend(bare, session_of("i2"), Request(n=5, placement="bare"))
    assert len(answer.item_ids) == 5
    assert set(answer.reasons) == {"popular"}
