"""Bundle: everything serving needs, as one immutable, content-hashed folder of arrays and JSON."""

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from recsys import index as faiss_index
from recsys.aggregates import Aggregates
from recsys.config import Config, ConfigError, config_from_dict
from recsys.events import InputError
from recsys.index import Index
from recsys.interactions import History, IdMap
from recsys.models.attributes import EMPTY as NO_ATTRIBUTES
from recsys.models.attributes import NO_IDS, Attributes
from recsys.models.continuations import Continuations
from recsys.models.embedding import Embedding
from recsys.models.forest import Forest
from recsys.models.item_knn import ItemKnn
from recsys.models.net import Net
from recsys.models.popularity import Popularity
from recsys.models.session_embedding import SessionEmbedding
from recsys.models.session_knn import SessionKnn
from recsys.models.transitions import Transitions
from recsys.snapshot import EMPTY, Snapshot, state_of
from recsys.terms import NOTHING, Terms
from recsys.unseen import Unseen

FORMAT = 13
MANIFEST = "manifest.json"
INDEX = "index.faiss"
SESSION_INDEX = "session_index.faiss"
NOTED = "checked.json"  # beside them: when which file was found right

Part = TypeVar("Part")


class BundleError(InputError):
    """A bundle folder is missing, incomplete, altered or of another format."""


@dataclass(frozen=True)
class Facts:
    """What is known of a bundle beside its arrays.

    cutoff: Unix seconds of the last training event; nothing later may have reached the bundle.
    clock: "time" or "rows". counts: events, users, items, sessions. metrics: measured at build.
    exclude_bought: what the placements' "auto" came to. ranker: which ranking was trained and why.
    features: what the ranker was trained on, in order, with its share of the forest's gain.
    openings: how many of the requests it learned from were of a known user with no session yet.
    in_order: the log's end is its latest part, see `recsys.evaluation.split.has_order`. line: of a
    refit, the versions it comes from, the full training first, what it was refitted from last.
    """

    cutoff: float
    clock: str
    counts: dict[str, int]
    metrics: dict[str, float]
    exclude_bought: bool
    ranker: str
    features: dict[str, float]
    openings: int = 0
    in_order: bool = True
    line: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Bundle:
    """The batch half of a recommendation; in memory after training, memory-mapped when loaded."""

    version: str
    config: Config
    facts: Facts
    items: IdMap
    users: IdMap
    history: History
    popularity: Popularity
    embedding: Embedding
    item_knn: ItemKnn
    transitions: Transitions
    continuations: Continuations
    session_knn: SessionKnn
    session_embedding: SessionEmbedding
    forest: Forest
    net: Net
    index: Index = field(repr=False)
    session_index: Index = field(repr=False)
    snapshot: Snapshot = field(default=EMPTY, repr=False)  # of the aggregates it declares
    # What attributes say, by terms, and of which items nothing else says anything.
    attribute_terms: IdMap = field(default=NO_IDS, repr=False)
    attributes: Attributes = field(default=NO_ATTRIBUTES, repr=False)
    unseen_items: IdMap = field(default=NO_IDS, repr=False)
    categories: IdMap = field(default=NO_IDS, repr=False)  # of its items, as its log has them
    terms: Terms = field(default=NOTHING, repr=False)

    @property
    def cutoff(self) -> float:
        return self.facts.cutoff

    @cached_property
    def aggregates(self) -> Aggregates:
        """What the stream would say had nothing come since training, for who has no stream."""
        return state_of(self.snapshot, self.config)

    @cached_property
    def unseen(self) -> Unseen:
        """The items of the catalogue that it was trained with and does not know, for who has none
        of now."""
        size = self.session_embedding.item_vectors.shape[1]
        names = self.unseen_items.ids(range(len(self.unseen_items)))
        return Unseen(names, self.attributes.unseen.reshape(-1, size))

    @property
    def likeness(self) -> tuple[str, NDArray[np.float32]]:
        """By what items are alike: an embedding's name and item vectors [items, d], of any length.

        The session embedding; the other where no session has two events to learn it from.
        """
        vectors = self.session_embedding.item_vectors
        if len(vectors):
            return "session", vectors
        return self.config.embedding.model, self.embedding.item_factors


PARTS: dict[str, type[Any]] = {
    "items": IdMap,
    "users": IdMap,
    "history": History,
    "popularity": Popularity,
    "embedding": Embedding,
    "item_knn": ItemKnn,
    "transitions": Transitions,
    "continuations": Continuations,
    "session_knn": SessionKnn,
    "session_embedding": SessionEmbedding,
    "forest": Forest,
    "net": Net,
    "snapshot": Snapshot,
    "attribute_terms": IdMap,
    "attributes": Attributes,
    "unseen_items": IdMap,
    "categories": IdMap,
    "terms": Terms,
}


