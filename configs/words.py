"""How an error quotes what somebody wrote, and names what they may have meant."""

import difflib
from collections.abc import Iterable

LONGEST = 100
"""Characters of a quotation."""


def short(words: str, most: int = LONGEST) -> str:
    """What somebody wrote, on one line, its middle left out if it is long.

    >>> short("a\\nb"), short("x" * 200, 9)
    ('a b', 'xxxx ... xxx')
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-(most // 3) :]}"


def nearest(word: str, valid: Iterable[str]) -> str:
    """The end of an error message: the nearest valid name, or all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {short(close[0])!r}?" if close else f"valid: {short(', '.join(names), 2 * LONGEST)}"
