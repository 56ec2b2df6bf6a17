"""A site's ledger says what came and what left, never the content, and shows when somebody changed it."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.ledger import FILE, FIRST, HEAD, Ledger, read_ledger
from run_sim import main
from tests.site_orders import initial, order
from wire import Order, Reply

ORDER = Order(
    run="r1",
    round=3,
    task="train",
    site="a",
    classes=("liver", "spleen"),
    quota=7,
    scores={"uniqueness": {"secret-id-1": 0.25, "secret-id-2": 0.5}, "leverage": {"secret-id-1": 1.0}},
    orphans=frozenset({"secret-id-2"}),
    coverage_ME=np.ones((2, 3), np.int8),
    extra={"variate": np.ones(5, np.float64)},
)
GONE = {"id": "secret-id-3", "arrived": 0, "visits": 2}
REPLY = Reply(
    run="r1",
    round=3,
    task="train",
    site="a",
    weights={"w": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)},
    draws=12,
    ids=("secret-id-1",),
    sketches_NE=np.ones((1, 3), np.int8),
    rows=({"memory": 2, "memory_domains": {"secret scanner": 2}, "evicted": [GONE]},),
)


@pytest.fixture
def folder(tmp_path):
    """Three messages: an order, its reply, an order."""
    ledger = Ledger(tmp_path)
    ledger.came(ORDER, {"w": np.ones(3, np.float32)})
    ledger.left(REPLY, ["domains"])
    ledger.came(replace(ORDER, round=4), {})
    return tmp_path


def lines(folder: Path) -> list[bytes]:
    return (folder / FILE).read_bytes().splitlines()


# What it says ---------------------------------------------------------------------------------------------------------


def test_every_field_is_said_with_kind_shape_entries_and_bytes(folder):
    came, left, _ = read_ledger(folder / FILE)[0]
    assert (came["run"], came["round"], came["task"], came["site"], came["direction"]) == ("r1", 3, "train", "a", "in")
    assert came["fields"]["coverage_ME"] == {"kind": "array", "dtype": "int8", "shape": [2, 3], "entries": 2, "bytes": 6}
    assert came["fields"]["weights"] == {"kind": "tensors", "dtype": ["float32"], "entries": 1, "numbers": 3, "bytes": 12}
    assert came["fields"]["extra"]["bytes"] == 40
    scores = came["fields"]["scores"]
    assert (scores["keys"], scores["entries"]) == (["leverage", "uniqueness"], 3)
    assert came["fields"]["classes"] == {"kind": "names", "entries": 2, "bytes": len('["liver", "spleen"]')}
    assert left["direction"] == "out" and left["withheld"] == ["domains"]
    weights = {"kind": "tensors", "dtype": ["float16", "float32"], "entries": 2, "numbers": 10, "bytes": 32}
    assert left["fields"]["weights"] == weights
    keys = ["evicted", "evicted.arrived", "evicted.id", "evicted.visits", "memory", "memory_domains"]
    assert (left["fields"]["rows"]["keys"], left["fields"]["rows"]["entries"]) == (keys, 1)
    for entry in (came, left):
        assert entry["bytes"] == sum(field["bytes"] for field in entry["fields"].values())
    assert "mean_E" not in left["fields"] and "refused" not in came["fields"]  # what is empty does not cross


def test_no_content_is_in_it(folder):
    text = (folder / FILE).read_text()
    assert "secret" not in text and "liver" not in text and "0.25" not in text


def test_it_is_for_its_owner_s_eyes(folder):
    assert all((folder / name).stat().st_mode & 0o077 == 0 for name in (FILE, HEAD))


# The chain ------------------------------------------------------------------------------------------------------------


def test_an_untouched_ledger_is_whole_and_begins_with_nothing_before_it(folder):
    entries, last, broken = read_ledger(folder / FILE)
    assert [entry["direction"] for entry in entries] == ["in", "out", "in"]
    assert (entries[0]["before"], broken) == (FIRST, "")
    Ledger(folder).came(ORDER, {})
    assert read_ledger(folder / FILE)[0][-1]["before"] == last


def changed(content: list[bytes]) -> list[bytes]:
    return [content[0], content[1].replace(b'"withheld": ["domains"]', b'"withheld": []'), *content[2:]]


DAMAGE = {
    "a line changed": (changed, "line 3 does not follow the line before it"),
    "the first line changed": (lambda ls: [ls[0].replace(b'"r1"', b'"r2"'), *ls[1:]], "line 2 does not follow"),
    "the last line changed": (lambda ls: [*ls[:2], ls[2].replace(b'"r1"', b'"r2"')], "its last line was changed"),
    "the last line longer": (lambda ls: [*ls[:2], ls[2] + b" "], "its last lines are missing, or one has another length"),
    "a line cut out": (lambda ls: [ls[0], ls[2]], "line 2 does not follow"),
    "the first line cut out": (lambda ls: ls[1:], "line 1 does not follow"),
    "the last line cut off": (lambda ls: ls[:2], "its last lines are missing"),
    "all lines cut off": (lambda ls: [], "its last lines are missing"),
    "a line no longer readable": (lambda ls: [ls[0], b"{", ls[2]], "line 3 does not follow"),
    "a line put in": (lambda ls: [ls[0], ls[1], ls[1], ls[2]], "line 3 does not follow"),
    "lines exchanged": (lambda ls: [ls[1], ls[0], ls[2]], "line 1 does not follow"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_what_was_changed_shows(folder, damage, words):
    (folder / FILE).write_bytes(b"".join(line + b"\n" for line in damage(lines(folder))))
    assert words in read_ledger(folder / FILE)[2]


@pytest.mark.parametrize(
    ("head", "words"), [(None, "is missing"), ("", "cannot be read"), ("[]", "cannot be read"), ('{"bytes": 1}', "cannot")]
)
def test_without_its_head_nobody_can_say_how_far_it_goes(folder, head, words):
    (folder / HEAD).unlink() if head is None else (folder / HEAD).write_text(head)
    assert words in read_ledger(folder / FILE)[2]


def test_a_line_cut_off_by_a_crash_breaks_nothing_and_the_next_one_vouches_for_it(folder):
    with (folder / FILE).open("ab") as file:
        file.write(b'{"time": "2026-')
    entries, _, broken = read_ledger(folder / FILE)
    assert (len(entries), broken) == (3, "")
    Ledger(folder).came(ORDER, {})
    entries, _, broken = read_ledger(folder / FILE)
    assert (len(entries), len(lines(folder)), broken) == (4, 5, "")
    torn = lines(folder)
    torn[3] = b'{"time": "2027-'
    (folder / FILE).write_bytes(b"".join(line + b"\n" for line in torn))
    assert "line 5 does not follow" in read_ledger(folder / FILE)[2]


def test_a_crash_between_a_line_and_the_head_breaks_nothing(folder):
    head = (folder / HEAD).read_bytes()
    Ledger(folder).left(REPLY, [])
    (folder / HEAD).write_bytes(head)
    assert read_ledger(folder / FILE)[2] == ""


def test_a_long_last_line_is_found_by_its_end(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.left(replace(REPLY, rows=tuple({f"key{i}": 1} for i in range(20_000))), [])
    assert len(lines(tmp_path)[0]) > 200_000
    ledger.came(ORDER, {})
    assert read_ledger(tmp_path / FILE)[2] == ""


# At a site ------------------------------------------------------------------------------------------------------------


def test_a_site_enters_what_comes_before_it_works_and_what_leaves_before_it_is_handed_over(site):
    reply = site.answer(order(), initial(site))
    entries, _, broken = read_ledger(site.folder / FILE)
    assert [(entry["task"], entry["direction"]) for entry in entries] == [
        ("init", "in"), ("init", "out"), ("train", "in"), ("train", "out")
    ]  # fmt: skip
    assert entries[3]["fields"]["weights"]["bytes"] == sum(tensor.nbytes for tensor in reply.weights.values())
    assert broken == ""


def test_what_cannot_be_done_is_entered_with_the_kind_of_its_error(site):
    with pytest.raises(ValueError, match="the order is for site"):
        site.answer(order("hello", site="other"), {})
    came, failed = read_ledger(site.folder / FILE)[0]
    assert (came["site"], failed["failed"], failed["fields"].keys()) == ("other", "ValueError", {"failure"})


def full(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """Of what is written to a ledger only a part finds room."""
    write = os.write

    def written(handle: int, text: bytes) -> int:
        if part:
            return write(handle, text[:part])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clients.ledger.os.write", written)


@pytest.mark.parametrize("part", [0, 10])
def test_where_the_disk_is_full_nothing_leaves_and_the_same_order_gives_the_same_reply_later(site, monkeypatch, part):
    weights = initial(site)
    first = site.answer(order(), weights)
    before = (site.folder / FILE).read_bytes()
    with monkeypatch.context() as broken:
        full(broken, part)
        with pytest.raises(OSError, match="the site's ledger cannot be written, so nothing leaves"):
            site.answer(order(round=2), first.weights)
    assert (site.folder / FILE).read_bytes() == before and read_ledger(site.folder / FILE)[2] == ""
    again = site.answer(order(), weights)
    assert {n: w.tobytes() for n, w in again.weights.items()} == {n: w.tobytes() for n, w in first.weights.items()}


def test_where_only_the_reply_s_line_finds_no_room_it_does_not_leave_either(site, monkeypatch):
    weights = initial(site)
    came = site.ledger.came

    def then_full(*message):
        came(*message)
        full(monkeypatch, 0)

    monkeypatch.setattr(site.ledger, "came", then_full)
    with pytest.raises(OSError, match="so nothing leaves"):
        site.answer(order("hello", 0), weights)
    assert [entry["direction"] for entry in read_ledger(site.folder / FILE)[0]][-1] == "in"


# The command ----------------------------------------------------------------------------------------------------------


def test_audit_prints_messages_totals_and_that_the_chain_is_whole(folder, capsys):
    assert main(["audit", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "coverage_ME (int8 [2, 3], 6 bytes)" in said and "withheld: domains" in said
    assert "weights (2 tensors, 10 numbers, 32 bytes)" in said
    assert "came in all: 2 messages" in said and "left in all: 1 messages" in said
    assert f"the chain is whole: 3 lines, the last is {read_ledger(folder / FILE)[1]}" in said


def test_audit_of_one_round_as_json(folder, capsys):
    assert main(["audit", str(folder), "--round", "4", "--json"]) == 0
    [ledger] = json.loads(capsys.readouterr().out)["ledgers"]
    assert [(entry["round"], entry["direction"]) for entry in ledger["messages"]] == [(4, "in")]
    assert (ledger["lines"], ledger["site"], ledger["broken"]) == (3, "a", "")
    assert ledger["totals"]["came"]["bytes"] == ledger["messages"][0]["bytes"] > ledger["totals"]["left"]["bytes"] == 0


def test_audit_of_a_run_looks_at_every_site_and_ends_with_3_where_a_chain_is_not_whole(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / "sites" / name).mkdir(parents=True)
        Ledger(tmp_path / "sites" / name).came(replace(ORDER, site=name), {})
        Ledger(tmp_path / "sites" / name).left(replace(REPLY, site=name), [])
    assert main(["audit", str(tmp_path)]) == 0
    path = tmp_path / "sites" / "two" / FILE
    path.write_bytes(path.read_bytes().replace(b'"entries": 1, "bytes": 1}', b'"entries": 1, "bytes": 9}', 1))
    assert main(["audit", str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert "THE CHAIN IS NOT WHOLE: line 2 does not follow" in out
    assert err.count("\n") == 1 and f"{tmp_path}/sites/two: line 2" in err and "sites/one" not in err


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_audit_of_a_folder_without_a_ledger_says_what_to_name(tmp_path, capsys, name):
    assert main(["audit", str(tmp_path / name)]) == 2
    assert f"holds no {FILE}" in capsys.readouterr().err
