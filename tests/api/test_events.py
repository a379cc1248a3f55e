"""POST /v1/events: good events are recorded, bad ones named, none lost silently."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.settings import Settings
from tests.api.conftest import NOW, Served, running

pytestmark = pytest.mark.anyio

Check = Callable[[httpx.Response, int], dict[str, Any]]

CLICK = {"type": "click", "session_id": "s", "item_id": "i1"}


async def rejected(api: Served, event: Any) -> dict[str, Any]:
    """The rejection of one event, sent between two good ones."""
    response = await api.post("/v1/events", {"events": [CLICK, event, CLICK]})
    answer = response.json()
    assert (response.status_code, answer["accepted"]) == (202, 2)
    (flaw,) = answer["rejected"]
    assert flaw.pop("index") == 1
    flaws: dict[str, Any] = flaw
    return flaws


async def test_an_accepted_event_is_in_the_session(api: Served) -> None:
    """Events are acknowledged with the session's version and can be read at once."""
    response = await api.click("i1", "i2", value=3, user_id="u", properties={"a": 1})
    assert response.status_code == 202
    assert response.json() == {
        "accepted": 2,
        "duplicates": 0,
        "rejected": [],
        "sessions": {"s": 2},
    }
    session = (await api.client.get("/v1/sessions/s")).json()
    assert [event["item_id"] for event in session["events"]] == ["i1", "i2"]
    assert session["events"][0]["timestamp"] == NOW


async def test_beacons_are_accepted(api: Served) -> None:
    """navigator.sendBeacon posts text/plain."""
    body = json.dumps({"events": [CLICK]})
    headers = {"content-type": "text/plain;charset=UTF-8"}
    response = await api.client.post("/v1/events", content=body, headers=headers)
    assert (response.status_code, response.json()["accepted"]) == (202, 1)


async def test_the_same_event_id_counts_once(api: Served) -> None:
    """A repeated delivery is a duplicate, and the session does not grow."""
    assert (await api.click("i1", event_id="e")).json()["accepted"] == 1
    again = (await api.click("i1", event_id="e")).json()
    assert (again["accepted"], again["duplicates"], again["sessions"]) == (0, 1, {"s": 1})


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"type": "clik"}, "type", "unknown type 'clik'; did you mean 'click'?"),
        ({"type": 3}, "type", "input should be a valid string"),
        ({"sesion_id": "s"}, "sesion_id", "unknown field; did you mean 'session_id'?"),
        ({"session_id": None}, "session_id", "input should be a valid string"),
        ({"session_id": ""}, "session_id", "at least 1 character"),
        ({"session_id": "x" * 10_000}, "session_id", "at most 256 characters"),
        ({"item_id": "x" * 10_000}, "item_id", "at most 256 characters"),
        ({"item_id": None}, "item_id", "an event of type 'click' needs an item_id"),
        ({"item_id": 7}, "item_id", "input should be a valid string"),
        ({"value": 1e300}, "value", "less than or equal to"),
        ({"value": "1"}, "value", "valid number"),
        ({"position": -1}, "position", "greater than or equal to 0"),
        ({"properties": []}, "properties", "valid dictionary"),
        ({"timestamp": "yesterday"}, "timestamp", "RFC 3339"),
        ({"timestamp": "2026-03-01T12:00:00"}, "timestamp", "has no offset"),
        ({"timestamp": -1}, "timestamp", "after March 1973"),
        ({"timestamp": 5}, "timestamp", "a clock that was never set"),
        ({"timestamp": True}, "timestamp", "must be RFC 3339 text, or a number"),
        ({"timestamp": [1]}, "timestamp", "must be RFC 3339 text, or a number"),
        ({"timestamp": "2026-W10-1T00:00Z"}, "timestamp", "neither RFC 3339"),
        ({"timestamp": "20260301T120000Z"}, "timestamp", "neither RFC 3339"),
        ({"timestamp": "2026-03-01 12:00:00Z"}, "timestamp", "neither RFC 3339"),
        ({"timestamp": "2026-03-01T12:00Z"}, "timestamp", "neither RFC 3339"),
        ({"timestamp": "2026-03-01T24:00:00Z"}, "timestamp", "neither RFC 3339"),
        ({"timestamp": "2026-02-30T12:00:00Z"}, "timestamp", "neither RFC 3339"),
        ({"timestamp": "2026-03-01T12:00:00+0100"}, "timestamp", "neither RFC 3339"),
        ({"timestamp": "2026-03-01T12:00:00+24:00"}, "timestamp", "neither RFC 3339"),
        ({"timestamp": "２０26-03-01T12:00:00Z"}, "timestamp", "neither RFC 3339"),
        ({"timestamp": 1e300}, "timestamp", "must be a time before the year 10000"),
        ({"timestamp": NOW + 301}, "timestamp", "lies 301 seconds in the future"),
        ({"timestamp": NOW + 315_576_000}, "timestamp", "lies 10.0 years in the future"),
        ({"timestamp": (NOW + 7200) * 1000}, "timestamp", "lies 2.0 hours in the future"),
    ],
)
async def test_a_bad_event_is_named(
    api: Served, change: dict[str, Any], field: str, message: str
) -> None:
    """A bad event is listed with its field and cause; the others are accepted."""
    flaw = await rejected(api, {**CLICK, **change})
    assert flaw["field"] == field
    assert message in flaw["message"]
    assert len(flaw["message"]) < 200


