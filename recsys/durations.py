"""Durations as people write them: 30s, 5m, 6h, 1d, 2w."""

import re

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def seconds_of(text: str) -> float | None:
    """The seconds of a duration such as "36h" or "1.5 d"; ``None`` where the text is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    return float(found[1]) * SECONDS[found[2]] if found else None