def save(bundle: Bundle, folder: Path) -> None:
    """Write a bundle into an existing empty folder, flushed to disk."""
    for name, array in _arrays(bundle).items():
        with (folder / name).open("wb") as file:
            _write_array(array, file.write)
    faiss_index.save(bundle.index, folder / INDEX)
    faiss_index.save(bundle.session_index, folder / SESSION_INDEX)
    paths = sorted(folder.iterdir())
    touched = {path.name: _touched(path) for path in paths}
    files = {path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size} for path in paths}
    manifest = {
        "format": FORMAT,
        "version": bundle.version,
        "config": bundle.config.to_dict(),
        "facts": dataclasses.asdict(bundle.facts),
        "files": files,
    }
    (folder / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    _note(folder, touched)
    for path in [*folder.iterdir(), folder]:
        fsync(path)


def load(folder: Path) -> Bundle:
    """Memory-map a bundle whose files all have the hashes of the manifest.

    Those that nobody has touched since they were written, or were looked at last, have: of a
    million items there are gigabytes. Raises BundleError, which names what is wrong.
    """
    try:
        manifest = orjson.loads((folder / MANIFEST).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise BundleError(f"{folder}: no readable {MANIFEST}: {error}") from error
    if manifest.get("format") != FORMAT:
        raise BundleError(
            f"{folder}: bundle format {manifest.get('format')}, this version reads {FORMAT}; "
            "train again"
        )
    files = manifest["files"]
    hashes = {
        name: facts["sha256"] for name, facts in files.items() if name not in (INDEX, SESSION_INDEX)
    }
    if _version(hashes, manifest["config"], manifest["facts"]) != manifest["version"]:
        raise BundleError(f"{folder}: the manifest does not match its version")
    noted = _noted(folder)
    found = {
        name: _check_file(folder / name, facts, noted.get(name)) for name, facts in files.items()
    }
    for name in files:
        _read_ahead(folder / name)
    if noted != found:
        with contextlib.suppress(OSError):  # a folder that is read only is looked at again
            _note(folder, found)
    try:
        parts = {name: _read_part(folder, name, kind) for name, kind in PARTS.items()}
        return Bundle(
            version=manifest["version"],
            config=config_from_dict(manifest["config"]),
            facts=Facts(**manifest["facts"]),
            index=faiss_index.load(parts["embedding"].item_factors, folder / INDEX),
            session_index=faiss_index.load(
                parts["session_embedding"].item_vectors, folder / SESSION_INDEX
            ),
            **parts,
        )
    except (OSError, ValueError, RuntimeError, ConfigError) as error:
        raise BundleError(f"{folder}: {error}") from error


def fsync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sealed(bundle: Bundle) -> Bundle:
    """The same bundle under its version: the hash of its arrays, configuration and facts.

    The same log, configuration and seed give the same version. The index is left out: it follows
    from the factors, the configuration and the seed.
    """
    hashes = {}
    for name, array in _arrays(bundle).items():
        digest = hashlib.sha256()
        _write_array(array, digest.update)
        hashes[name] = digest.hexdigest()
    facts = dataclasses.asdict(bundle.facts)
    return dataclasses.replace(bundle, version=_version(hashes, bundle.config.to_dict(), facts))


class _Sink(io.RawIOBase):
    """A file for numpy that is none to it: into a real file it writes past Python, and a full disk
    would be a short write without a cause."""

    def __init__(self, take: Callable[[Any], object]) -> None:
        self.take = take

    def write(self, data: Any) -> int:
        self.take(data)
        return len(data)


def _write_array(array: NDArray[Any], take: Callable[[Any], object]) -> None:
    """Hand an array in .npy format to ``take``, piece by piece."""
    np.lib.format.write_array(_Sink(take), array, allow_pickle=False)


def _arrays(bundle: Bundle) -> dict[str, NDArray[Any]]:
    return {
        f"{name}.{f.name}.npy": getattr(getattr(bundle, name), f.name)
        for name, kind in PARTS.items()
        for f in dataclasses.fields(kind)
    }


def _read_part(folder: Path, name: str, kind: type[Part]) -> Part:
    arrays = {
        # A plain view of the map: indexing an np.memmap costs microseconds more each time. To the
        # compiler an array that may not be written to is of another type than those of training,
        # and all would be compiled twice; what is written here stays in this process ("c").
        f.name: np.asarray(
            np.load(folder / f"{name}.{f.name}.npy", mmap_mode="c", allow_pickle=False)
        )
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]  # every part is a dataclass
    }
    return kind(**arrays)


def _version(hashes: dict[str, str], config: dict[str, Any], facts: dict[str, Any]) -> str:
    # The number of threads changes how long training takes, not what it gives.
    training = {**config["training"], "threads": 0}
    config = {**config, "training": training}
    content = orjson.dumps([FORMAT, hashes, config, facts], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path, facts: dict[str, Any], noted: list[int] | None) -> list[int]:
    """How a file stood when it was looked at, and was right. Raises BundleError."""
    size = path.stat().st_size if path.exists() else -1
    if size != facts["bytes"]:
        state = "is missing" if size < 0 else f"has {size} bytes instead of {facts['bytes']}"
        raise BundleError(f"{path} {state}")
    touched = _touched(path)  # before it is read: it may be touched meanwhile
    if noted != touched and _sha256(path) != facts["sha256"]:
        raise BundleError(f"{path} does not match the hash in {MANIFEST}")
    return touched


def _read_ahead(path: Path) -> None:
    """Have the system read a file meanwhile: else the first lists wait for each page of it."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _touched(path: Path) -> list[int]:
    """What changes whenever a file is written to, or is another one."""
    status = path.stat()
    return [status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _note(folder: Path, touched: dict[str, list[int]]) -> None:
    """Note how the files stood when they were found to be what the manifest says."""
    beside = folder / f".{NOTED}-{os.getpid()}"
    try:
        beside.write_bytes(orjson.dumps(touched))
        beside.replace(folder / NOTED)
    finally:
        beside.unlink(missing_ok=True)


def _noted(folder: Path) -> dict[str, list[int]]:
    """How the files stood when they were found right; none where nobody has noted that."""
    try:
        noted = orjson.loads((folder / NOTED).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return noted if isinstance(noted, dict) else {}
