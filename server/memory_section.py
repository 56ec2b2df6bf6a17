"""The report's section on memory: what is held, how much of it is unique, what was dropped and why, what it cost."""

from collections import Counter
from collections.abc import Callable, Sequence

from server.axes import MOST_PANELS
from server.digest import Digest, Row
from server.diversity_section import diversity
from server.evictions import KINDS, counts, nearest_id, reason
from server.memory_figures import (
    OTHERS,
    TRAFFIC,
    effective_samples,
    memory_age,
    memory_shares,
    memory_uncertainty,
    quotas_over_rounds,
    traffic,
    traffic_over_rounds,
)
from server.page import embed, number, size, table, text
from server.palette import CLASS_COLOURS, SITE_COLOURS, Colours, class_colours, colours, site_colours

LOG_LENGTH = 30
"""Evictions listed; the others are counted."""
MOST_ORIGINS = 20
"""Origins shown one by one, those most often held: more cannot be told apart, and each takes its time to draw."""


def composition(run: Digest) -> str:
    """What each memory holds by class, origin, age and uncertainty."""
    trains, tints = run.trains, class_colours(run)
    if not any(row.get("memory") for row in trains):
        return ""
    shown = dict(list(tints.items())[: len(CLASS_COLOURS)])
    caption = "A sample that shows several classes counts for each. Black line: samples held. No bar: the site did not train."
    caption += _some(trains)
    parts = ["<h3>By class</h3>", embed(memory_shares(trains, "memory_classes", shown), "Memory by class", caption)]
    origins = _origins(run)
    if len(origins) > 1:
        parts += ["<h3>By origin</h3>", embed(memory_shares(trains, "memory_domains", origins), "Memory by origin")]
    caption = "One point per sample held. An even spread keeps the past; a band along the upper edge forgets it."
    caption += _some(trains)
    parts += ["<h3>By age</h3>", embed(memory_age(trains, site_colours(run)), "Stream position of the samples held", caption)]
    if run.uncertainty:
        caption = "As held now. Low, middle and high are thirds of what the sites that have not left hold."
        parts += ["<h3>By uncertainty</h3>", embed(memory_uncertainty(run.uncertainty), "Memory by uncertainty", caption)]
    return "".join(parts)


def uniqueness(run: Digest) -> str:
    """How many of the samples held say something that no other site's do."""
    if not run.indexes:
        return ""
    last = run.indexes[-1]
    held, effective = (sum((last.get(key) or {}).values()) for key in ("held", "effective"))
    pairs = last.get("duplicates") or 0
    said = (
        f"<p>After round {last['round']} the sites hold <b>{held}</b> samples worth <b>{number(effective, 1)}</b> effective "
        f"ones (uniqueness summed), with {_count(pairs, 'pair')} of duplicates across sites.</p>"
    )
    caption = "Black line: samples held. Grey band: where 80 % of the samples lie; line: the median."
    drawn = embed(effective_samples(run.indexes, site_colours(run)), "Effective samples over the rounds", caption)
    header = ["site", "held", "quota", "effective", "mean uniqueness", "protected stand-ins", "dropped so far"]
    dropped = {site: sum(kinds.values()) for site, kinds in counts(run.evictions).items()}
    rows = [_site_line(site, last, dropped.get(site, 0)) for site in run.sites if site in (last.get("held") or {})]
    note = '<p class="soft">A stand-in is the last live sample like one that a departed site held; it may not be dropped.</p>'
    return "<h3>Uniqueness across sites</h3>" + said + drawn + table(header, rows, range(1, 7)) + note + _quotas(run)


def evictions(run: Digest) -> str:
    """Why samples were dropped, and the last of them one by one."""
    if not run.evictions:
        return ""
    by_site = counts(run.evictions)
    rows = [
        [text(site), *(str(kinds[kind]) for kind in KINDS), f"<b>{sum(kinds.values())}</b>"] for site, kinds in by_site.items()
    ]
    total = [sum(kinds[kind] for kinds in by_site.values()) for kind in KINDS]
    foot = ["all sites", *map(str, total), f"<b>{sum(total)}</b>"]
    policy = (run.run.get("memory") or {}).get("policy")
    who = f"The policy ({text(policy)})" if policy else "The policy"
    note = f'<p class="soft">{who} chose what to drop; the table says what was most like it among the samples that stayed.</p>'
    summary = table(["site", *KINDS, "dropped"], rows, range(1, len(KINDS) + 2), foot)
    header = ["round", "site", "sample", "stream position", "times trained on", "what was most like it", "which"]
    header += ["uniqueness"] if run.indexes else []
    last = run.evictions[-LOG_LENGTH:]
    log = table(header, [_eviction_line(row)[: len(header)] for row in last], (0, 3, 4, 7))
    all_of_them = f"{_count(len(run.evictions), 'sample')} dropped" + (
        f"; the last {len(last)}" if len(last) == LOG_LENGTH else ""
    )
    return f"<h3>Evictions</h3>{note}{summary}<p>{all_of_them}:</p>{log}"


