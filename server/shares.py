"""What a finished run's time went into."""

from collections.abc import Mapping
from math import inf
from typing import Any


def evaluation_share(end: Mapping[str, Any] | None) -> str:
    """ "evaluation 14 %" of the wall time, from a run's "end" row; nothing where it does not say."""
    whole, part = ((end or {}).get(key) for key in ("seconds", "seconds_evaluating"))
    if not (isinstance(whole, int | float) and isinstance(part, int | float) and 0 <= part <= whole and 0 < whole < inf):
        return ""
    return f"evaluation {100 * part / whole:.0f} %"
