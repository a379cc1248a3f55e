"""Tables: a report for a terminal, which may be 80 columns wide."""

from collections.abc import Iterator

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from recsys.evaluation.ablation import Ablation
from recsys.evaluation.report import Lift, Report
from recsys.evaluation.systems import SYSTEMS
from recsys.gate import Verdict
from recsys.metrics import Estimate


def report_table(report: Report) -> Group:
    """The figures for a terminal; notes and warnings are left to the caller."""
    return Group(*_parts(report))


def ablation_table(found: Ablation) -> Group:
    """What changes when one source or group of features is off."""
    columns = [name for name in found.figures if name.split("@")[0] in ("hr", "mrr", "ndcg")]
    table = _table("off", *columns, "its 95 % interval", "µs")
    all_on = (f"{found.figures[column]:.4f}" for column in columns)
    table.add_row("nothing", *all_on, "", f"{found.microseconds:.0f}")
    group = None
    for row in found.parts:
        if row["group"] != group:
            group = row["group"]
            table.add_row(f"[bold]{group}[/]")
        last = row["difference"][columns[-1]]
        table.add_row(
            f"  {row['off']}",
            *(f"{row['difference'][column]['value']:+.4f}" for column in columns),
            f"{last['low']:+.4f} … {last['high']:+.4f}",
            f"{row['microseconds']:+.0f}",
        )
    return Group(Text(ablation_words(found)), table)


def ablation_words(found: Ablation) -> str:
    """Why its figures are not those of the report."""
    return (
        f"ablation: {found.lists:,} of the lists, rankers that learn from {found.requests:,} "
        "requests"
    )


def verdict_table(verdict: Verdict) -> Group:
    """What the gate found: each system beside the candidate, what was decided and why."""
    title = f"gate: {'passed' if verdict.passed else 'refused'} ({verdict.protocol})"
    parts: list[RenderableType] = [Text(title, style="green" if verdict.passed else "red")]
    table = _table(verdict.metric, "requests", "its own", "candidate", "more", "95 % interval")
    for name, found in verdict.compared.items():
        numbers = (found.other.value, found.candidate.value)
        shown = ("–" if value is None else f"{value:.4f}" for value in numbers)
        table.add_row(name, f"{found.requests:,}", *shown, *_more(found.difference))
    if verdict.compared:
        parts.append(table)
    return Group(*parts, *(Text(f"- {reason}") for reason in verdict.reasons))


def percent(estimate: Estimate) -> tuple[str, str]:
    """A share and its interval as signed percentages, as far as they are defined."""
    if estimate.value is None:
        return "–", ""
    if estimate.low is None or estimate.high is None:
        return _signed(estimate.value), ""
    return _signed(estimate.value), f"{_signed(estimate.low)} … {_signed(estimate.high)}"


def _parts(report: Report) -> Iterator[RenderableType]:
    kind = "interrupted after " if report.partial else ""
    yield Text(
        f"{report.protocol}, placement {report.placement}: {kind}{report.samples:,} lists in "
        f"{report.sessions:,} sessions, bundle {report.bundle}"
    )
    yield _systems(report)
    yield Text(
        f"lift: full over batch, which is {batch_words(report)}\n"
        "popularity: mean share of an item in training; novelty: bits; diversity: 1 - mean cosine"
    )
    k = report.calibration.at
    if extra := [n for n in report.systems if n not in (*SYSTEMS, *report.silent)]:
        yield _others(report, extra, k)
    if report.freshness:
        yield Text("full, seeing only events that are older than a delay")
        yield _freshness(report, k)
    if report.slices:
        yield _slices(report, k)
    latency = ", ".join(f"{name} {value:.0f}" for name, value in report.latency_us.items())
    yield Text(f"microseconds to fold a session and rank for it: {latency}")


def batch_words(report: Report) -> str:
    """Which mixes stand for batch, in words."""
    batch = report.batch
    parts = [
        f"{mix!r} for {who}"
        for mix, who in ((batch.known, "known users"), (batch.strangers, "others"))
        if mix is not None
    ]
    compared = max((len(found) for found in batch.mixes.values()), default=0)
    return f"{' and '.join(parts)}, the best of {compared} mixes by {batch.metric}"


def _systems(report: Report) -> Table:
    """One row a metric: lists of metrics grow, systems stay four."""
    table = _table("metric", *SYSTEMS, "lift", "95 % interval")
    for name in report.columns():
        figures = (f"{report.systems[system][name]:.4f}" for system in SYSTEMS)
        table.add_row(name, *figures, *_lifted(report.lift.get(name)))
    return table


def _others(report: Report, names: list[str], k: int) -> Table:
    columns = [f"{metric}@{k}" for metric in ("hr", "mrr", "ndcg", "coverage")]
    table = _table("told everything, ranked by", *columns)
    for name in [*names, "full"]:
        table.add_row(name, *(f"{report.systems[name][column]:.4f}" for column in columns))
    return table


def _freshness(report: Report, k: int) -> Table:
    hit, gain = f"hr@{k}", f"ndcg@{k}"
    table = _table("older than", hit, "lost", "95 % interval", gain, "lost", "95 % interval")
    for delay in report.freshness:
        cells = []
        for name in (hit, gain):
            lost = percent(delay.loss[name].relative) if delay.seconds else ("", "")
            cells += [f"{delay.figures[name]:.4f}", *lost]
        table.add_row(delay.delay, *cells)
    return table


def _slices(report: Report, k: int) -> Table:
    metric = f"ndcg@{k}"
    table = _table(f"{metric} by", "lists", "batch", "session", "full", "lift", "95 % interval")
    for kind, parts in report.slices.items():
        table.add_row(f"[bold]{kind}[/]")
        for name, part in parts.items():
            figures = (f"{part.systems[s][metric]:.4f}" for s in ("batch", "session", "full"))
            lift = percent(part.lift[metric].relative)
            table.add_row(f"  {name}", f"{part.samples:,}", *figures, *lift)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=SIMPLE, pad_edge=False)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _lifted(lift: Lift | None) -> tuple[str, str]:
    return ("–", "") if lift is None else percent(lift.relative)


def _more(estimate: Estimate) -> tuple[str, str]:
    if estimate.value is None:
        return "–", ""
    return f"{estimate.value:+.4f}", f"{estimate.low:+.4f} … {estimate.high:+.4f}"


def _signed(share: float) -> str:
    return f"{share:+.0%}" if abs(share) >= 1 else f"{share:+.1%}"
