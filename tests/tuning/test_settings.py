"""The file that tuning writes."""

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import Config, Placement, config_from_dict, load_config
from recsys.metrics import Estimate
from recsys.tuning import space
from recsys.tuning.settings import text_of, write
from recsys.tuning.sources import Contribution
from recsys.tuning.space import Setting, Values, value_of, with_values
from recsys.tuning.stages import Found
from recsys.tuning.tune import Aim, Tuned

GAIN = Estimate(0.02, 0.01, 0.03)
SETTINGS = [
    *(space.TRANSITIONS + space.SESSION_KNN + space.SESSION_EMBEDDING + space.ITEM_KNN),
    *(space.EMBEDDING["als"] + space.EMBEDDING_PAST),
    *(space.BLEND + space.BLEND_PAST + space.BLEND_SESSION + space.BLEND_IN_ORDER + space.RANKER),
]


def read(text: str) -> Config:
    return config_from_dict(tomllib.loads(text))


def a_value(setting: Setting) -> st.SearchStrategy[space.Value]:
    if setting.whole:
        return st.integers(int(setting.low), int(setting.high))
    return st.floats(setting.low, setting.high)


@settings(deadline=None)  # a busy machine is no failure
@given(st.fixed_dictionaries({}, optional={s.name: a_value(s) for s in SETTINGS}))
def test_the_file_reads_as_the_configuration(values: Values) -> None:
    """Whatever was found, the file says just that."""
    config = with_values(Config(), values)
    assert read(text_of(Tuned(Config(), config, Aim()))) == config


def test_what_a_person_had_set_stays() -> None:
    """Odd names, placements of their own and changed ones are in the file with all they say."""
    start = config_from_dict(
        {
            "events": {"weights": {"my.type": 2.0, 'a "b"': -1.0}},
            "placements": {
                "basket": {"exclude": ["any"], "sources": ["recent"]},
                "plain": {},
                "continue": {"exclude": ["cart"], "exclude_bought": "never"},
            },
            "index": {"kind": "hnsw"},
        }
    )
    config = with_values(start, {"session_knn.decay": 0.3})
    assert read(text_of(Tuned(start, config, Aim()))) == config
    assert config.placements["plain"] == Placement()


def test_only_differences_from_the_defaults_are_written() -> None:
    """A setting at its default is not in the file, nor is what follows from the log."""
    for simultaneous in (False, True):
        start = Config().settled(simultaneous=simultaneous)
        config = with_values(start, {"item_knn.neighbours": 90})
        text = text_of(Tuned(start, config, Aim(), simultaneous))
        assert tomllib.loads(text) == {"item_knn": {"neighbours": 90}}
        assert read(text).settled(simultaneous=simultaneous) == config


def tuned() -> Tuned:
    values: Values = {"session_knn.decay": 0.3, "session_knn.neighbours": 120}
    before = {name: value_of(Config(), name) for name in values}
    found = Found(
        "session_knn",
        trials=9,
        values=values,
        before=before,
        brought={"session_knn.decay": 0.0123},
        gain=GAIN,
        marks=(0.3, 0.32),
        microseconds=(90.0, 60.0),
    )
    off: Values = {"retrieval.recent": 0}
    left_out = replace(
        found, stage="sources", values=off, before={"retrieval.recent": 20}, brought={}
    )
    return Tuned(
        Config(),
        with_values(Config(), {**values, **off}),
        Aim(),
        found=[found, left_out],
        sources=[Contribution("recent", 0.0004, 12.0, on=False)],
        gain=GAIN,
        marks=(0.3, 0.32),
        microseconds=(500.0, 400.0),
    )


def test_every_setting_says_what_it_was_and_brought() -> None:
    """In words above it; the table says what the whole stage brought, the head what all did."""
    lines = text_of(tuned()).splitlines()

    def above(line: str) -> str:
        return lines[lines.index(line) - 1]

    knn = Config().session_knn
    assert f"was {knn.decay}; back at that the mark loses 0.0123" in above("decay = 0.3")
    assert f"was {knn.neighbours}; there was no time to weigh it" in above("neighbours = 120")
    assert "was 20; it brings +0.0004 for 12 microseconds" in above("recent = 0")
    result = "session_knn: mark 0.3000 -> 0.3200, +0.0200 [+0.0100, +0.0300]; 90 -> 60 microseconds"
    assert lines[lines.index("[session_knn]") + 1] == f"# {result}"
    assert any("Whole pipeline" in line and "[+0.0100, +0.0300]" in line for line in lines)


def test_the_file_says_when_nothing_was_better() -> None:
    """Then it is the start, without claims about settings that it does not have."""
    none = replace(tuned(), config=Config(), gain=Estimate(-0.01, -0.02, 0.0))
    text = text_of(none)
    assert read(text) == Config()
    assert "Nothing better was found" in text
    assert "back at that" not in text


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk refuses, what was there stays, and nothing lies beside it."""
    path = tmp_path / "recsys.toml"
    write("[session]\ndecay = 0.5\n", path)

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write("[session]\ndecay = 0.7\n", path)
    assert load_config(path).session.decay == 0.5
    assert list(tmp_path.iterdir()) == [path]
