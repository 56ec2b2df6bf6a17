"""A site's cases: which there are, which are for training and which for testing, and in which order they arrive.

Pre-processing is clients/prepare.py; cutting patches is clients/patches.py.
"""

import ast
import hashlib
import json
import operator
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from clients.folder import inside, read_json, refuse_links_out
from clients.labels import Values, annotated, every_value
from clients.sources import SOURCES as SOURCES
from clients.sources import Case as Case
from clients.sources import read_msd as read_msd
from configs.load import nearest, short
from configs.schema import Selection, SiteFile, Split


@dataclass(frozen=True)
class SiteCases:
    """A site's cases, split by subject. `train` is the stream: in order of arrival."""

    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]
    labels: Values
    """Annotated class -> its values in the label files and those of the classes inside it, in the site's own order."""
    domains: dict[str, str]
    """{case: scanner, protocol or origin}, for the cases of which the site says it."""
    values: frozenset[int]
    """Every value that the label files may hold beside the background's 0."""

    @property
    def fingerprint(self) -> str:
        """How many cases there are, and 16 hexadecimal digits that change with their names, parts and order of arrival."""
        names = [[case.name for case in part] for part in (self.train, self.validation, self.test)]
        digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]
        return f"{len(self.train)} train, {len(self.validation)} validation, {len(self.test)} test, {digest}"


def site_cases(name: str, site: SiteFile, seed: int) -> SiteCases:
    """What site `name` has: selected, split by subject, in order of arrival. Read anew only if a listing has changed.

    Raises:
        ValueError: folder, selection, split or label names do not fit; the message names the site.
    """
    try:
        asked = (name, site.model_dump_json(), seed, _stamps(site))
        if asked not in _READ:
            if len(_READ) == MOST_READ:
                _READ.clear()
            _READ[asked] = _site_cases(name, site, seed)
        return _READ[asked]
    except ValueError as error:
        raise ValueError(f"site {name!r}: {error}") from None


_READ: dict[tuple[object, ...], SiteCases] = {}
MOST_READ = 256
"""Sites of which a process remembers the listings: a study asks for the same ones in every run."""


def _stamps(site: SiteFile) -> tuple[tuple[int, int, int], ...]:
    """What tells that a listing was written anew; of one that is not there, nothing."""
    found = []
    for path in _listings(site, site.root) if site.root else ():
        with suppress(OSError):
            there = path.stat()
            found.append((there.st_ino, there.st_size, there.st_mtime_ns))
    return tuple(found)


def _site_cases(name: str, site: SiteFile, seed: int) -> SiteCases:
    if site.source not in SOURCES:
        raise ValueError(f"there is no source {site.source!r}; {nearest(site.source, SOURCES)}")
    if site.root is None:
        raise ValueError("has no data folder (`root`, or `data.root` for all sites)")
    if not site.root.is_dir():
        raise ValueError(f"the data folder {site.root} does not exist")
    if not site.follow_links:
        refuse_links_out(site.root, _listings(site, site.root))
    cases, listed_labels = SOURCES[site.source](site.root)
    if site.cases is not None:
        chosen = _select(site.root, site.cases)
        cases = [case for case in cases if case.name in chosen]
    if not cases:
        raise ValueError(f"no case of {site.root} is selected")
    if not site.follow_links:
        refuse_links_out(site.root, (path for case in cases for path in (case.image, case.label)))
    train, validation, test = _split(cases, site.split or Split(), site.root)
    if site.order == "shuffled":
        train = [train[i] for i in np.random.default_rng([seed, crc32(name.encode())]).permutation(len(train))]
    return SiteCases(
        tuple(train[: site.max_cases]) if site.learns else (),
        tuple(validation),
        tuple(test),
        annotated(site, listed_labels),
        {} if site.domains is None else _domains(site.root, site.domains, cases),
        every_value(site, listed_labels),
    )


