"""Log rows: raw columns of one file become clean events, or rejects that say why.

What a row must have, what is repaired and what is rejected is decided here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from recsys.categories import read_categories
from recsys.config import EventsConfig, nearest
from recsys.events import (
    ITEMLESS_TYPES,
    MAX_ABS_VALUE,
    MAX_CATEGORIES,
    MAX_ID_LENGTH,
    MAX_LABEL,
    RETURN_TYPE,
)
from recsys.logfiles import MAX_SHOWN, REJECT_SCHEMA, LogError, Table
from recsys.timestamps import ISO, Times, TimestampError, read_times

COLUMNS = ("user_id", "session_id", "item_id", "type", "timestamp", "value", "event_id")
ID_COLUMNS = ("user_id", "session_id", "item_id", "event_id")

EARLIEST = 365 * 86400.0  # 1971: what lies before is a default, not a time
LATEST = 86400.0  # seconds after now: clocks and zones may be wrong by a day
NAMED_TYPES = 1000  # unknown types for which the near name is looked up


@dataclass(frozen=True)
class Rules:
    """What clean means."""

    config: EventsConfig
    default_type: str
    now: float  # Unix seconds
    timed: bool  # False: the log has no timestamps, so no session can be cut by idle time


@dataclass(frozen=True)
class Rows:
    """The rows of one file."""

    frame: pl.DataFrame  # COLUMNS, those of TERMS that there are, and ``row``: Int64, 1-based
    rejects: pl.DataFrame  # REJECT_SCHEMA
    notes: list[str]


@dataclass(frozen=True)
class _Flaw:
    reason: str
    field: str
    mask: pl.Series  # Boolean; null counts as False
    message: pl.Expr  # over ``value``: the raw field as String


def clean(file: str, table: Table, mapping: Mapping[str, str], rules: Rules) -> Rows:
    """The good rows of a table and the reasons against the others.

    ``mapping``: standard name -> column of the table. Raises LogError if a column holds nothing
    of its kind.
    """
    raw = table.frame.select(pl.col(column).alias(name) for name, column in mapping.items())
    ids = [_id_text(file, raw, name) for name in ID_COLUMNS]
    frame = raw.select(*ids, _type_text(raw, rules.default_type), _number(file, raw, "value"))
    frame, notes = _drop_point_zero(frame)
    flaws = [*_id_flaws(frame, rules), *_type_flaws(frame, rules)]
    flaws += _value_flaws(raw, frame["value"])
    terms, term_flaws = _terms(file, raw)
    frame, flaws = frame.with_columns(terms), flaws + term_flaws
    if rules.timed:
        times = _read_times(file, raw["timestamp"], mapping["timestamp"])
        frame = frame.with_columns(timestamp=times.seconds)
        flaws += _time_flaws(times, rules.now)
        if times.form.startswith("Unix") and times.form != "Unix seconds":
            notes.append(f"timestamps are read as {times.form}")
    else:
        frame = frame.with_columns(timestamp=pl.lit(None, pl.Float64))
    good, rejects = _split(file, raw, frame.with_columns(table.rows), flaws)
    good, returns = _mark_returns(good, rules.config)
    rejects = pl.concat([table.broken, rejects]).sort("row", maintain_order=True)
    told = [term.name for term in terms]
    return Rows(good.select(*COLUMNS, *told, "row"), rejects, notes + returns)


def no_weight(kind: str, config: EventsConfig) -> str:
    """The error text for a type that is not configured."""
    return f"no weight for type {kind!r}{nearest(kind, list(config.weights))}"


# Columns: raw to standard types, without judging


def _id_text(file: str, raw: pl.DataFrame, name: str) -> pl.Expr:
    """Ids as String: null where empty or NaN, floats without a fraction as integers."""
    if name not in raw.columns:
        return pl.lit(None, pl.String).alias(name)
    column, dtype = pl.col(name), raw.schema[name]
    if dtype.is_nested() or dtype in (pl.Binary, pl.Object):
        raise LogError(f"{file}: {name}: a column of {dtype} holds no ids")
    if dtype.is_float() or dtype.is_decimal():
        column = column.cast(pl.Float64)
        whole = column == column.floor()
        integral = pl.when(whole).then(column.cast(pl.Int64, strict=False).cast(pl.String))
        text = pl.coalesce(integral, column.cast(pl.String))
        return pl.when(column.is_finite()).then(text).alias(name)
    text = column.cast(pl.String)
    return (pl.when(text != "").then(text) if dtype == pl.String else text).alias(name)


def _drop_point_zero(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Text ids that are all like "17850.0" were a column of floats before they became text."""
    notes = []
    for name in ID_COLUMNS:
        column = frame[name]
        if column.null_count() == len(column) or not column.head(1000).str.ends_with(".0").all():
            continue
        if column.str.contains(r"^-?\d+\.0$").all():
            frame = frame.with_columns(column.str.strip_suffix(".0"))
            notes.append(f"{name} was written as floats: the trailing '.0' is dropped")
    return frame, notes


