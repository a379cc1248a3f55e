"""Arrays that grow."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def longer(array: NDArray[Scalar], least: int, fill: Any) -> NDArray[Scalar]:
    """An array with ``least`` rows or more, new ones filled: itself, or one of twice the length."""
    if least <= len(array):
        return array
    grown = np.full((max(2 * len(array), least, 1024), *array.shape[1:]), fill, array.dtype)
    grown[: len(array)] = array
    return grown
