"""Measured tables in the pages under docs/, each between two equal marks."""

from pathlib import Path


def put(page: Path, mark: str, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = page.read_text().partition(mark)
    page.write_text(f"{before}{mark}\n{text}\n{mark}{rest.partition(mark)[2]}")