def _listings(site: SiteFile, root: Path) -> list[Path]:
    """The files that say which cases there are."""
    told = (site.cases, site.split.test if site.split else None, site.domains)
    return [root / "dataset.json", *(inside(root, chosen.file) for chosen in told if isinstance(chosen, Selection))]


def _domains(root: Path, told: Selection, cases: list[Case]) -> dict[str, str]:
    values = _values(root, told)
    found = {case.name: values[case.name] for case in cases if case.name in values}
    for case, domain in found.items():
        if domain is None:
            raise ValueError(f"domains: {told.key!r} says no domain of case {case!r}")
    return {case: str(domain) for case, domain in found.items()}


# Splitting by subject --------------------------------------------------------------------------------------------------


def _split(cases: list[Case], split: Split, root: Path) -> tuple[list[Case], list[Case], list[Case]]:
    subject = {case.name: subject_of(case.name, split.subject) for case in cases}
    if isinstance(split.test, Selection):
        chosen = _select(root, split.test)
        test = {subject[case.name] for case in cases if case.name in chosen}
    else:
        test = _share(set(subject.values()), split.test)
    validation = _share(set(subject.values()) - test, split.validation)
    return (
        [case for case in cases if subject[case.name] not in test | validation],
        [case for case in cases if subject[case.name] in validation],
        [case for case in cases if subject[case.name] in test],
    )


def _share(subjects: set[str], share: float) -> set[str]:
    """A share of the subjects that depends on their names alone: the same in every run and for every seed."""
    ranked = sorted(subjects, key=lambda subject: (crc32(f"split {subject}".encode()), subject))
    return set(ranked[: ceil(round(share * len(ranked), 9))])  # .07 * 100 is a little more than 7


LONGEST_RULE = 200
"""Characters of arithmetic: what is longer is none, and could make numbers that fill the memory."""


def subject_of(case: str, rule: str | None) -> str:
    """The subject of a case: by arithmetic on `id`, the last number in its name; without a rule the case itself.

    >>> subject_of("hippocampus_036", "(id + 1) // 2")
    '18'
    """
    if rule is None:
        return case
    numbers = re.findall(r"\d+", case)
    if not numbers:
        raise ValueError(f"split.subject: case {short(case)!r} has no number for the rule {short(rule)!r}")
    if len(rule) > LONGEST_RULE:
        raise ValueError(f"split.subject: a rule of {len(rule)} characters; {LONGEST_RULE} are the most")
    try:
        return str(_arithmetic(ast.parse(rule, mode="eval").body, int(numbers[-1])))
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError):
        raise ValueError(f"split.subject: {short(rule)!r} is not arithmetic on `id`") from None


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _arithmetic(node: ast.expr, number: int) -> int:
    match node:
        case ast.Name(id="id"):
            return number
        case ast.Constant(value=int(value)):
            return value
        case ast.BinOp(left, op, right) if type(op) in _OPERATORS:
            return int(_OPERATORS[type(op)](_arithmetic(left, number), _arithmetic(right, number)))
    raise ValueError(f"split.subject: only id, whole numbers and + - * // % are understood, not {short(ast.unparse(node))!r}")


# Selections ---------------------------------------------------------------------------------------------------------------


def _select(root: Path, selection: Selection) -> set[str]:
    """The cases to which a selection's file gives its value."""
    values = _values(root, selection)
    return {case for case, value in values.items() if selection.value is None or value == selection.value}


def _values(root: Path, selection: Selection) -> dict[str, Any]:
    listing = read_json(inside(root, selection.file))
    if selection.key not in listing:
        raise ValueError(f"{root / selection.file} has no {selection.key!r}; {nearest(selection.key, listing)}")
    values = listing[selection.key]
    if isinstance(values, dict):
        return values
    if isinstance(values, list):
        return dict.fromkeys((str(case) for case in values), None)
    raise ValueError(f"{root / selection.file}: {selection.key!r} is neither a list of cases nor {{case: value}}")
