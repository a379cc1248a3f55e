"""Parity between the API and the offline replay, over HTTP with a real server and a real Redis."""

import contextlib
import dataclasses
import os
import secrets
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import polars as pl
import pytest
import uvicorn

from api.app import create_app
from api.parity_check import UnexpectedAnswerError, _post, check, main
from api.settings import Settings
from recsys.bundle import Bundle
from recsys.config import Config
from recsys.embedded import EmbeddedRedis
from recsys.logs import log_from_frame
from recsys.registry import Registry
from recsys.store import StoreConfig
from recsys.training import train
from tests.synthetic import START, checkerboard, log_frame, small_config
from tests.test_point_in_time import LIVE, visits
from tests.test_training import RANKED

PLACEMENTS = list(Config().placements)
LATER = START + 10_000.0  # after everything in the training log


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Known users and a forest that ranks: every tier but the blend's occurs."""
    trained = train(checkerboard(), small_config(**RANKED, aggregate=LIVE))
    assert trained.facts.ranker.startswith("forest of")
    assert {"live_trending", "live_of_user", "live_of_session"} <= trained.facts.features.keys()
    return trained


@pytest.fixture
def server(bundle: Bundle, redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[str]:
    """A running API with nobody's live events; its address."""
    with serving(bundle, redis_server, tmp_path) as address:
        yield address


@contextlib.contextmanager
def serving(bundle: Bundle, redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[str]:
    """The API of a bundle in a thread, in a namespace of its own: what a worker of `recsys serve`
    runs, but started at once."""
    Registry(tmp_path / "bundles").publish(bundle)
    store = StoreConfig(f"parity-{secrets.token_hex(6)}", timeout=5.0)
    app = create_app(Settings(tmp_path, redis_server.url, store=store))
    api = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=api.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            api.should_exit = True
            thread.join()


@contextlib.contextmanager
def recsys_serve(bundle: Bundle, tmp_path: Path) -> Iterator[str]:
    """The command itself, with two workers and a server of Redis of its own."""
    Registry(tmp_path / "bundles").publish(bundle)
    options = ["--port", "0", "--workers", "2", "--data-dir", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "recsys.cli", "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RECSYS_STORE_TIMEOUT": "5"},
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Serving on ")
        yield line.split()[2]
        process.terminate()


def later_events() -> pl.DataFrame:
    """Known users, strangers and sessions that name their user late; every kind of event."""
    rows: list[dict[str, object]] = []
    kinds = ("view", "cart", "remove", "view", "impression", "purchase", "dislike", "rating")
    for step in range(120):
        visitor = step % 6
        user = None if visitor == 5 or (visitor == 4 and step < 60) else f"u{visitor}"
        kind = kinds[(step // 6) % len(kinds)]
        rows.append(
            {
                "user_id": user,
                # Two sessions per visitor, the second after the first.
                "session_id": f"v{visitor}-{step // 60}",
                "item_id": f"i{(step * 7 + visitor) % 22}",  # two of them are unknown to the bundle
                "type": kind,
                "value": 3.0 if kind == "rating" else None,
                "timestamp": LATER + step // 2,  # pairs of events at the same second
            }
        )
    return log_from_frame(log_frame(rows)).frame


def test_the_api_answers_what_the_replay_answers(bundle: Bundle, tmp_path: Path) -> None:
    """Lists of every placement: ids, order, scores, reasons, tier and version are the replay's,
    whichever of two workers answers."""
    with recsys_serve(bundle, tmp_path) as server:
        result = check(server, bundle, later_events())
    assert result.differences == 0, result.example
    assert result.placements == {name: {"lists": 120, "differences": 0} for name in PLACEMENTS}
    assert result.lists == 120 * len(PLACEMENTS)
    assert result.tiers["ranker"] > 0.9 * result.lists


def test_lists_with_prices_and_categories_are_the_same_too(tmp_path: Path) -> None:
    """The ranker is told of what the catalogue says as each event is accepted, and what the stream
    says of categories; items that come up are shown as the catalogue names them."""
    log = log_from_frame(visits())
    bundle = train(log, small_config(**RANKED, aggregate=LIVE))
    told = {"category_share", "price_level", "price_change", "live_sort", "live_costs"}
    assert told <= bundle.facts.features.keys()
    cut = float(log.frame["timestamp"][-1])
    later = visits(8).with_columns(
        timestamp=pl.col("timestamp") - 1.7e9 + cut + 60,
        item_id=pl.col("item_id").replace("i3", "new"),
        price=pl.col("price") * 1.5,
    )
    later = log_from_frame(later).frame.head(120)
    assert later["category"].null_count() not in (0, len(later))
    with recsys_serve(bundle, tmp_path) as server:
        result = check(server, bundle, later)
    assert result.differences == 0, result.example
    assert result.tiers["ranker"] > 0.9 * result.lists


def test_diverse_lists_are_the_same_too(server: str, bundle: Bundle) -> None:
    """What diversity makes of a list does not depend on where it is made."""
    result = check(server, bundle, later_events().head(60), diversity=0.6)
    assert result.differences == 0, result.example
    assert result.lists == 60 * len(PLACEMENTS)


def test_an_event_lost_on_one_side_shows(server: str, bundle: Bundle) -> None:
    """The check can fail: an event that one side never saw shows in every placement."""
    result = check(server, bundle, later_events(), forget=6)
    assert result.lists == 119 * len(PLACEMENTS)
    assert all(counts["differences"] > 0 for counts in result.placements.values())
    assert result.example is not None
    assert "placement default" in result.example


def test_placements_configured_otherwise_show(server: str, bundle: Bundle) -> None:
    """A placement whose rules differ between the two sides is found, and only that one."""
    lenient = dataclasses.replace(bundle.config.placements["discover"], exclude=())
    placements = {**bundle.config.placements, "discover": lenient}
    config = dataclasses.replace(bundle.config, placements=placements)
    result = check(server, dataclasses.replace(bundle, config=config), later_events().head(20))
    assert result.placements.pop("discover")["differences"] > 0
    assert all(counts["differences"] == 0 for counts in result.placements.values())


def test_a_second_run_does_not_see_the_sessions_of_the_first(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """Sessions get names of their own; without users, and aggregates that count everybody, two runs
    do not mix."""
    untold = [{**table, "ranking": False} for table in LIVE]
    bundle = train(checkerboard(), small_config(**RANKED, aggregate=untold))
    strangers = later_events().with_columns(user_id=pl.lit(None, dtype=pl.String))
    with serving(bundle, redis_server, tmp_path) as server:
        assert check(server, bundle, strangers.head(30)).differences == 0
        assert check(server, bundle, strangers.head(30)).differences == 0


def test_users_with_live_events_show(server: str, bundle: Bundle) -> None:
    """A namespace in which a user has been before is not taken for an empty one."""
    frame = later_events().head(30)
    assert check(server, bundle, frame).differences == 0
    assert check(server, bundle, frame).differences > 0


def test_another_bundle_shows(server: str, bundle: Bundle) -> None:
    """Lists of two models are not equal."""
    other = train(checkerboard(per_session=5), small_config())
    result = check(server, other, later_events().head(3), placements=["default"])
    assert (result.lists, result.differences) == (3, 3)
    assert "bundle" in (result.example or "")


def test_a_server_that_is_not_there_is_named(bundle: Bundle) -> None:
    """No answer is an error, not a difference."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UnexpectedAnswerError, match="no answer"):
        check(address, bundle, later_events().head(1))


def test_the_command_prints_json_and_its_status_tells(
    server: str, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 without a difference, 1 with one, 2 when there is nothing to compare with."""
    later_events().write_parquet(tmp_path / "later.parquet")
    asked = [str(tmp_path / "later.parquet"), "--base-url", server]
    served = [*asked, "--data-dir", str(tmp_path), "--lists", "30"]
    assert main([*served, "--placement", "basket", "--diversity", "0.3"]) == 0
    assert '"lists":30,"differences":0' in capsys.readouterr().out
    assert main(served) == 1
    assert f'"lists":{30 * len(PLACEMENTS)},' in capsys.readouterr().out
    assert main([*asked, "--data-dir", str(tmp_path / "none")]) == 2
    assert main([*served, "--placement", "baskt"]) == 2
    assert "did you mean 'basket'" in capsys.readouterr().err
    assert main([*served, "--diversity", "2"]) == 2
    assert "less than or equal to 1" in capsys.readouterr().err


def test_a_connection_that_ended_while_idle_is_opened_again() -> None:
    """A server that hangs up after each answer, without having said so, is asked anew."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_twice() -> None:
            for _ in range(2):
                with listener.accept()[0] as taken:
                    taken.recv(65536)
                    taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        server = threading.Thread(target=answer_twice)
        server.start()
        connection = HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=10)
        assert _post(connection, "/", {}) == {}
        while not select.select([connection.sock], [], [], 10)[0]:
            pass  # until the end of the connection has come through
        assert _post(connection, "/", {}) == {}
        connection.close()
        server.join()
