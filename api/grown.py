"""Grown: the bundle of a shop many times as large, made from one that was trained.

The shop is copied until it has so many items: each copy has the same visitors, who never meet those
of another. What is counted is counted anew over all of their sessions by the models' own code; what
was learned is taken over, the vectors of each copy turned another way, so that copies of an item
are no nearer to each other than other items are.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recsys import index as faiss_index
from recsys.bundle import Bundle, sealed
from recsys.events import InputError
from recsys.interactions import History, IdMap, Sequences
from recsys.models import continuations, popularity, session_knn, transitions
from recsys.models.attributes import NO_IDS
from recsys.models.item_knn import ItemKnn
from recsys.snapshot import EMPTY
from recsys.terms import NOTHING

Floats = NDArray[np.float32]

NOBODY = History(
    np.zeros(1, np.int64),
    np.zeros(0, np.int32),
    np.zeros(0, np.float32),
    np.zeros(0, np.bool_),
    np.zeros(1, np.int64),
    np.zeros(0, np.int32),
)


def grown(bundle: Bundle, items: int, dimensions: int = 0) -> Bundle:
    """A bundle of so many items: the most popular ones where that is fewer, else copies of them.

    Without users, categories and aggregates. dimensions: of its session embedding, the principal
    ones; 0 for those it has. Raises InputError.
    """
    have = len(bundle.items)
    if items < 100:
        raise InputError(f"items: at least 100 are needed, got {items}")
    copies = -(-items // have)
    kept = -(-items // copies)  # rows descend by popularity
    rng = np.random.default_rng(0)
    sequences = _sequences(bundle, kept, copies, items)
    vectors = _turned(
        _principal(bundle.session_embedding.item_vectors[:kept], dimensions), copies, rng
    )
    encoder = replace(bundle.session_embedding, item_vectors=vectors[:items])
    factors = np.repeat(bundle.embedding.item_factors[:kept], copies, axis=0)[:items]
    shares = bundle.embedding.shares
    if len(shares):
        shares = np.repeat(shares[:kept], copies)[:items]
    config = bundle.config
    size = replace(config.session_embedding, embedding_size=vectors.shape[1])
    config = replace(config, session_embedding=size)
    counts = np.repeat(bundle.popularity.counts[:kept], copies)[:items]
    strangers = np.ones(len(sequences.indptr) - 1, dtype=np.bool_)
    ids = bundle.items.ids(range(kept))
    names = [f"{name}~{copy}" for name in ids for copy in range(copies)][:items]
    seed = config.training.seed
    made = replace(
        bundle,
        config=config,
        facts=replace(
            bundle.facts,
            counts={
                "events": len(sequences.items),
                "users": 0,
                "items": items,
                "sessions": len(strangers),
            },
        ),
        items=IdMap.from_ids(names),
        users=NO_IDS,
        history=NOBODY,
        popularity=popularity.fit(sequences, strangers, counts),
        embedding=replace(bundle.embedding, item_factors=factors, shares=shares),
        item_knn=_neighbours(bundle.item_knn, kept, copies, items),
        transitions=transitions.fit(sequences, items, config.transitions),
        continuations=continuations.fit(sequences, items, config.continuations),
        session_knn=session_knn.fit(sequences, items, config.session_knn),
        session_embedding=encoder,
        index=faiss_index.build(factors, config.index, seed),
        session_index=faiss_index.build(encoder.item_vectors, config.session_index, seed),
        snapshot=EMPTY,
        unseen_items=NO_IDS,
        categories=NO_IDS,
        terms=NOTHING,
    )
    return sealed(made)


def _sequences(bundle: Bundle, kept: int, copies: int, items: int) -> Sequences:
    """The sessions of all copies, those of a moment beside each other."""
    starts, rows = bundle.session_knn.indptr, bundle.session_knn.items
    session = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    session, rows = session[rows < kept], rows[rows < kept].astype(np.int64)
    copy = np.arange(copies)
    # By session, then copy, then place: all copies of one session after those of another.
    all_rows = (rows[:, None] * copies + copy).ravel()
    all_sessions = (session[:, None] * copies + copy).ravel()
    order = np.argsort(all_sessions, kind="stable")
    all_rows, all_sessions = all_rows[order], all_sessions[order]
    all_sessions, all_rows = all_sessions[all_rows < items], all_rows[all_rows < items]
    _, lengths = np.unique(all_sessions, return_counts=True)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Sequences(indptr, all_rows.astype(np.int32))


def _principal(vectors: Floats, dimensions: int) -> Floats:
    """The vectors in so many principal dimensions, unit length again."""
    if dimensions in (0, vectors.shape[1]):
        return vectors
    if dimensions > vectors.shape[1]:
        raise InputError(
            f"dimensions: the session embedding has {vectors.shape[1]}, got {dimensions}"
        )
    _, basis = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    found = vectors @ basis[:, ::-1][:, :dimensions].astype(np.float32)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    unit: Floats = found / np.maximum(lengths, 1e-9)
    return unit


def _turned(vectors: Floats, copies: int, rng: np.random.Generator) -> Floats:
    """Copies of vectors beside each other, each but the first turned another way."""
    count, size = vectors.shape
    found = np.empty((count, copies, size), np.float32)
    found[:, 0] = vectors
    for copy in range(1, copies):
        turn, _ = np.linalg.qr(rng.normal(size=(size, size)))
        found[:, copy] = vectors @ turn.astype(np.float32)
    return found.reshape(-1, size)


def _neighbours(model: ItemKnn, kept: int, copies: int, items: int) -> ItemKnn:
    """Those of each copy, in it."""
    end = int(model.starts[kept])
    of = np.repeat(np.arange(kept), np.diff(model.starts[: kept + 1]))
    near = model.neighbours[:end].astype(np.int64)
    found, rows, alike = [], [], []
    for copy in range(copies):
        inside = (near < kept) & (near * copies + copy < items) & (of * copies + copy < items)
        rows.append(of[inside] * copies + copy)
        found.append(near[inside] * copies + copy)
        alike.append(model.similarities[:end][inside])
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=items))])
    return ItemKnn(
        starts.astype(np.int64),
        np.concatenate(found)[order].astype(np.int32),
        np.concatenate(alike)[order],
    )
