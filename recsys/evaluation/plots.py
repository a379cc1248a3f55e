"""Plots: pictures of a report as SVG that a page takes in, in the page's own colours.

Drawn narrow, so that their text can be read on a phone. Each is a function of the plain report (see
`recsys.evaluation.report`) and gives None where the report lacks what it shows.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

Plain = dict[str, Any]  # a report as JSON values

# matplotlib knows no variables of CSS: each colour is drawn as a stand-in and replaced afterwards.
COLOURS = ("ink", "line", "popular", "batch", "session", "full", "accent")
STAND_INS = {name: f"#0000{number:02x}" for number, name in enumerate(COLOURS, 1)}

WIDTH = 4.6  # inches, at 72 units each
LETTERS = 9.5  # units high
STYLE = {
    "svg.fonttype": "none",
    "font.size": LETTERS,
    "axes.edgecolor": STAND_INS["line"],
    "axes.labelcolor": STAND_INS["ink"],
    "text.color": STAND_INS["ink"],
    "xtick.color": STAND_INS["ink"],
    "ytick.color": STAND_INS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": STAND_INS["line"],
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 2.2,
    "lines.markersize": 5,
}


def lift(report: Plain) -> str | None:
    """What full adds to batch in each metric, with 95 % intervals; equal metrics are shown once.

    With one item looked for, recall is HR and precision its k-th part.
    """
    k = report["calibration"]["at"]
    shown: dict[tuple[float | None, ...], tuple[str, Plain]] = {}
    for name, value in report["lift"].items():
        if name.endswith(f"@{k}") and value["value"] is not None:
            ends = (value[end] for end in ("value", "low", "high"))
            key = tuple(None if end is None else round(end, 3) for end in ends)
            shown.setdefault(key, (name, value))
    rows = dict(shown.values())
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        _intervals(axes, rows, "full")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+.0%}"))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("full over batch, 95 % interval")

    return _svg("lift", _said(rows, "lift of full over batch", "{:+.1%}"), draw, len(rows))


def freshness(report: Plain) -> str | None:
    """Quality of full by delay, with the level of batch and popular."""
    curve = report["freshness"]
    if not curve:
        return None
    metric = headline(report)
    values = [delay["figures"][metric] for delay in curve]
    start = values[0]

    def bound(delay: Plain, side: str) -> float:
        edge = delay["loss"][metric]["difference"][side]
        return float(start if edge is None else start - edge)

    def draw(axes: Axes) -> None:
        x = range(len(curve))
        low, high = [bound(d, "high") for d in curve], [bound(d, "low") for d in curve]
        axes.fill_between(x, low, high, color=STAND_INS["full"], alpha=0.18, linewidth=0)
        axes.plot(x, values, "o-", color=STAND_INS["full"], label="full")
        for name, dashes in (("batch", "--"), ("popular", ":")):
            level = report["systems"][name][metric]
            axes.axhline(level, color=STAND_INS[name], linestyle=dashes, linewidth=1.6, label=name)
        for place, value in enumerate(values):
            axes.annotate(f"{value:.3f}", (place, value), xytext=(4, 5), textcoords="offset points")
        axes.set_xticks(list(x), [delay["delay"] for delay in curve])
        axes.set_ylim(bottom=0, top=max(max(high), *values) * 1.15 or 1)
        axes.set_xlabel("the engine sees only events that are older than")
        axes.set_ylabel(metric.upper())
        axes.grid(axis="y")
        _legend(axes)

    said = ", ".join(f"{d['delay']} {v:.3f}" for d, v in zip(curve, values, strict=True))
    return _svg("freshness", f"{metric} of full by delay: {said}", draw, 9)


def by_length(report: Plain) -> str | None:
    """Quality of batch, session and full by session length."""
    parts = report["slices"].get("session length")
    if not parts:
        return None
    metric = f"ndcg@{report['calibration']['at']}"
    figures = {
        name: [part["systems"][name][metric] for part in parts.values()]
        for name in ("batch", "session", "full")
    }
    if figures["session"] == figures["full"]:  # without known users
        del figures["session"]

    def draw(axes: Axes) -> None:
        marks = {"batch": "s--", "session": "^-.", "full": "o-"}
        for name, values in figures.items():
            axes.plot(list(parts), values, marks[name], color=STAND_INS[name], label=name)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("events of the session so far")
        axes.set_ylabel(metric.upper())
        axes.grid(axis="y")
        _legend(axes)

    said = "; ".join(
        f"{name}: " + ", ".join(f"{n} {v:.3f}" for n, v in zip(parts, values, strict=True))
        for name, values in figures.items()
    )
    return _svg("length", f"{metric} by session length. {said}", draw, 9)


def sources(report: Plain) -> str | None:
    """Each system that was asked for beside the four and had something to say, with full."""
    metric = f"ndcg@{report['calibration']['at']}"
    left_out = ("batch", "session", *report["silent"])
    named = [name for name in report["systems"] if name not in left_out]
    if len(named) <= 2:
        return None
    values = {name: report["systems"][name][metric] for name in named}
    ordered = dict(sorted(values.items(), key=lambda pair: pair[1]))

    def draw(axes: Axes) -> None:
        colours = [STAND_INS.get(name, STAND_INS["session"]) for name in ordered]
        bars = axes.barh(list(ordered), list(ordered.values()), color=colours, height=0.66)
        axes.bar_label(bars, fmt="{:.3f}", padding=3)
        axes.set_xlim(right=max(ordered.values()) * 1.17 or 1)
        axes.set_xlabel(metric.upper())

    said = ", ".join(f"{name} {value:.3f}" for name, value in reversed(ordered.items()))
    return _svg("sources", f"{metric} of each source alone: {said}", draw, len(ordered))


def ablation(report: Plain) -> str | None:
    """What is lost without each source or group of features."""
    found = report.get("ablation")
    if not found:
        return None
    metric = f"ndcg@{report['calibration']['at']}"
    shown = {row["off"]: row["difference"][metric] for row in found["parts"]}

    def draw(axes: Axes) -> None:
        _intervals(axes, shown, "accent")
        axes.set_xlabel(f"{metric.upper()} without it, against all, 95 % interval")

    said = _said(shown, f"change of {metric} without", "{:+.4f}")
    return _svg("ablation", said, draw, len(shown))


def latency(report: Plain) -> str | None:
    """Percentiles of the time that the session's fold and the ranking took."""
    values = report["latency_us"]

    def draw(axes: Axes) -> None:
        names = [*reversed(values)]
        bars = axes.barh(names, [values[n] for n in names], color=STAND_INS["full"], height=0.6)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3)
        axes.set_xlim(right=max(values.values()) * 1.2)
        axes.set_xlabel("microseconds, one thread, without network and Redis")

    said = ", ".join(f"{name} {value:.0f} µs" for name, value in values.items())
    return _svg("latency", f"latency: {said}", draw, len(values))