def _type_text(raw: pl.DataFrame, default: str) -> pl.Expr:
    if "type" not in raw.columns:
        return pl.lit(default).alias("type")
    column, kind = raw["type"], pl.col("type").cast(pl.String).str.strip_chars()
    # Few names on many rows: if none needs repair the column stays as it is.
    if column.dtype == pl.String and all(k and k == k.strip() for k in column.unique()):
        return pl.col("type")
    return pl.when(kind != "").then(kind).otherwise(pl.lit(default)).alias("type")


def _number(file: str, raw: pl.DataFrame, name: str) -> pl.Expr:
    if name not in raw.columns:
        return pl.lit(None, pl.Float64).alias(name)
    dtype = raw.schema[name]
    if dtype == pl.String:
        return pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)
    if dtype.is_numeric() or dtype == pl.Null:
        return pl.col(name).cast(pl.Float64)
    raise LogError(f"{file}: {name}: a column of {dtype} holds no numbers")


def _read_times(file: str, column: pl.Series, name: str) -> Times:
    try:
        return read_times(column)
    except TimestampError as error:
        remedy = "if the order of the rows is the clock, say that there is no time: timestamp="
        raise LogError(
            f"{file}: timestamp: column {name!r} has {error}; map another column, or "
            f"{remedy} (--columns timestamp=)"
        ) from error


# Flaws: the first that holds is the reason


def _id_flaws(frame: pl.DataFrame, rules: Rules) -> list[_Flaw]:
    nobody = frame["session_id"].is_null()
    reason, message = "no_session", "without timestamps every row needs its session_id"
    if rules.timed:
        nobody &= frame["user_id"].is_null()
        reason, message = "no_session_or_user", "neither session_id nor user_id"
    flaws = [_Flaw(reason, "session_id", nobody, pl.lit(message))]
    too_long = pl.lit(f"longer than {MAX_ID_LENGTH} characters")
    for name in ID_COLUMNS:
        # Bytes are free to count, and no id has fewer of them than characters.
        if (frame[name].str.len_bytes() > MAX_ID_LENGTH).any():
            mask = frame[name].str.len_chars() > MAX_ID_LENGTH
            flaws.append(_Flaw(f"{name}_too_long", name, mask, too_long))
    return flaws


def _type_flaws(frame: pl.DataFrame, rules: Rules) -> list[_Flaw]:
    kinds = frame["type"].unique().to_list()
    unknown = [kind for kind in kinds if kind not in rules.config.weights]
    messages = {kind: no_weight(kind, rules.config) for kind in unknown[:NAMED_TYPES]}
    text = pl.lit("no weight for this type")
    if messages:
        kind = pl.col("value").str.strip_chars()
        text = kind.replace_strict(messages, default=text, return_dtype=pl.String)
    homeless = frame["item_id"].is_null()
    if homeless.any():
        homeless &= ~frame["type"].is_in(list(ITEMLESS_TYPES))
    needs_item = pl.lit(f"only {', '.join(sorted(ITEMLESS_TYPES))} may come without an item")
    return [
        _Flaw("unknown_type", "type", frame["type"].is_in(unknown), text),
        _Flaw("item_id_missing", "item_id", homeless, needs_item),
    ]


def _time_flaws(times: Times, now: float) -> list[_Flaw]:
    seconds = times.seconds
    outside = (seconds < EARLIEST) | (seconds > now + LATEST)
    number = pl.col("value").str.strip_chars().cast(pl.Float64, strict=False).is_not_null()
    unreadable = seconds.is_null() & ~times.missing
    this = pl.when(number).then(pl.lit("a number")).otherwise(pl.lit("other text"))
    form = pl.format("the column holds {}, this is {}", pl.lit(times.form), this)
    range_text = "before 1971 or more than a day after now"
    if times.form != ISO:
        range_text += f", read as {times.form} like the rest of the column"
    return [
        _Flaw("timestamp_missing", "timestamp", times.missing, pl.lit("no timestamp")),
        _Flaw("timestamp_format", "timestamp", unreadable, form),
        _Flaw("timestamp_out_of_range", "timestamp", outside, pl.lit(range_text)),
    ]


def _value_flaws(raw: pl.DataFrame, value: pl.Series) -> list[_Flaw]:
    if "value" not in raw.columns:
        return []
    too_large = value.abs() > MAX_ABS_VALUE  # NaN too: it sorts above every number
    flaws = [
        _Flaw("value_out_of_range", "value", too_large, pl.lit(f"beyond {MAX_ABS_VALUE:g}")),
    ]
    if too_large.any():
        not_finite = _Flaw("value_not_finite", "value", ~value.is_finite(), pl.lit("not finite"))
        flaws.insert(0, not_finite)
    return flaws + _not_numbers(raw, value)


