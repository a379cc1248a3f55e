"""Settings come from the environment, and a bad one is named."""

from dataclasses import fields
from pathlib import Path

import pytest

from api.settings import VARIABLES, Settings, from_environment
from recsys.events import InputError
from recsys.store import StoreConfig


def test_defaults_and_overrides() -> None:
    """An empty environment gives the defaults; each variable fills its setting."""
    assert from_environment({}) == Settings()
    settings = from_environment(
        {"RECSYS_DATA_DIR": "/d", "RECSYS_MAX_BODY": "5", "RECSYS_NAMESPACE": "shop"}
    )
    assert (settings.data_dir, settings.max_body) == (Path("/d"), 5)
    assert settings.store == StoreConfig(namespace="shop")
    assert from_environment({"RECSYS_QUALITY_SAMPLE": "0"}).quality_sample == 0


def test_every_variable_names_a_setting() -> None:
    """No variable leads nowhere."""
    known = {f.name for f in fields(Settings)} | {f"store.{f.name}" for f in fields(StoreConfig)}
    assert {name for name, _, _ in VARIABLES.values()} <= known


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("RECSYS_MAX_BODY", "2MB", "RECSYS_MAX_BODY: '2MB' does not fit: largest request body"),
        ("RECSYS_STORE_TIMEOUT", "-1", "RECSYS_STORE_TIMEOUT: must be positive"),
        ("RECSYS_MAX_WAIT", "nan", "RECSYS_MAX_WAIT: must be positive"),
        ("RECSYS_REDIS_URL", "localhost", "RECSYS_REDIS_URL: 'localhost' is not a Redis URL"),
        ("RECSYS_QUALITY_SAMPLE", "5", "RECSYS_QUALITY_SAMPLE: '5' does not fit: a share of the"),
        ("RECSYS_QUALITY_SAMPLE", "nan", "RECSYS_QUALITY_SAMPLE: 'nan' does not fit"),
        ("RECSYS_NAMESPACE", "a{b", "namespace: 'a{b' must be"),
    ],
)
def test_a_bad_variable_is_named(variable: str, text: str, message: str) -> None:
    """The error names the variable, the text and what is expected."""
    with pytest.raises(InputError, match=message):
        from_environment({variable: text})
