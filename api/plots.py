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
    axes.axvline(found["saturated"]["per_second"], color="grey", label="most visits a second")
    axes.set(xlabel="visits per second: an event, then a list", ylabel="milliseconds", yscale="log")
    axes.legend(ncols=2)
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.savefig(path)
