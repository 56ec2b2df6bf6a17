"""The report's table of sites: how good the model is at each in the end, what became of it since, and its worst case."""

from server.digest import Digest
from server.metrics import ResultMatrix
from server.page import number, swatch, table, text
from server.palette import site_colours
from server.spread import CaseDice, case_dice, reach, reach_of_change

ABOUT = (
    "In brackets: the 95 % interval over the site's test cases, as if they were independent; another seed or order may differ "
    "by more. A change is taken case by case."
)


def site_table(run: Digest) -> str:
    """Final Dice per site with its interval; nothing before the first stage."""
    matrix = run.matrix
    if matrix.last < 1:
        return ""
    found, tints = case_dice(run), site_colours(run)
    rows = [
        [f"{swatch(tints[site])}{text(site)}", *_results(matrix, k, found), *_cases(found, matrix.stages[-1], site)]
        for k, site in enumerate(matrix.sites)
    ]
    header = ["site", "Dice at the end", "when learnt", "change since", "worst case", "test cases"]
    stage = f'<p class="soft">After stage {text(matrix.stages[-1])}. {ABOUT}</p>'
    return f"<h3>Per site</h3>{table(header, rows, range(1, len(header)))}{stage}"


def _results(matrix: ResultMatrix, k: int, found: CaseDice) -> list[str]:
    """Of one site: in the end, when it was learnt, and the change between; the last two only where a stage followed."""
    site, start, last = matrix.sites[k], matrix.arrival[k], matrix.stages[-1]
    end = float(matrix.values[-1, k])
    final = _with_interval(end, reach(found, last, site))
    if not start:
        return [final, "–", "–"]
    then = float(matrix.values[start, k])
    if start == matrix.last:
        return [final, number(then), "–"]
    return [
        final,
        number(then),
        _with_interval(end - then, reach_of_change(found, matrix.stages[start], last, site), sign=True),
    ]


def _cases(found: CaseDice, stage: str, site: str) -> list[str]:
    dice = [value for value in found.get((stage, site), {}).values() if value == value]
    return [number(min(dice)) if dice else "–", str(len(dice))]


def _with_interval(value: float, half: float, sign: bool = False) -> str:
    """A number and what it lies between."""
    if value != value or half != half:
        return number(value, sign=sign)
    low, high = (end if sign else min(max(end, 0.0), 1.0) for end in (value - half, value + half))
    return f'{number(value, sign=sign)} <span class="soft">({number(low, sign=sign)} to {number(high, sign=sign)})</span>'