def headline(report: Plain) -> str:
    """The metric that says most: HR where one item is looked for, NDCG where several are."""
    name = "hr" if report["protocol"] == "next-item" else "ndcg"
    return f"{name}@{report['calibration']['at']}"


def _legend(axes: Axes) -> None:
    """Above the picture, where no line can run through it."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)


def _intervals(axes: Axes, shown: dict[str, Plain], colour: str) -> None:
    """A point and its interval a row, the first on top, and a line at zero."""
    axes.axvline(0, color=STAND_INS["ink"], linewidth=0.8)
    for place, value in enumerate(shown.values()):
        y = len(shown) - 1 - place
        if value["low"] is not None and value["high"] is not None:
            axes.plot([value["low"], value["high"]], [y, y], color=STAND_INS[colour])
        axes.plot([value["value"]], [y], "o", color=STAND_INS[colour])
    axes.set_yticks(range(len(shown)), [*reversed(shown)])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.grid(axis="x")


def _said(shown: dict[str, Plain], what: str, form: str) -> str:
    """The picture in words, for those who do not see it."""
    rows = []
    for name, value in shown.items():
        known = value["low"] is not None and value["high"] is not None
        within = f" ({form} to {form})".format(value["low"], value["high"]) if known else ""
        rows.append(f"{name} {form.format(value['value'])}{within}")
    return f"{what}: {', '.join(rows)}"


def _svg(name: str, said: str, draw: Callable[[Axes], None], rows: int) -> str:
    """The picture as an <svg> element. rows: lines of text it must have room for."""
    style: Any = STYLE | {"svg.hashsalt": name}  # its type differs between versions
    with rc_context(style):
        figure = Figure(figsize=(WIDTH, 0.7 + 0.27 * rows), layout="constrained")
        draw(figure.add_subplot())
        out = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _for_a_page(out.getvalue(), name, said)


def _for_a_page(text: str, name: str, said: str) -> str:
    """An SVG file as part of an HTML page: its ids its own, its colours the page's."""
    body = text[text.index("<svg") :]
    body = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', _opening(said), body, count=1)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    for colour, stand_in in STAND_INS.items():
        body = body.replace(stand_in, f"var(--{colour})")
    return body


def _opening(said: str) -> Callable[[re.Match[str]], str]:
    label = said.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return lambda found: f'<svg viewBox="{found[1]}" role="img" aria-label="{label}">'


PLOTS: Sequence[Callable[[Plain], str | None]] = (
    *(lift, freshness, by_length, sources),
    *(ablation, latency),
)
