"""The page says what the JSON says, to everybody, and asks for nothing from anywhere."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from recsys.bundle import Bundle
from recsys.evaluation import page
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.plots import PLOTS
from recsys.evaluation.split import EvaluationError
from recsys.logs import Log

SECTIONS = [
    *("headline", "systems", "lift", "freshness", "length", "latency", "sources"),
    *("ablation", "tables", "makeup", "slices", "notes", "reproduce"),
]
ABLATION = {
    "lists": 1234,
    "requests": 5678,
    "figures": {"hr@5": 0.41, "ndcg@5": 0.2623},
    "microseconds": 250.0,
    "parts": [
        {
            "off": "transitions",
            "group": "source",
            "figures": {"hr@5": 0.4, "ndcg@5": 0.25},
            "difference": {"ndcg@5": {"value": -0.0123, "low": -0.02, "high": -0.0045}},
            "microseconds": 31.4,
        }
    ],
}
ORIGIN = {
    "command": "recsys evaluate a.csv --report '<b>.html'",
    "version": "1.2.3",
    "python": "3.12.0",
    "files": [{"name": "a.csv", "bytes": 1234, "sha256": "ab" * 32}],
}


@pytest.fixture(scope="module")
def found(known: tuple[Bundle, Log]) -> dict[str, Any]:
    """All that a report can hold."""
    report = evaluate(
        *known, at=(5,), systems=["all"], freshness=["1s", "1m"], slices=True, max_sessions=40
    )
    plain = json.loads(json.dumps(report.to_dict()))
    return {**plain, "ablation": ABLATION, "reproduce": ORIGIN}


@pytest.fixture(scope="module")
def rendered(found: dict[str, Any]) -> str:
    return page.render(found)


class Read(HTMLParser):
    """Ids, attributes that could load something, text of cells by table, and unclosed elements."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.labels: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self.caption = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "srcset", "href", "xlink:href", "action", "data", "poster"):
                self.loads.append(str(value))
            if name == "aria-label":
                self.labels.append(str(value))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows[self.caption].append([])
        if tag in ("td", "th"):
            self.rows[self.caption][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["caption"]:
            self.caption = data.strip()
            self.rows[self.caption] = []
        elif self.open[-1:] in (["td"], ["th"]):
            self.rows[self.caption][-1][-1] += data

    def table(self, caption: str) -> dict[str, list[str]]:
        """The cells of each row by the text of its first."""
        return {row[0]: row[1:] for row in self.rows[caption]}


def test_nothing_is_loaded(rendered: str) -> None:
    """No address stands in the page, and its policy forbids what it does not name."""
    assert not re.search(
        r"https?:|url\((?!#)|@import|<script(?! type=\"application/json\")", rendered
    )
    assert all(link.startswith("#") for link in Read(rendered).loads)
    assert "default-src 'none'; style-src 'unsafe-inline'" in rendered


def test_every_section_is_there(rendered: str) -> None:
    """Each section stands there once, under its heading, and no id stands twice."""
    read = Read(rendered)
    assert read.open == []
    assert [i for i in read.ids if i in SECTIONS] == SECTIONS
    assert {f"t-{name}" for name in SECTIONS} <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))


def test_every_picture_says_what_it_shows(rendered: str, found: dict[str, Any]) -> None:
    """All six plots are drawn, each with its figures in words."""
    labels = Read(rendered).labels
    assert len(labels) == len(PLOTS)
    hits = [f"{d['delay']} {d['figures']['hr@5']:.3f}" for d in found["freshness"]]
    assert f"hr@5 of full by delay: {', '.join(hits)}" in labels
    assert any("transitions -0.0123 (-0.0200 to -0.0045)" in label for label in labels)


