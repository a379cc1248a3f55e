"""The demo's page and what it looks up: products and people, from files that the demo wrote.

Nothing of the product depends on it: it asks the public API like any other frontend.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import polars as pl
from fastapi import APIRouter, FastAPI, Query, Response
from fastapi.responses import FileResponse, RedirectResponse

from api.app import create_app
from api.serve import serve
from api.settings import from_environment

APP = "api.demo_page:create_demo_app"
PAGE = Path(__file__).parent / "static" / "demo.html"
PRODUCTS = "demo-products.parquet"
PEOPLE = "demo-people.json"

MAX_SHOWN = 60  # products in one answer to a search
MAX_IDS = 200  # products looked up at once
MAX_HIDDEN = 40  # commonest products that no list shows

Product = dict[str, Any]
SHOWN = ("item_id", "title", "category", "department", "size", "own_brand", "price")


@dataclass(frozen=True)
class Shop:
    """Products in order of popularity, and the people to shop as.

    frame: as api.demo_data.products gives it, and ``text`` to search in. row_of: of each item id.
    """

    frame: pl.DataFrame
    row_of: dict[str, int]
    people: list[dict[str, str]]

    @classmethod
    def of(cls, products: pl.DataFrame, people: list[dict[str, str]]) -> "Shop":
        words = pl.concat_str("title", "category", "department", "item_id", separator=" ")
        frame = products.with_columns(text=words.str.to_lowercase())
        ids = frame["item_id"].to_list()
        return cls(frame, {item: row for row, item in enumerate(ids)}, people)

    @classmethod
    def load(cls, folder: Path) -> "Shop":
        people = orjson.loads((folder / PEOPLE).read_bytes())
        return cls.of(pl.read_parquet(folder / PRODUCTS), people)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.frame.drop("text").write_parquet(folder / PRODUCTS)
        (folder / PEOPLE).write_bytes(orjson.dumps(self.people))

    def find(self, text: str = "", department: str = "") -> list[Product]:
        """What can be browsed and has every word of the text, the most bought first."""
        conditions = [pl.col("shelf")]
        conditions += [
            pl.col("text").str.contains(w, literal=True) for w in text.lower().split()[:8]
        ]
        if department:
            conditions.append(pl.col("department") == department)
        return (
            self.frame.lazy().filter(*conditions).select(SHOWN).head(MAX_SHOWN).collect().to_dicts()
        )

    def named(self, ids: list[str]) -> list[Product]:
        """The products of these ids, in their order; unknown ones are left out."""
        rows = [self.row_of[item] for item in ids[:MAX_IDS] if item in self.row_of]
        return self.frame[rows].select(SHOWN).to_dicts()

    def departments(self) -> list[str]:
        """Those with something to browse, the most bought first."""
        shelf = self.frame.filter("shelf").group_by("department").agg(pl.col("bought").sum())
        return shelf.sort("bought", descending=True)["department"].to_list()

    def hidden(self) -> list[str]:
        """The commonest products that make no sense in a list on a page, fuel before all."""
        return self.frame.filter(~pl.col("shelf"))["item_id"].head(MAX_HIDDEN).to_list()


def routes(shop: Shop) -> APIRouter:
    """The page at /demo and its look-ups."""
    router = APIRouter(include_in_schema=False)
    departments, hidden = shop.departments(), shop.hidden()

    @router.get("/")
    def root() -> Response:
        return RedirectResponse("/demo")

    @router.get("/demo")
    def page() -> Response:
        return FileResponse(PAGE, media_type="text/html", headers={"Cache-Control": "no-cache"})

    @router.get("/demo/products")
    def products(
        q: Annotated[str, Query(max_length=100)] = "",
        department: Annotated[str, Query(max_length=100)] = "",
        ids: Annotated[str | None, Query(max_length=20_000)] = None,
    ) -> Response:
        found = shop.find(q, department) if ids is None else shop.named(ids.split(","))
        return _json({"products": found})

    @router.get("/demo/people")
    def people() -> Response:
        return _json({"people": shop.people, "departments": departments, "hidden": hidden})

    return router


def create_demo_app() -> FastAPI:
    """The API with the demo's page; what a worker process of the demo runs."""
    settings = from_environment(os.environ)
    app = create_app(settings)
    app.include_router(routes(Shop.load(settings.data_dir)))
    return app


def serve_page(data_dir: Path, port: int, workers: int = 2) -> int:
    """Serve the API and the page on loopback until interrupted; returns the exit status."""
    return serve(data_dir, port=port, workers=workers, app=APP)


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
