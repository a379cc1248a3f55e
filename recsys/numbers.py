"""Numbers for texts: a log's ids as small integers, counted in the order in which they appear."""

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

Rows = NDArray[np.int32]


def numbered(texts: pl.Series) -> tuple[Rows, pl.Series]:
    """The number of each text, int32, -1 where there is none, and the texts by number.

    Found by their hashes of 64 bits, of which each is then compared with the text that had it
    first: two texts of one hash are told apart, in more time.
    """
    there = texts.is_not_null()
    numbers, firsts = _numbered(_hashes(texts), there.to_numpy())
    names = texts.gather(firsts)
    same = (names.gather(np.maximum(numbers, 0)) == texts) if len(names) else there
    if bool((same | ~there).all()):
        return numbers, names
    names = texts.drop_nulls().unique(maintain_order=True)
    table = pl.DataFrame({"text": names}).with_row_index("number")
    found = pl.DataFrame({"text": texts}).join(table, on="text", how="left", maintain_order="left")
    return found["number"].cast(pl.Int32).fill_null(-1).to_numpy(), names


def _hashes(texts: pl.Series) -> NDArray[np.uint64]:
    return texts.hash().to_numpy()


@njit(cache=True, nogil=True)
def renumbered(numbers: Rows) -> tuple[Rows, Rows]:
    """Numbers without those that do not occur, in the order of their first; and what each was. -1
    stays."""
    of = np.full(numbers.max() + 1 if len(numbers) else 0, -1, np.int32)
    found = np.empty(len(numbers), np.int32)
    were = np.empty(len(of), np.int32)
    n = 0
    for k in range(len(numbers)):
        number = numbers[k]
        if number < 0:
            found[k] = -1
            continue
        if of[number] < 0:
            of[number] = n
            were[n] = number
            n += 1
        found[k] = of[number]
    return found, were[:n].copy()


@njit(cache=True, nogil=True)
def _numbered(
    hashes: NDArray[np.uint64], there: NDArray[np.bool_]
) -> tuple[Rows, NDArray[np.int64]]:
    """The number of each hash that is there, and where each number came first.

    An open-addressing table, at most half full, which grows.
    """
    size, n = 1 << 12, 0
    keys, table = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
    numbers = np.full(len(hashes), -1, np.int32)
    firsts = np.empty(1 << 10, np.int64)
    for k in range(len(hashes)):
        if not there[k]:
            continue
        if 2 * (n + 1) > size:
            size *= 4
            keys, table = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
            for number in range(n):
                at = _place(hashes[firsts[number]], size)
                while table[at] >= 0:
                    at = (at + 1) & (size - 1)
                keys[at], table[at] = hashes[firsts[number]], number
        if n == len(firsts):
            firsts = np.concatenate((firsts, np.empty(n, np.int64)))
        at = _place(hashes[k], size)
        while table[at] >= 0 and keys[at] != hashes[k]:
            at = (at + 1) & (size - 1)
        if table[at] < 0:
            keys[at], table[at], firsts[n] = hashes[k], n, k
            n += 1
        numbers[k] = table[at]
    return numbers, firsts[:n].copy()


@njit(cache=True, nogil=True)
def _place(hashed: np.uint64, size: int) -> np.int64:
    return np.int64((hashed >> np.uint64(16)) & np.uint64(size - 1))
