"""The judge of read-your-clicks, without a server."""

from pathlib import Path
from typing import Any

import pytest

from api.freshness_check import Tally, _judge, _Visit, main

Shown = dict[str, Any]


def shown(*items: str, version: int = 4, tier: str = "ranker", shift: float = 0.0) -> Shown:
    """A list as the API answers it."""
    return {
        "items": [
            {"item_id": item, "score": 1.0 - rank / 10 + shift, "rank": rank}
            for rank, item in enumerate(items, 1)
        ],
        "session_version": version,
        "tier": tier,
    }


def judged(answer: Shown, gone: bool = True) -> str | None:
    """What is said of a list after `a` went into the cart as the fourth event."""
    tally = Tally()
    visit = _Visit("s", "basket", 10, gone, tally)
    _judge(visit, shown("a", "b", "c", version=3), answer, "a", version=4)
    assert tally.checked == 1
    assert (tally.stale == 0) == (tally.example is None)
    return tally.example


def test_a_list_that_shows_the_click_is_fine() -> None:
    """The item is gone where it must be; elsewhere a moved score is enough; later is fine too."""
    assert judged(shown("b", "c", "d")) is None
    assert judged(shown("b", "c", "d", version=9, tier="session")) is None
    assert judged(shown("a", "b", "c", shift=0.1), gone=False) is None


@pytest.mark.parametrize(
    ("answer", "gone", "flaw"),
    [
        (shown("b", "c", "d", version=3), True, "is of version 3"),
        (shown("b", "c", "d", tier="batch"), True, "is of tier batch"),
        (shown("b", "a", "c"), True, "holds the item"),
        (shown("a", "b", "c"), False, "is the one from before, with its scores"),
    ],
)
def test_a_list_that_misses_the_click_is_stale(answer: Shown, gone: bool, flaw: str) -> None:
    """Each sign of an older state is enough, and the example names it and the placement."""
    said = judged(answer, gone)
    assert said is not None
    assert said.startswith("placement basket: version 4 was acknowledged for a cart with 'a'")
    assert said.endswith(f"the next list {flaw}")


def test_wrong_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 for a placement or data folder that is not there, 1 for a server that is not."""
    assert main(["--placement", "baskt"]) == 2
    assert "did you mean 'basket'" in capsys.readouterr().err
    assert main(["--data-dir", str(tmp_path)]) == 2
    assert main(["http://127.0.0.1:9", "--pairs", "1"]) == 1
    assert "does not answer" in capsys.readouterr().err
