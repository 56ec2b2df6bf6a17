"""What is fuzzed: each target makes, in an empty folder, a strategy of examples and the reader that they are fed to."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import yaml
from hypothesis import strategies as st

from clients import snapshot
from clients.data import Case, site_cases, subject_of
from clients.prepare import prepare
from configs.load import build_run, load_run, load_site
from configs.schema import Preprocess
from configs.site import SiteFile
from memory import store
from memory.sample import Sample
from server import checkpoint
from server.digest import read_run
from server.federation import Federation, Known
from server.report import write_report
from simulations.lines import Lines
from simulations.watch import Watch
from strategies.base import State
from tests.fuzz.mutate import edited, mutated
from tests.fuzz.records import crowded, record

Reader = Callable[[Any], object]


@dataclass(frozen=True)
class Target:
    """A reader and what it is to read."""

    make: Callable[[Path], tuple[st.SearchStrategy[Any], Reader]]
    few: int = 25
    """Examples in the ordinary suite."""


SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"


def config_texts(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """YAML files, as runs and as site files."""

    def read(text: bytes) -> None:
        path = folder / "config.yaml"
        path.write_bytes(text)
        only_one_line(lambda: load_run(path))
        only_one_line(lambda: load_site(path))

    site = (
        b"root: /data\nannotates: [liver]\nsplit: {subject: (id + 1) // 2, test: {key: a}}\nlabels: {liver: 1, tumor: [2, 3]}\n"
    )
    return st.one_of(
        mutated(SMOKE.read_bytes()), mutated(site), st.text().map(lambda text: text.encode("utf-8", "replace"))
    ), read


def config_trees(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """Configs as plain data."""
    return edited(yaml.safe_load(SMOKE.read_text())), lambda tree: build_run(tree) if isinstance(tree, dict) else None


def config_edits(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """What follows --set."""
    keys = st.sampled_from(
        ("seed", "memory.args.k", "memory.policy", "sites.first.shift", "train.patch", "strategy", "arrivals", "x.y")
    )
    edits = st.one_of(
        st.text(), st.tuples(keys, st.text()).map("=".join), mutated(b"memory={policy: linear, args: {}}").map(as_text)
    )
    return edits, lambda edit: load_run(SMOKE, [edit])


def data_sets(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """dataset.json and a selection beside it."""
    names = [f"case_{i}" for i in range(6)]
    entries = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    listing = {"labels": {"0": "background", "1": "liver", "2": "tumor"}, "training": entries}
    chosen = {"part": dict.fromkeys(names, "a"), "list": names[:2]}
    split = {"subject": "(id + 1) // 2", "test": {"key": "list"}}
    site = SiteFile.model_validate(
        {"root": folder, "cases": {"key": "part", "value": "a"}, "split": split, "domains": {"key": "part"}}
    )

    def read(files: tuple[bytes, bytes]) -> None:
        for name, text in zip(("dataset.json", "partitions.json"), files, strict=True):
            (folder / name).write_bytes(text)
        site_cases("a", site, 0)

    spoilt = [st.one_of(edited(tree).map(said), mutated(said(tree)), st.just(said(tree))) for tree in (listing, chosen)]
    return st.tuples(*spoilt), read


def subject_rules(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """Arithmetic on the case's number."""
    rules = st.one_of(
        st.text("id0123456789+-*/%() .,x[]{}", max_size=60), st.text(max_size=20), mutated(b"(id + 1) // 2").map(as_text)
    )
    deep = st.integers(1, 3000).map(lambda n: "(" * n + "id" + "+1)" * n)
    powers = st.integers(1, 300).map(lambda n: "*".join(["99999999"] * n))
    return st.one_of(rules, deep, powers), lambda rule: subject_of("case_036", rule)


