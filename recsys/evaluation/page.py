"""Page: a report as one self-contained HTML file that asks for nothing from anywhere."""

import os
import secrets
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from recsys.evaluation import plots
from recsys.evaluation.split import EvaluationError
from recsys.evaluation.systems import SYSTEMS

Plain = dict[str, Any]

TEMPLATE = "page.html"


def check_page(path: Path) -> None:
    """Make the folder of a page. Raises EvaluationError where no file can come to be."""
    try:
        if path.is_dir():
            raise EvaluationError(f"--report: {path} is a folder; name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"--report: {path} cannot be written: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK):
        raise EvaluationError(f"--report: {path.parent} is not writable; choose another folder")


def write(path: Path, report: Plain) -> None:
    """Write the page of a report; whoever opens it sees the old one or all of the new one."""
    aside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        aside.write_text(render(report), encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def render(report: Plain) -> str:
    """The page of a report in plain JSON values (`Report.to_dict`).

    Optional fields: ``reproduce`` as in `recsys.evaluation.origin`; ``ablation`` as in
    `recsys.evaluation.ablation`.
    """
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {"fig": figure, "share": share, "interval": interval, "lifted": lifted}
    page.filters["signed"] = signed
    pictures = {plot.__name__: _markup(plot(report)) for plot in plots.PLOTS}
    return page.get_template(TEMPLATE).render(
        report=report,
        k=report["calibration"]["at"],
        told=plots.headline(report),
        four=SYSTEMS,
        others=[n for n in report["systems"] if n not in (*SYSTEMS, *report["silent"])],
        pictures=pictures,
        ablation=report.get("ablation"),
        reproduce=report.get("reproduce"),
        # Inside a script element only "</" would end it early.
        data=Markup(orjson.dumps(report).decode().replace("</", "<\\/")),
    )


def figure(value: float | None) -> str:
    """A metric, four digits behind the point."""
    return "–" if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    """A change of a metric, four digits behind the point."""
    return "–" if value is None else f"{value:+.4f}"


def share(value: float | None) -> str:
    """A fraction as a percentage."""
    return "–" if value is None else f"{100 * value:.1f} %"


def lifted(estimate: Plain) -> str:
    """A relative change as a signed percentage."""
    return "–" if estimate["value"] is None else f"{100 * estimate['value'] + 0.0:+.1f} %"


def interval(estimate: Plain) -> str:
    """The 95 % interval of a relative change, empty where it is not defined."""
    if estimate["low"] is None or estimate["high"] is None:
        return ""
    return f"{100 * estimate['low']:+.1f} … {100 * estimate['high']:+.1f}"


def _markup(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)
