"""What the sites hold, read from their folders and shown: two sites of six samples whose numbers a person can count."""

import json
from math import nan
from pathlib import Path
from typing import Any

import pytest

from clients import snapshot
from clients.keyed import Keyed
from memory.sample import Sample
from server.digest import read_run
from server.evictions import KINDS, counts, kind, nearest_id, reason
from simulations.holdings import by_uncertainty, cuts, held_by_uncertainty, read_holdings, third
from simulations.memory_tables import print_memory

Row = dict[str, Any]
RUN = "0123456789ab"
NORTH, SOUTH = "north", "[red]south"
"""The second would be read as markup."""


def sample(arrived: int, uncertainty: float, uniqueness: float = 1.0, **facts: Any) -> Sample:
    visits = 0 if uncertainty != uncertainty else 3
    facts = {"case": f"case_{arrived}", "classes": frozenset({"liver"}), **facts}
    return Sample(arrived=arrived, uncertainty=uncertainty, loss=uncertainty, visits=visits, uniqueness=uniqueness, **facts)


HELD = {
    NORTH: [sample(0, 0.1, 0.04), sample(2, 0.2, 0.5), sample(8, 0.6, 0.9, classes=frozenset({"liver", "spleen"}))],
    SOUTH: [sample(1, 0.4, 1.0, domain="mr", orphan=True), sample(4, 0.5, 0.3, domain="ct"), sample(5, nan, 1.0, domain="ct")],
}


def evicted(**facts: Any) -> Row:
    row = {"event": "evict", "round": 2, "site": NORTH, "id": "a" * 16, "arrived": 1, "visits": 4, "uniqueness": 0.03}
    none = {"twin": None, "similarity": None, "where": None, "where_id": None, "where_similarity": None}
    return row | none | facts


EVICTIONS = [
    evicted(twin="b" * 16, similarity=0.4, where=SOUTH, where_id="c" * 16, where_similarity=0.97),
    evicted(id="d" * 16, twin="b" * 16, similarity=0.93, where=SOUTH, where_id="c" * 16, where_similarity=0.9),
    evicted(id="e" * 16, site=SOUTH, round=3, twin="b" * 16, similarity=0.3),
    evicted(id="f" * 16, site=SOUTH, round=3, visits=0),
]
INDEXES = [
    {"event": "index", "round": 2, "held": {NORTH: 3}, "effective": {NORTH: 2.5}, "duplicates": 0, "quantiles": [0.1, 0.5, 0.9],
     "orphans": {}, "quotas": {NORTH: 4}},
    {"event": "index", "round": 3, "held": {NORTH: 3, SOUTH: 3}, "effective": {NORTH: 1.5, SOUTH: 2.25}, "duplicates": 1,
     "quantiles": [0.04, 0.7, 1.0], "orphans": {NORTH: 0, SOUTH: 1}, "quotas": {NORTH: 3, SOUTH: 5}},
]  # fmt: skip


def record(index: bool) -> list[Row]:
    rows: list[Row] = [{"event": "run", "name": "pretend"}]
    rows += [{"event": "site", "site": site, "classes": ["liver"], "cases": 9, "tests": 1} for site in HELD]
    rows += [{"event": "train", "round": 2, "site": NORTH, "memory": 3, "budget": 4, "memory_classes": {"liver": 3}}]
    rows += [{"event": "train", "round": 3, "site": SOUTH, "memory": 3, "budget": 4, "memory_arrived": [1, 4, 5]}]
    return [*rows, *EVICTIONS, *(INDEXES if index else ())]