def _not_numbers(raw: pl.DataFrame, number: pl.Series) -> list[_Flaw]:
    name = number.name
    if raw.schema[name] != pl.String:
        return []
    mask = number.is_null() & (raw[name].str.strip_chars() != "")
    return [_Flaw(f"{name}_not_a_number", name, mask, pl.lit("not a number"))]


def _terms(file: str, raw: pl.DataFrame) -> tuple[list[pl.Series], list[_Flaw]]:
    """The columns of TERMS that there are, by the catalogue's own rules, and their flaws."""
    terms, flaws = list[pl.Series](), list[_Flaw]()
    if "category" in raw.columns:
        lists, bad = read_categories(file, raw["category"])
        terms.append(lists.alias("category"))
        flaws += _category_flaws(lists, bad)
    if "price" in raw.columns:
        # Absent numbers of pandas are NaN.
        price = raw.select(_number(file, raw, "price").fill_nan(None)).to_series()
        terms.append(price)
        outside = (price < 0) | ~price.is_finite()
        text = pl.lit("a price is a finite number from 0 on; without prices: --columns price=")
        flaws += [
            _Flaw("price_out_of_range", "price", outside, text),
            *_not_numbers(raw, price),
        ]
    return terms, flaws


def _category_flaws(lists: pl.Series, bad: pl.Series) -> list[_Flaw]:
    remedy = "without categories: --columns category="
    flaws = [
        _Flaw("category_no_text", "category", bad, pl.lit(f"neither text nor texts; {remedy}")),
        _Flaw(
            "categories_too_many",
            "category",
            lists.list.len() > MAX_CATEGORIES,
            pl.lit(f"more than {MAX_CATEGORIES} categories; {remedy}"),
        ),
    ]
    if (lists.explode().str.len_bytes() > MAX_LABEL).any():
        mask = lists.list.eval(pl.element().str.len_chars() > MAX_LABEL).list.any()
        text = pl.lit(f"longer than {MAX_LABEL} characters; {remedy}")
        flaws.append(_Flaw("category_too_long", "category", mask, text))
    return flaws


def _split(
    file: str, raw: pl.DataFrame, frame: pl.DataFrame, flaws: list[_Flaw]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows without a flaw, and the others as rejects for their first one."""
    flaws = [flaw for flaw in flaws if flaw.mask.any()]
    if not flaws:
        return frame, pl.DataFrame(schema=REJECT_SCHEMA)
    first = pl.coalesce(
        pl.when(flaw.mask).then(pl.lit(n, pl.UInt8)) for n, flaw in enumerate(flaws)
    )
    number = pl.select(first.alias("flaw"))["flaw"]
    rejects = []
    for n, flaw in enumerate(flaws):
        at = (number == n).arg_true()
        values = raw[flaw.field].gather(at) if flaw.field in raw.columns else None
        rows = frame["row"].gather(at)
        rejects.append(reject_rows(file, rows, values, flaw.field, flaw.reason, flaw.message))
    return frame.filter(number.is_null()), pl.concat(rejects)


def reject_rows(
    file: str, rows: pl.Series, values: pl.Series | None, field: str, reason: str, message: pl.Expr
) -> pl.DataFrame:
    """Rows of REJECT_SCHEMA; ``message`` is an expression over ``value``."""
    shown = None if values is None else _shown(values)
    return (
        pl.DataFrame({"row": rows, "value": shown}, {"row": pl.Int64, "value": pl.String})
        .with_columns(
            pl.lit(file).alias("file"),
            pl.lit(None, pl.Int64).alias("line"),
            pl.lit(field).alias("field"),
            pl.lit(reason).alias("reason"),
            message.alias("message"),
        )
        .select(*REJECT_SCHEMA)
    )


def _shown(values: pl.Series) -> pl.Series:
    if values.dtype.is_nested():
        values = pl.Series([None if value is None else str(value) for value in values.to_list()])
    return values.cast(pl.String, strict=False).str.head(MAX_SHOWN)


# Repair


def _mark_returns(frame: pl.DataFrame, config: EventsConfig) -> tuple[pl.DataFrame, list[str]]:
    """A negative value on a sign of interest is a return."""
    if not (frame["value"] < 0).any():
        return frame, []
    positive = [kind for kind, weight in config.weights.items() if weight > 0]
    returned = (frame["value"] < 0) & frame["type"].is_in(positive)
    kind = pl.when(returned).then(pl.lit(RETURN_TYPE)).otherwise("type")
    count = int(returned.sum())
    note = f"{count:,} events with a negative value are returns: their type is {RETURN_TYPE!r}"
    return frame.with_columns(kind.alias("type")), [note] if count else []
