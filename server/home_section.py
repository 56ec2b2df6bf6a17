"""The report's section on what sites keep at home by their own policy, and what is therefore missing here."""

from server.digest import Digest
from server.page import section, swatch, table, text
from server.palette import site_colours

MISSING = {
    "sketches": "it takes no part in the uniqueness index, and is told nothing of what others hold",
    "case_metrics": "its results are sums over the cases of a class: no worst cases, no interval over cases, no slices",
    "domains": "its memory's composition by scanner or origin",
    "evictions": "which samples its memory let go",
}
"""By wire.WITHHELD: what a reader of the report will not find."""


def kept_at_home(run: Digest) -> str:
    """A line for each site that withholds something; nothing where none does."""
    rows = [
        [
            f"{swatch(site_colours(run).get(site, '#BBBBBB'))}{text(site)}",
            f"<code>{text(part)}</code>",
            text(MISSING.get(part, "")),
        ]
        for site in run.sites
        for part in withheld(run, site)
    ]
    about = "By the site's own policy, whatever the recipe asks for. R and the metrics are complete all the same."
    lines = table(["site", "what", "what is missing"], rows)
    return section("Kept at home", f'<p class="soft">{about}</p>{lines}') if rows else ""


def withheld(run: Digest, site: str) -> list[str]:
    """What a site keeps at home, as it said last."""
    said = [row.get("withholds") or [] for row in run.trains if row["site"] == site]
    return list(said[-1] if said else run.sites.get(site, {}).get("withholds") or [])