async def test_a_missing_field_is_named(api: Served) -> None:
    """What is required and absent is said to be required; what is no object is said to be none."""
    missing = await rejected(api, {"type": "click", "item_id": "i1"})
    assert missing == {"field": "session_id", "message": "is required"}
    assert "JSON object" in (await rejected(api, 5))["message"]


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e400"])
async def test_values_that_are_no_numbers_are_named(api: Served, literal: str) -> None:
    """NaN and infinity, which JSON does not have but some clients send, cost only their event."""
    bad = json.dumps(CLICK)[:-1] + f', "value": {literal}}}'
    body = f'{{"events": [{json.dumps(CLICK)}, {bad}]}}'
    headers = {"content-type": "application/json"}
    answer = (await api.client.post("/v1/events", content=body, headers=headers)).json()
    assert answer["accepted"] == 1
    assert answer["rejected"] == [
        {"index": 1, "field": "value", "message": "input should be a finite number"}
    ]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (1_700_000_000, 1_700_000_000.0),
        (1_700_000_000.25, 1_700_000_000.25),
        (1_700_000_000_250, 1_700_000_000.25),
        ("2023-11-14T22:13:20Z", 1_700_000_000.0),
        ("2023-11-14T23:13:20.5+01:00", 1_700_000_000.5),
        ("2023-11-14t22:13:20z", 1_700_000_000.0),
        ("2023-11-14T22:13:20.250000000000Z", 1_700_000_000.25),
        ("2023-11-14T22:13:20-00:00", 1_700_000_000.0),
        ("2016-12-31T23:59:60Z", 1_483_228_800.0),
        (NOW + 299, NOW + 299),
        (None, NOW),
    ],
)
async def test_timestamps_of_every_form(api: Served, given: Any, seconds: float) -> None:
    """RFC 3339, Unix seconds and milliseconds, slightly fast clocks, and none at all."""
    assert (await api.click("i1", timestamp=given)).json()["accepted"] == 1
    session = (await api.client.get("/v1/sessions/s")).json()
    assert session["events"][0]["timestamp"] == seconds


async def test_a_negative_value_is_a_return(api: Served) -> None:
    """A purchase with a negative value becomes a removal, as in a log."""
    event = {"type": "purchase", "session_id": "s", "item_id": "i1", "value": -2.0}
    await api.post("/v1/events", {"events": [event]})
    session = (await api.client.get("/v1/sessions/s")).json()
    assert session["events"][0]["type"] == "remove"


async def test_deep_properties_cost_only_their_event(api: Served) -> None:
    """Properties nested too deeply to be stored are rejected, not a server error."""
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"a": deep}
    assert "too deeply" in (await rejected(api, {**CLICK, "properties": deep}))["message"]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, "events: must be an array"),
        ({"events": []}, "must hold 1 to 1000 events, not 0"),
        ({"events": [CLICK] * 1001}, "not 1001"),
        ({"event": [CLICK]}, "event: unknown field; did you mean 'events'?"),
        ([CLICK], "the body must be a JSON object, not an array"),
    ],
)
async def test_a_bad_envelope_is_refused(
    api: Served, problem: Check, payload: Any, message: str
) -> None:
    """A body that is no batch of 1 to 1000 events is a 422 that says what it is."""
    assert message in problem(await api.post("/v1/events", payload), 422)["detail"]


async def test_events_need_no_bundle(settings: Settings, tmp_path: Path) -> None:
    """Events are recorded before anything was trained."""
    async with running(dataclasses.replace(settings, data_dir=tmp_path)) as api:
        assert (await api.click("i1")).json()["accepted"] == 1