@pytest.fixture
def write(tmp_path):
    """Writes a run's folder and returns it."""

    def folder(rows: list[Row], run: str = RUN) -> Path:
        (tmp_path / "record.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for site, samples in HELD.items():
            state = snapshot.Snapshot(cursor=9, served=2, samples=tuple(samples))
            snapshot.commit(tmp_path / "sites" / site / "state", run, 3, state, 2)
            (tmp_path / "sites" / site / "secret").write_bytes(b"x" * 32)
        return tmp_path

    return folder


@pytest.fixture
def show(capsys):
    """The lines that the command prints for a folder."""

    def lines(folder: Path, **options: Any) -> list[str]:
        print_memory(folder, 0.95, **options)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


def cells(lines: list[str], first: str) -> list[str]:
    """The cells of the first line that begins so."""
    return next(line for line in lines if line.startswith(first)).split()


# Reading --------------------------------------------------------------------------------------------------------------


def test_a_site_is_read_from_its_newest_state(write):
    folder = write(record(index=True))
    earlier = snapshot.Snapshot(cursor=1, served=1, samples=(sample(0, 0.9),))
    snapshot.commit(folder / "sites" / NORTH / "state", RUN, 2, earlier, 2)
    snapshot.commit(folder / "sites" / NORTH / "state", RUN, 4, snapshot.Snapshot(9, 3, tuple(HELD[NORTH])), 2)
    north, south = read_holdings(read_run(folder))
    assert (north.site, north.held, north.arrived, north.classes) == (NORTH, 3, [0, 2, 8], {"liver": 3, "spleen": 1})
    assert (south.domains, south.uncertainties, south.snapshot.cursor) == ({"ct": 2, "mr": 1}, [0.4, 0.5], 9)
    assert north.ids["case_0"] == Keyed(folder / "sites" / NORTH)("case_0")


def test_the_thirds_are_those_of_all_sites_that_have_not_left(write):
    folder = write(record(index=False))
    north, south = read_holdings(read_run(folder))
    cut = cuts([north, south])  # of .1 .2 .4 .5 .6, a third and two thirds of the way: .2667 and .4667
    assert cut == pytest.approx((4 / 15, 7 / 15))
    assert by_uncertainty(north.samples, cut) == {"low": 2, "middle": 0, "high": 1, "never trained on": 0}
    assert held_by_uncertainty(folder)[SOUTH] == {"low": 0, "middle": 1, "high": 1, "never trained on": 1}
    gone = write([*record(index=False), {"event": "leave", "round": 3, "site": SOUTH}])
    left = read_holdings(read_run(gone))
    assert left[1].absent == "left"
    assert cuts(left) == pytest.approx((1 / 6, 1 / 3))  # of .1 .2 .6
    assert third(HELD[SOUTH][0], cuts(left)) == "high"


def test_a_run_begun_anew_is_told_apart_by_its_checkpoint(write, monkeypatch):
    folder = write(record(index=False))
    write(record(index=False), run="another")
    with pytest.raises(ValueError, match="states of 2 runs, and no checkpoint says which"):
        read_holdings(read_run(folder))
    assert held_by_uncertainty(folder) == {}  # the report goes without
    monkeypatch.setattr("server.checkpoint.load", lambda folder: type("Federation", (), {"run": RUN}))
    assert [holding.held for holding in read_holdings(read_run(folder))] == [3, 3]


def test_reading_writes_nothing(write):
    folder = write(record(index=True))
    (folder / "sites" / NORTH / "secret").unlink()
    before = sorted(folder.rglob("*"))
    assert [bool(holding.ids) for holding in read_holdings(read_run(folder))] == [False, True]
    assert sorted(folder.rglob("*")) == before


# Showing --------------------------------------------------------------------------------------------------------------


def test_every_site_has_its_line(write, show):
    lines = show(write(record(index=True)))
    assert lines[0] == "pretend: what the memories hold after round 3"
    head = ["site", "held", "stream", "arrived", "uncertainty", "low", "mid", "high", "new", "u", "stand-ins", "duplicates"]
    assert lines[1].split() == head
    assert cells(lines, NORTH) == [NORTH, "3/3", "9", "0", "2", "8", ".15", ".20", ".40", "2", "0", "1", "0", ".48", "0", "1"]
    assert cells(lines, SOUTH) == [SOUTH, "3/5", "9", "1", "4", "5", ".43", ".45", ".47", "0", "1", "1", "1", ".77", "1", "0"]
    assert "north       liver 3, spleen 1  -" in lines
    assert f"{SOUTH}  liver 3            ct 2, mr 1" in lines
    assert cells(lines, "    2") == ["2", "3", "2", "2.5", "83", "%", ".10", ".50", ".90", "0", "0"]
    assert cells(lines, "    3") == ["3", "6", "2", "3.8", "62", "%", ".04", ".70", "1.00", "1", "1"]
    assert lines[-1] == "effective samples (uniqueness summed): 3.8 of 6 held; 1 pair of duplicates across sites"
    assert max(map(len, lines)) <= 100


def test_a_run_without_an_index_leaves_its_columns_out(write, show):
    lines = show(write(record(index=False)))
    assert lines[1].split() == ["site", "held", "stream", "arrived", "uncertainty", "low", "mid", "high", "new"]
    assert cells(lines, NORTH)[1] == "3/4"
    assert lines[-3:] == ["round  held  dropped", "    2     3        2", "    3     6        2"]
    gone = show(write([*record(index=False), {"event": "leave", "round": 3, "site": NORTH}]))
    assert gone[-2:] == ["    2     3        2", "    3     3        2"]
    assert "stand-in" not in " ".join(show(write(record(index=False)), evictions=True))


def test_one_site_is_shown_sample_by_sample(write, show):
    folder = write(record(index=True))
    lines = show(folder, site=SOUTH)
    assert lines[0] == f"{SOUTH}: 3 of 5 samples"
    id = Keyed(folder / "sites" / SOUTH)("case_1")[:8]
    assert cells(lines, "case_1") == ["case_1", id, "1", "3", ".40", ".40", "middle", "1.00", "liver", "mr", "stand-in"]
    assert cells(lines, "case_5")[2:] == ["5", "0", "-", "-", "1.00", "liver", "ct"]
    assert len(lines) == 5
    assert cells(show(folder, site=NORTH), "case_0")[-1] == "duplicate"  # 1 - .95 = .05 or less


def test_a_wrong_name_is_answered_with_the_nearest(write, show):
    with pytest.raises(ValueError, match="--site nort: there is no such site; did you mean 'north'?"):
        show(write(record(index=True)), site="nort")


def test_a_state_that_cannot_be_read_is_told_from_the_record(write, show):
    folder = write(record(index=True))
    path = folder / "sites" / NORTH / "state" / RUN / "000003" / "memory.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    lines = show(folder)
    assert cells(lines, NORTH)[1:3] == ["3/3", "-"]
    assert "north       liver 3   -" in lines
    assert lines[-1].startswith("north: as it last told; the snapshot ")


def test_the_sites_folders_may_be_elsewhere(tmp_path, show):
    (tmp_path / "record.jsonl").write_text("".join(json.dumps(row) + "\n" for row in record(index=True)))
    lines = show(tmp_path)
    assert cells(lines, SOUTH) == [SOUTH, "3/5", "-", "1", "4", "5", *["-"] * 8]
    assert show(tmp_path, site=NORTH)[0] == "north: 3 of 3 samples"


def test_many_rounds_are_thinned_to_the_last(write, show):
    rows = [INDEXES[1] | {"round": round} for round in range(1, 46)]
    lines = show(write([*record(index=False), *rows]))
    at = lines.index("the federation, every 3 rounds")
    assert [int(line.split()[0]) for line in lines[at + 2 : -1]] == list(range(3, 46, 3))


# Evictions ------------------------------------------------------------------------------------------------------------


def test_the_reason_in_words():
    elsewhere, here, none, unused = EVICTIONS
    assert reason(elsewhere) == f"a twin elsewhere ({SOUTH}, .97)"
    assert reason(here) == "a twin here (.93)"
    assert reason(none) == "no twin (nearest: here, .30)"
    assert reason(unused) == "never trained on"
    assert reason(unused | {"visits": 2}) == "never compared"
    assert reason(elsewhere | {"visits": 0}) == f"a twin elsewhere ({SOUTH}, .97); never trained on"
    assert reason({"event": "evict", "similarity": None}) == "never compared"  # an older record
    assert reason(here | {"where_similarity": 0.93}) == "a twin here (.93)"
    assert reason(none | {"where_similarity": 0.49, "where": SOUTH}) == f"no twin (nearest: {SOUTH}, .49)"
    assert [nearest_id(row) for row in EVICTIONS] == ["c" * 16, "b" * 16, "b" * 16, None]
    assert [kind(row) for row in EVICTIONS] == list(KINDS[:4])
    assert counts(EVICTIONS) == {NORTH: {KINDS[0]: 1, KINDS[1]: 1}, SOUTH: {KINDS[2]: 1, KINDS[3]: 1}}


def test_the_log_of_evictions_newest_last(write, show):
    folder = write(record(index=True))
    lines = show(folder, evictions=True)
    assert lines[0] == "pretend: 4 samples dropped, newest last"
    assert lines[2].split() == ["2", NORTH, "a" * 8, "1", "4", ".03", *f"a twin elsewhere ({SOUTH}, .97)".split(), "c" * 8]
    assert lines[5].split() == ["3", SOUTH, "f" * 8, "1", "0", ".03", "never", "trained", "on", "-"]
    assert lines[6:] == ["north: a twin elsewhere 1, a twin here 1", f"{SOUTH}: no twin 1, never trained on 1"]
    assert show(folder, evictions=True, site=SOUTH)[0] == "pretend: 2 samples dropped, newest last"
    quiet = [row for row in record(index=True) if row["event"] != "evict"]
    assert show(write(quiet), evictions=True) == ["no sample has been dropped, or the run is older than the log"]