def on_the_wire(run: Digest) -> str:
    """What the index costs on the wire beside the weights, and what the noise has bought."""
    if not any(row.get("bytes_sketches") for row in run.trains):
        return ""
    noisy = any(row.get("epsilon_total") is not None for row in run.trains)
    header = ["site", *TRAFFIC, "sketches per round", "share of what it sent"]
    header += ["ε of its last upload", "ε in all"] if noisy else []
    rows = []
    for site in dict.fromkeys(row["site"] for row in run.trains):
        own = [row for row in run.trains if row["site"] == site]
        counts = [traffic(row) for row in own]
        sums = {name: sum(count[name] for count in counts) for name in TRAFFIC}
        sent = sums["weights back"] + sums["sketches"]
        share = f"{100 * sums['sketches'] / sent:.1f} %" if sent else "–"
        spent = [number(own[-1].get(key), 2) for key in ("epsilon", "epsilon_total")] if noisy else []
        rows.append([text(site), *map(size, sums.values()), size(sums["sketches"] / len(own)), share, *spent])
    caption = "A logarithmic axis; sketches with their ids and mean." + _some(run.trains)
    drawn = embed(traffic_over_rounds(run.trains), "Bytes on the wire per round and site", caption)
    note = "ε: what a site's sketches can give away of one case at most; weights and metrics carry no noise."
    note = f'<p class="soft">{note}</p>'
    return "<h3>On the wire</h3>" + drawn + table(header, rows, range(1, len(header))) + (note if noisy else "")


MEMORY: tuple[Callable[[Digest], str], ...] = (composition, diversity, uniqueness, evictions, on_the_wire)
"""The section's parts; each is HTML, or nothing where the run has nothing to say."""


# Parts of parts -------------------------------------------------------------------------------------------------------


def _some(trains: Sequence[Row]) -> str:
    """Which sites a figure shows, where it does not show all."""
    sites = dict.fromkeys(row["site"] for row in trains)
    if len(sites) <= MOST_PANELS:
        return ""
    return f" {MOST_PANELS} of {len(sites)} sites, evenly from the first to the last; `run_sim.py memory` shows all."


def _origins(run: Digest) -> Colours:
    """A colour per origin that is shown: a site's own where every origin is a site."""
    held: Counter[str] = Counter()
    for row in run.trains:
        held.update(row.get("memory_domains") or {})
    del held[OTHERS]  # drawn as what has no colour
    sites = site_colours(run)
    tints = sites if held.keys() <= sites.keys() else colours(list(held), SITE_COLOURS)
    most = {name for name, _ in held.most_common(MOST_ORIGINS)}
    return {name: tint for name, tint in tints.items() if name in most}


def _quotas(run: Digest) -> str:
    """Quotas over rounds, where they differ."""
    if len({quota for row in run.indexes for quota in (row.get("quotas") or {}).values()}) < 2:
        return ""
    caption = "The budget goes where uniqueness is, on the mean, with a floor."
    return embed(quotas_over_rounds(run.indexes, site_colours(run)), "Quotas over the rounds", caption)


def _site_line(site: str, last: Row, dropped: int) -> list[str]:
    held, effective, quota, stand_ins = ((last.get(key) or {}).get(site) for key in ("held", "effective", "quotas", "orphans"))
    mean = number(effective / held) if held and effective is not None else "–"
    cells = [held or 0, "–" if quota is None else quota, number(effective, 1), mean, stand_ins or 0, dropped]
    return [text(site), *map(text, cells)]


def _eviction_line(row: Row) -> list[str]:
    ids = [f"<code>{text(id)}</code>" if id else "–" for id in (row.get("id"), nearest_id(row))]
    numbers = [text(row.get("arrived", "–")), text(row.get("visits", "–"))]
    where = [text(row["round"]), text(row["site"])]
    return [*where, ids[0], *numbers, text(reason(row)), ids[1], number(row.get("uniqueness"), 2)]


def _count(number_of: int, thing: str) -> str:
    return f"{number_of} {thing}" if number_of == 1 else f"{number_of} {thing}s"
