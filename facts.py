"""What a message says beside its arrays: one JSON text, read without trust, and the kinds of values it may hold.

Both sides read with this: what a site tells the server, and what the server tells a site, comes from a machine that
somebody else administers. Every complaint is one line that quotes no more than a few words of what it complains about.
"""

import json
import re
from collections.abc import Callable, Mapping
from math import isfinite
from reprlib import repr as short
from typing import Any

Kind = tuple[str, Callable[[Any], bool]]
"""What a value has to be, in words and as a check."""

MOST_VALUES = 2_000_000
"""Values in one text: 1000 test cases of 100 classes make 0.9 million. Each takes some 100 bytes once it is read."""
LONGEST_NAME = 200
"""Characters of a name: of a tensor, a class, a case's keyed id, a run."""
MOST_NAMES = 100_000
"""Names or numbers in one list: samples that a site holds, cases that it let go."""
LARGEST_WHOLE = 2**53
"""2 ** 53: past it a float cannot count."""
LARGEST_NUMBER = 1e30
"""Of a number; sums of such numbers, and a chart of them, stay far from the end of what a float can say."""
LATEST_ROUND = 1_000_000
"""A chart has room for every round up to the last."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line breaks, and halves of characters, which no file can hold."""


def read_facts(text: Any) -> dict[str, Any]:
    """The JSON object in a text; of a key that is given twice the last counts. Every float in it is finite.

    Raises:
        ValueError: it is none, holds too many values, is nested too deeply, or has numbers that are none.
    """
    if not isinstance(text, str):
        raise ValueError(f"no readable facts ({type(text).__name__}, not text)")
    if (count := sum(map(text.count, ",[{"))) > MOST_VALUES:
        raise ValueError(f"some {count} facts; {MOST_VALUES} are the most that are read")
    try:
        facts = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition("(")[0].strip()
        raise ValueError(f"no readable facts ({why})") from None
    if not isinstance(facts, dict):
        raise ValueError(f"no readable facts ({type(facts).__name__}, not values by name)")
    return facts


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    if not isfinite(value := float(digits)):
        raise ValueError("a number is too large")
    return value


def why_odd(facts: Mapping[str, Any], kinds: Mapping[str, Kind]) -> str | None:
    """Which of the facts that are there is not of its kind, in words; None if all are."""
    for name, (words, check) in kinds.items():
        if name in facts and not check(facts[name]):
            return f"its {name!r} is {short(facts[name])}, not {words}"
    return None


# Checks -----------------------------------------------------------------------------------------------------------------


def is_text(value: Any) -> bool:
    """Text that a file can hold, whatever its length."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def is_name(value: Any) -> bool:
    """Text of one line that is not too long; perhaps empty."""
    return isinstance(value, str) and len(value) <= LONGEST_NAME and UNPRINTABLE.search(value) is None


def is_whole(value: Any) -> bool:
    """A whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_WHOLE


def is_number(value: Any) -> bool:
    """A number, or None. Also NaN and infinity, which only a site in this process can say: a message has no word for them."""
    if isinstance(value, float):
        return not isfinite(value) or abs(value) <= LARGEST_NUMBER
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_WHOLE)


def is_share(value: Any) -> bool:
    """A number from 0 to 1, or none."""
    return is_number(value) and (value is None or value != value or 0 <= value <= 1)


def each(check: Callable[[Any], bool], most: int = MOST_NAMES) -> Callable[[Any], bool]:
    """The check of a list of such values."""
    return lambda value: isinstance(value, list | tuple) and len(value) <= most and all(map(check, value))


def named(check: Callable[[Any], bool], most: int = MOST_NAMES) -> Callable[[Any], bool]:
    """The check of such values by name."""
    return lambda value: (
        isinstance(value, Mapping) and len(value) <= most and all(map(is_name, value)) and all(map(check, value.values()))
    )


WHOLE: Kind = ("a whole number from 0", is_whole)
ROUND: Kind = ("a round", lambda value: is_whole(value) and value <= LATEST_ROUND)
NUMBER: Kind = ("a number or null", is_number)
SHARE: Kind = ("a number from 0 to 1, or null", is_share)
TEXT: Kind = ("text", is_text)
NAME: Kind = ("a name", is_name)
NAMES: Kind = ("a list of names", each(is_name))
COUNTS: Kind = ("whole numbers by name", named(is_whole))
