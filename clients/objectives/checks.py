"""Checks of an objective's settings."""

from math import inf


def not_negative(name: str, value: float) -> None:
    """Raises ValueError unless the value is a number from 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        raise ValueError(f"{name} must be a number from 0, not {value!r}")


def positive(name: str, value: float) -> None:
    """Raises ValueError unless the value is a number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise ValueError(f"{name} must be a number above 0, not {value!r}")
