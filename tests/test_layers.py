"""A file imports only from files above it; every engine stays behind its own file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Every file of recsys, in the order of the architecture: each may import those above it.
ORDER = [
    *("arrays", "cores", "events", "durations", "config"),
    *("items", "itemfiles"),
    *("timestamps", "cautions", "logfiles", "categories", "logrows", "quarantine", "logs"),
    *("metrics", "index", "topk"),
    *("interrupts", "numbers", "grouped", "interactions", "userfiles"),
    *("terms", "aggregates", "aggregate_log", "snapshot", "session"),
    *("catalog", "filters", "unseen", "models.attributes"),
    *("models.als", "models.bpr", "models.svd", "models.embedding"),
    *("models.tally", "models.item_knn"),
    *("models.transitions", "models.continuations"),
    *("models.session_knn", "models.session_embedding"),
    *("models.popularity", "models.forest", "models.net"),
    *("bundle", "side_index", "listfiles"),
    *(
        "columns",
        "baskets",
        "retrieval",
        "assortment",
        "features",
        "newcomers",
        "ranking",
        "blend",
        "rules",
        "selection",
    ),
    *("recommend", "batch"),
    *("probation", "drift", "appendonly", "embedded", "store", "mirror", "shelf"),
    *("lake", "backfill", "stream", "registry"),
    *("evaluation.split", "evaluation.replay", "training"),
    *("evaluation.freshness", "evaluation.systems", "evaluation.tally", "evaluation.report"),
    *("evaluation.findings", "evaluation.evaluate", "gate", "refit"),
    *("evaluation.ablation", "evaluation.tables"),
    *("evaluation.origin", "evaluation.plots", "evaluation.page"),
    *("tuning.space", "tuning.questions", "tuning.trials", "tuning.fits", "tuning.ranked"),
    *("tuning.stages", "tuning.sources", "tuning.plan", "tuning.tune", "tuning.settings"),
    "tuning.runs",
    *("bundle_commands", "batch_command"),
    "cli",
]

# Who may import what is not ours.
ENGINES = {
    "implicit": ("recsys/models/",),
    "lightgbm": ("recsys/models/",),
    "faiss": ("recsys/index.py",),
    "optuna": ("recsys/tuning/",),
    "redis": ("recsys/store.py", "recsys/stream.py"),
    "hiredis": ("recsys/store.py",),
    "fastapi": ("api/",),
    "starlette": ("api/",),
    "uvicorn": ("api/",),
    "matplotlib": ("recsys/evaluation/plots.py", "api/plots.py"),
    "jinja2": ("recsys/evaluation/page.py",),
}

FILES = sorted(path for top in ("recsys", "api") for path in (ROOT / top).rglob("*.py"))
RECSYS = [path for path in FILES if path.is_relative_to(ROOT / "recsys")]


def imports(path: Path, body: list[ast.stmt] | None = None) -> Iterator[str]:
    """Every module a file imports, dotted; ``from a import b`` gives ``a.b`` where that is a file.

    body: only these statements, not those nested in functions.
    """
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if body is None else body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what is imported"
            for alias in node.names:
                nested = f"{node.module}.{alias.name}"
                yield nested if is_file(nested) else str(node.module)


def is_file(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "recsys").with_suffix("").parts)


@pytest.mark.parametrize("path", RECSYS, ids=name_of)
def test_a_file_imports_only_from_files_above_it(path: Path) -> None:
    """The layers of the architecture hold, file by file."""
    if path.name == "__init__.py":
        return
    name = name_of(path)
    assert name in ORDER, f"give {name} its place in ORDER"
    above = set(ORDER[: ORDER.index(name)])
    ours = {m.removeprefix("recsys.") for m in imports(path) if m.startswith("recsys.")}
    assert ours <= above, f"{name} reaches down to {sorted(ours - above)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_engine_stays_behind_its_own_file(path: Path) -> None:
    """implicit, FAISS, Redis and the web framework can each be replaced in one place."""
    place = path.relative_to(ROOT).as_posix()
    for module in imports(path):
        allowed = ENGINES.get(module.partition(".")[0], (place,))
        assert place.startswith(allowed), f"{place} imports {module}"


@pytest.mark.parametrize("path", RECSYS, ids=name_of)
def test_the_library_does_without_the_api(path: Path) -> None:
    """Only the command line starts the API, and imports it only then."""
    at_once = list(imports(path, ast.parse(path.read_text()).body))
    later = imports(path) if path.name != "cli.py" else []
    assert not [m for m in [*at_once, *later] if m.partition(".")[0] == "api"]


def test_the_order_names_only_files_that_exist() -> None:
    """The list above is true in the other direction too."""
    missing = {name for name in ORDER if not is_file(f"recsys.{name}")}
    assert not missing
