"""The report's table of how far the model carries: to sites that it was trained on, other sites, and other classes."""

from collections.abc import Mapping, Sequence

from configs.strategy import HOME
from server.digest import Digest
from server.metrics import at_the_end, held_out, mean
from server.page import number, section, table, text

Untaught = Mapping[str, Sequence[str]]
"""{held-out site: those of its classes that no site taught}."""


def how_far(run: Digest) -> str:
    """A line each for in-domain, cross-domain and cross-task (Hong et al., 2023, arXiv:2303.06580), where sites were held out.

    Before the end nobody can tell a held-out site from one that is still to come.
    """
    out = held_out(run.matrix, {site: row.get("classes") or () for site, row in run.sites.items()}) if run.end else {}
    if not out:
        return ""
    kinds = {
        "in-domain": ("in_domain", list(run.matrix.learnt)),
        "cross-domain": ("cross_domain", [site for site, new in out.items() if not new]),
        "cross-task": ("cross_task", [site for site, new in out.items() if new]),
    }
    header = ["", "id", "sites", "mean Dice", "sites in the mean", "without a result"]
    header += ["mean Dice after the probe"] if run.matrix.probe else []
    rows = [_line(run, name, id, sites) for name, (id, sites) in kinds.items()]
    return section("Generalisation", _said(run, out) + table(header, rows, range(3, len(header))))


def _line(run: Digest, name: str, id: str, sites: Sequence[str]) -> list[str]:
    cells = at_the_end(run.matrix, sites)
    found = mean(cells.values())
    shown = ", ".join(f'{text(site)}&nbsp;<span class="soft">{number(dice)}</span>' for site, dice in cells.items()) or "none"
    line = [name, f"<code>{id}</code>", shown, number(found.value), str(found.cells), str(len(sites) - found.cells)]
    if run.matrix.probe:
        line.append("" if id == "in_domain" else number(mean(run.matrix.probe.get(site) for site in sites).value))
    return line


def _said(run: Digest, out: Untaught) -> str:
    """What the table means, as far as it applies."""
    said = [
        "Dice on the sites' test cases after the last stage. Nobody trained on the cases of a site in the last two lines: "
        "<i>cross-domain</i>, if other sites taught all of its classes; <i>cross-task</i>, if it has one that nobody taught."
    ]
    if new := [f"{text(site)}: {', '.join(map(text, names))}" for site, names in out.items() if names]:
        said.append(
            f"Taught by nobody ({'; '.join(new)}): such a class's row of the head is as it was drawn. What it sees is nothing, "
            "or chance, until a probe trains it."
        )
    if run.matrix.probe:
        said.append(
            "The probe (<code>evaluate.probe</code>): the site tunes a copy of the model on its own training cases for so many "
            "steps and throws it away."
        )
    if home := HOME.get(str((run.run.get("strategy") or {}).get("share"))):
        said.append(f"The {', '.join(home)} tensors stay with the site that trained them: a held-out site has them as drawn.")
    return "".join(f'<p class="soft">{sentence}</p>' for sentence in said)