def volumes(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """NIfTI files, plain and compressed."""
    array = np.arange(8 * 7 * 6, dtype=np.int16).reshape(8, 7, 6)
    valid = nib.Nifti1Image(array, np.diag([1.0, 2, 3, 1])).to_bytes()
    label = folder / "label.nii.gz"
    nib.save(nib.Nifti1Image((array % 3).astype(np.uint8), np.diag([1.0, 2, 3, 1])), label)
    recipe = Preprocess(spacing=(2, 2, 2))

    def read(example: tuple[bytes, bool]) -> None:
        data, packed = example
        path = folder / ("image.nii.gz" if packed else "image.nii")
        path.write_bytes(data)
        list(prepare([Case("a", path, label)], recipe, folder / "cache", workers=1))

    plain = st.tuples(mutated(valid), st.just(False))
    header = mutated(valid[:352]).map(lambda head: (head[:352].ljust(352, b"\0") + valid[352:], False))
    packed = st.one_of(mutated(gzip.compress(valid, mtime=0)), mutated(valid).map(lambda data: gzip.compress(data, 1, mtime=0)))
    return st.one_of(plain, header, st.tuples(packed, st.just(True))), read


def snapshots(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """A site's state and memory."""
    samples = tuple(
        Sample(case=f"c{i}", arrived=i, feature=np.ones(3, np.float32), classes=frozenset({"liver"})) for i in range(3)
    )
    return _damaged(
        folder, lambda: _commit(folder, samples), lambda: (snapshot.before(folder, "r", 3), store.load(folder / "memory"))
    )


def _commit(folder: Path, samples: tuple[Sample, ...]) -> None:
    for number in (1, 2):
        snapshot.commit(folder, "r", number, snapshot.Snapshot(2, number, samples, {"w": np.ones(3, np.float32)}), 2)
    store.save(samples, folder / "memory")


def checkpoints(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """The server's rounds."""

    def write() -> None:
        (folder / "record.jsonl").write_bytes(b'{"event": "x"}\n')
        for number in (1, 2):
            state = State({"w": np.ones(3, np.float32)}, {"velocity": {"w": np.ones(3)}}, number)
            known = {"a": Known(5, 2, ("liver",))}
            checkpoint.save(folder, Federation(run="r", round=number, state=state, known=known, arrived=("a",), record=15), 2)

    return _damaged(folder, write, lambda: checkpoint.load(folder))


def _damaged(folder: Path, write: Callable[[], None], read: Callable[[], object]) -> tuple[st.SearchStrategy[Any], Reader]:
    """Some of the files that `write` leaves are mutated or gone; examples: [(which file, its new content or None)]."""
    write()
    whole = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    damage = st.sampled_from(sorted(whole)).flatmap(lambda path: st.tuples(st.just(path), st.none() | mutated(whole[path])))

    def spoil(damaged: list[tuple[Path, bytes | None]]) -> None:
        for path, content in {**whole, **dict(damaged)}.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        read()

    return st.lists(damage, min_size=1, max_size=3), spoil


def records(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """record.jsonl, as the screens and the report read it."""
    rows = record()

    def read(lines: bytes) -> None:
        (folder / "record.jsonl").write_bytes(lines)
        watch = Watch(folder, ["a", "b"], 3)
        watch.update()
        told = Lines(3)
        assert all(isinstance(line, str) for line in (*told.first(watch.news), *told.rest()))
        read_run(folder)

    whole = b"".join(said(row) + b"\n" for row in rows)
    return st.one_of(edited(rows).map(lambda tree: b"".join(said(row) + b"\n" for row in tree)), mutated(whole)), read


def reports(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """A report of a record that can be read, whatever it says; its figures are made, and not drawn."""
    rows, read = figures(folder)

    def quickly(tree: Any) -> None:
        with mock.patch("server.page._rendered", return_value=b"<svg/>"):
            read(tree)

    return rows, quickly


def figures(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """The same, drawn, which takes a second, or, of as many names as there may be, a few."""

    def read(tree: Any) -> None:
        (folder / "record.jsonl").write_bytes(b"".join(said(row) + b"\n" for row in tree))
        write_report(folder)

    return edited(record(), most=6) | edited(crowded(), most=6), read


def said(tree: Any) -> bytes:
    """As JSON, with the words for NaN and infinity that Python writes."""
    return json.dumps(tree).encode()


def as_text(data: bytes) -> str:
    """Whatever of it is text."""
    return data.decode("utf-8", "replace")


def only_one_line(read: Callable[[], object]) -> None:
    """The property: it succeeds, or raises ValueError with one short line."""
    try:
        read()
    except ValueError as error:
        line = str(error)
        assert line and "\n" not in line and len(line) < 500, f"not one short line: {line[:1000]!r}"


FILES: dict[str, Target] = {
    "config texts": Target(config_texts),
    "config trees": Target(config_trees),
    "config edits": Target(config_edits),
    "data sets": Target(data_sets),
    "subject rules": Target(subject_rules),
    "volumes": Target(volumes),
    "snapshots": Target(snapshots),
    "checkpoints": Target(checkpoints),
    "records": Target(records),
    "reports": Target(reports, few=10),
    "figures": Target(figures, few=2),
}
