"""Timestamps: a column of any usual form becomes Unix seconds."""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

# Unix time tells its unit by its magnitude: below each limit the column is in that unit. The
# limits lie a factor 1,000 apart, so seconds reach to the year 5138 and milliseconds begin in 1973.
UNITS = (
    (1e11, 1.0, "Unix seconds"),
    (1e14, 1e3, "Unix milliseconds"),
    (1e17, 1e6, "Unix microseconds"),
    (float("inf"), 1e9, "Unix nanoseconds"),
)

# A column that never reaches this (1973 in seconds) is a step counter, not a clock.
SMALLEST_CLOCK = 1e8

# Tried in this order, after the form that reads most of the first rows. No zone means UTC.
ISO_FORMS = (
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%+",  # RFC 3339: fractions, any offset
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M:%S%.f UTC",
)
ISO = "ISO 8601 times"
SAMPLE = 1000  # rows that decide the form of a column of text


class TimestampError(ValueError):
    """The column holds no times; the text says what it holds."""


@dataclass(frozen=True)
class Times:
    """A column of times; each Series has one entry per row."""

    seconds: pl.Series  # Float64 Unix seconds; null where missing or unreadable
    missing: pl.Series  # Boolean: nothing was given
    form: str  # what the column holds, for messages


def read_times(column: pl.Series) -> Times:
    """The times in a column of numbers, text, dates or datetimes. Raises TimestampError."""
    dtype = column.dtype
    if dtype.is_numeric():
        return _from_numbers(column.cast(pl.Float64))
    if dtype in (pl.Date, pl.Datetime):
        return Times(_epoch(column), column.is_null(), "datetimes")
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return _from_text(column.cast(pl.String))
    if dtype == pl.Null:
        return Times(column.cast(pl.Float64), column.is_null(), "nothing")
    raise TimestampError(f"a column of {dtype} holds no times")


def _from_numbers(numbers: pl.Series, missing: pl.Series | None = None) -> Times:
    """``missing`` where it is not simply null: numbers that were text."""
    numbers = numbers.fill_nan(None)
    if missing is None:
        missing = numbers.is_null()
    typical, largest = numbers.abs().median(), numbers.max()
    if not isinstance(typical, float) or not isinstance(largest, float):
        return Times(numbers, missing, "Unix seconds")
    if largest < SMALLEST_CLOCK:
        raise TimestampError(f"small numbers, the largest {largest:.15g}: a counter, not a time")
    scale, form = next((scale, form) for limit, scale, form in UNITS if typical < limit)
    return Times(numbers / scale if scale != 1 else numbers, missing, form)


def _from_text(text: pl.Series) -> Times:
    """Most columns need no stripping, so that is a second attempt."""
    parse = _text_parser(text)
    values = parse(text)
    if values.null_count() > text.null_count():
        text = _strip(text)
        values = parse(text)
    if parse is _parse_numbers:
        # The text "nan" is a way to write nothing.
        return _from_numbers(values, text.is_null() | values.is_nan().fill_null(False))
    return Times(values, text.is_null(), ISO)


def _text_parser(text: pl.Series) -> Callable[[pl.Series], pl.Series]:
    """For numbers if most of the first rows are, else for ISO 8601."""
    sample = _first_rows(text)
    numbers = _parse_numbers(sample).count()
    return _parse_numbers if 2 * numbers > len(sample) else _parse_iso


def _first_rows(text: pl.Series) -> pl.Series:
    sample = _strip(text.head(10 * SAMPLE)).drop_nulls().head(SAMPLE)
    return sample if len(sample) else _strip(text).drop_nulls().head(SAMPLE)


def _strip(text: pl.Series) -> pl.Series:
    """Without blanks around it, null if nothing is left."""
    stripped = pl.col("text").str.strip_chars()
    frame = text.to_frame("text")
    return frame.select(text=pl.when(stripped != "").then(stripped))["text"]


def _parse_numbers(text: pl.Series) -> pl.Series:
    return text.cast(pl.Float64, strict=False)


def _parse_iso(text: pl.Series) -> pl.Series:
    """Each form reads what the forms before it left, so a uniform column is parsed once."""
    sample = _first_rows(text)
    best = max(ISO_FORMS, key=lambda form: _try_form(sample, form).count())
    seconds = _try_form(text, best)
    for form in ISO_FORMS:
        left = (seconds.is_null() & text.is_not_null()).arg_true()
        if left.is_empty():
            break
        if form != best:
            seconds = seconds.scatter(left, _try_form(text.gather(left), form))
    return seconds


def _try_form(text: pl.Series, form: str) -> pl.Series:
    return _epoch(text.str.to_datetime(form, strict=False, time_unit="us"))


def _epoch(times: pl.Series) -> pl.Series:
    return times.dt.epoch("us").cast(pl.Float64) / 1e6
