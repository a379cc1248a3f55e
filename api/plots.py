"""Plots of benchmarks, as pictures in files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def latency_by_load(found: Mapping[str, Any], path: Path) -> None:
    """Latency against load, of what a benchmark found; .png or .svg."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    rows = found["rates"]
    for name, style in (("p50", "-"), ("p90", "--"), ("p99", ":")):
        for kind, colour in (("list_ms", "tab:blue"), ("event_ms", "tab:orange")):
            axes.plot(
                [row["per_second"] for row in rows],
                [row[kind][name] for row in rows],
                style,
                color=colour,
                marker="o",
                label=f"{kind.removesuffix('_ms')} {name}",
            )
    for kind, colour in (("list_ms", "tab:blue"), ("event_ms", "tab:orange")):
        limit = found["limit_rates"]
        axes.plot(
            [row["per_second"] for row in limit],
            [row[kind]["p99"] for row in limit],
            color=colour,
            alpha=0.4,
            linewidth=0.8,
            label=f"{kind.removesuffix('_ms')} p99, canned lists",
        )
    axes.axvline(found["saturated"]["per_second"], color="grey", label="most visits a second")
    axes.set(
        xlabel="visits per second: an event, then a list", ylabel="milliseconds", ylim=(0, None)
    )
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path)


def cost_by_scale(found: Mapping[str, Any], path: Path) -> None:
    """What a list costs by items, events of the session, its length and its filter's values."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 2)
    rows = found["sizes"]
    first = panels[0, 0]
    items = [row["items"] for row in rows]
    for name, style in (("p50", "-"), ("p90", "--"), ("p99", ":")):
        times = [row["by_n"]["20"][name] for row in rows]
        first.plot(items, times, style, color="tab:blue", marker="o", label=f"list {name}")
        times = [row["session_knn_us"][name] for row in rows]
        first.plot(items, times, style, color="tab:orange", marker="o", label=f"session-kNN {name}")
    first.set(xlabel="items", xscale="log", ylabel="µs, one thread", ylim=(0, None))
    others = (
        ("events of the session", "by_length"),
        ("items of the list", "by_n"),
        ("values of the filter", "by_filter"),
    )
    for axes, (label, key) in zip(panels.ravel()[1:], others, strict=True):
        for number, row in enumerate(rows):
            steps = [int(step) for step in row[key]]
            for name, style in (("p50", "-"), ("p99", ":")):
                times = [cell[name] for cell in row[key].values()]
                name_ = f"{row['items']:,} items, {name}"
                axes.plot(steps, times, style, color=f"C{number}", marker="o", label=name_)
        axes.set(xlabel=label, xscale="log", ylabel="µs, one thread", ylim=(0, None))
    for axes in panels.ravel():
        axes.grid(visible=True, alpha=0.3)
    first.legend(fontsize="small")
    of_sizes = panels[0, 1].get_legend_handles_labels()
    figure.legend(*of_sizes, loc="outside lower center", ncols=len(rows), fontsize="small")
    figure.savefig(path)