def test_numbers_are_those_of_the_json(rendered: str, found: dict[str, Any]) -> None:
    """Every cell of the tables is the JSON's value, rounded, and the page holds the JSON itself."""
    read = Read(rendered)
    systems = read.table("Means over all lists")
    for metric in found["systems"]["full"]:
        cells = [
            f"{found['systems'][s][metric]:.4f}" for s in ("popular", "batch", "session", "full")
        ]
        assert systems[metric][:4] == cells
        if metric in found["lift"]:
            lift = found["lift"][metric]
            assert systems[metric][4] == f"{100 * lift['value']:+.1f} %"
            assert systems[metric][5] == f"{100 * lift['low']:+.1f} … {100 * lift['high']:+.1f}"
    sources = read.table("Each source alone, and the blend")
    assert sources["item_knn"] == [f"{v:.4f}" for v in found["systems"]["item_knn"].values()]
    fresh = read.table("Freshness: full by delay, and what is lost (95 % interval)")
    late = found["freshness"][2]
    assert fresh["1m"][0] == f"{late['figures']['hr@5']:.4f}"
    assert fresh["1m"][1] == f"{100 * late['loss']['hr@5']['value']:+.1f} %"
    part = found["slices"]["session length"]["1"]
    assert read.table("Parts of the lists")["1"][:2] == [
        str(part["samples"]),
        f"{part['systems']['batch']['ndcg@5']:.4f}",
    ]
    assert read.table("Ablation: figures with one part off")["transitions"][0] == "-0.0123"
    (data,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', rendered)
    assert json.loads(data) == found


def test_the_way_back_is_there(rendered: str, found: dict[str, Any]) -> None:
    """Command, bundle, package and the hashes of all files stand in the page, safely quoted."""
    assert "recsys evaluate a.csv --report &#39;&lt;b&gt;.html&#39;" in rendered
    assert "<b>.html" not in rendered.split('id="report">')[0]
    for text in (found["bundle"], "recsys-live 1.2.3", "ab" * 32, "1,234 bytes"):
        assert text in rendered


def test_pictures_are_whole_and_take_the_colours_of_the_page(rendered: str) -> None:
    """Each picture is one SVG element without fixed colours, readable as XML."""
    pictures = re.findall(r"<svg .*?</svg>", rendered, re.DOTALL)
    assert len(pictures) == len(PLOTS)
    for picture in pictures:
        ElementTree.fromstring(picture.replace("xlink:href", "href"))
        assert "var(--full)" in picture or "var(--accent)" in picture
        assert not re.search(r"#0000\d\d", picture)


def test_a_sparse_report(anonymous: tuple[Bundle, Log]) -> None:
    """Without freshness, slices, other systems and origin the sections say what is missing."""
    report = evaluate(*anonymous, max_sessions=5).to_dict()
    text = page.render({**report, "clock": "rows"})
    read = Read(text)
    assert [i for i in read.ids if i in SECTIONS] == SECTIONS
    for missing in ("the log has no times", "No slices", "No ablation", "No other systems"):
        assert missing in text
    assert "only 5 visitors" in text


def test_undefined_values_are_dashes(found: dict[str, Any]) -> None:
    """Where batch never hits there is no lift, and the page says so rather than fail."""
    none = {"value": None, "low": None, "high": None}
    lift = {name: {**none, "difference": none} for name in found["lift"]}
    curve = [{**delay, "loss": lift} for delay in found["freshness"]]
    text = page.render({**found, "lift": lift, "freshness": curve})
    assert Read(text).table("Means over all lists")["hr@5"][4:] == ["–", ""]
    assert "there is no relative lift" in text


def test_written_at_once(
    tmp_path: Path, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that cannot be finished leaves the old one and nothing beside it."""
    path = tmp_path / "deep" / "out.html"
    page.check_page(path)
    page.write(path, found)
    before = path.read_text()
    assert before.startswith("<!doctype html>")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        page.write(path, found)
    assert path.read_text() == before
    assert os.listdir(path.parent) == ["out.html"]


def test_impossible_places_are_refused_beforehand(tmp_path: Path) -> None:
    """A folder, or a place below a file, is named before any training."""
    with pytest.raises(EvaluationError, match="is a folder"):
        page.check_page(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot be written"):
        page.check_page(tmp_path / "file" / "out.html")
