"""A run in an MLflow file store: parameters, metrics by round, tags, and at the end the model and the report.

The store's layout is written here and not by the package: MLflow has frozen it (its own client refuses to write it unless
MLFLOW_ALLOW_FILE_STORE is set), and where mlflow is installed MONAI imports it, with its telemetry, into every process of
every site: 1.5 s and 44 MB each. A test reads the store back with mlflow itself where that is installed.

    mlruns/<experiment>/meta.yaml
    mlruns/<experiment>/<run>/meta.yaml
    mlruns/<experiment>/<run>/params/<key>      the value
    mlruns/<experiment>/<run>/tags/<key>        the value
    mlruns/<experiment>/<run>/metrics/<key>     a line for each point: milliseconds since 1970, value, step
    mlruns/<experiment>/<run>/artifacts/        files
"""

import hashlib
import json
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from configs.load import dump_run
from configs.plain import parse, read
from configs.schema import Run
from durable import write_whole
from server.conduct import MODEL, versions
from server.export_points import Point, flat, plain
from server.exports import Ending

LONGEST = 500
"""Characters of a parameter: what every version of MLflow takes."""
STATUS = {"running": 1, "finished": 3, "failed": 4, "killed": 5}
"""As mlflow.entities.RunStatus numbers them."""
ARTIFACTS = (MODEL, "R.csv", "config.yaml")
LOCK, LOCK_S = ".sitestream.lock", 60
"""While one run makes an experiment the others wait for it, so that there are not two of the same name."""


class Store:
    """The outlet."""

    def __init__(self, root: Path, run: Run, folder: Path, id: str) -> None:
        self._root, self._run, self._folder, self._id = root, run, folder, id
        self._key = uuid.uuid5(uuid.NAMESPACE_OID, id).hex
        self._place = Path()

    def begin(self) -> None:
        """The run's folder as it is before its first round; when it began, and tags that people gave it, stay."""
        self._place = self._where()
        for part in ("metrics", "params"):
            with suppress(FileNotFoundError):
                shutil.rmtree(self._place / part)
        for part in ("metrics", "params", "tags", "artifacts"):
            (self._place / part).mkdir(parents=True, exist_ok=True)
        self._note("running")
        config = {plain(key): value for key, value in flat(parse(dump_run(self._run)), ".")}
        for key, value in config.items():
            (self._place / "params" / key).write_text(_short(value), encoding="utf-8")
        tags = {"mlflow.runName": self._folder.name, "run": self._id, "paradigm": self._run.paradigm}
        tags |= {"folder": str(self._folder.absolute())} | {f"version.{name}": text for name, text in versions().items()}
        for key, value in tags.items():
            (self._place / "tags" / key).write_text(value, encoding="utf-8")

    def add(self, points: Sequence[Point]) -> None:
        """A line each."""
        lines, now = defaultdict[str, str](str), time.time_ns() // 1_000_000
        for key, value, step in points:
            lines[key] += f"{now} {value!r} {step}\n"
        for key, text in lines.items():
            path = self._place / "metrics" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(text)

    def end(self, how: Ending) -> None:
        """Of a finished run the files that it leaves, and how it ended."""
        if how == "finished":
            from server.report import write_report

            for path in (*(self._folder / name for name in ARTIFACTS), write_report(self._folder)):
                if path.is_file():  # a deployment's config lies elsewhere
                    write_whole(self._place / "artifacts" / path.name, lambda draft, path=path: shutil.copyfile(path, draft))  # type: ignore[misc]
        self._note(how)

    def _where(self) -> Path:
        """The run's folder in the store: where it is already, else in the experiment of that name, which is made if need be."""
        self._root.mkdir(parents=True, exist_ok=True)
        with FileLock(self._root / LOCK, timeout=LOCK_S):
            there = sorted(self._root.glob(f"*/{self._key}"))
            return there[0] if there else self._experiment() / self._key

    def _experiment(self) -> Path:
        name = self._run.name
        for path in sorted(self._root.glob("*/meta.yaml")):
            about = _about(path)
            if about.get("name") == name and about.get("lifecycle_stage") == "active":
                return path.parent
        place = self._root / str(int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10**17 + 10**17)
        place.mkdir(exist_ok=True)
        now = time.time_ns() // 1_000_000
        times = {"creation_time": now, "last_update_time": now}
        facts = {"name": name, "experiment_id": place.name, "artifact_location": place.as_uri(), "lifecycle_stage": "active"}
        _write(place / "meta.yaml", facts | times)
        return place

    def _note(self, how: str) -> None:
        """meta.yaml: what MLflow shows of the run itself."""
        path, now = self._place / "meta.yaml", time.time_ns() // 1_000_000
        facts: dict[str, Any] = {
            "run_id": self._key,
            "run_name": self._folder.name,
            "experiment_id": self._place.parent.name,
            "artifact_uri": (self._place / "artifacts").as_uri(),
            "start_time": _about(path).get("start_time", now),
            "end_time": None if how == "running" else now,
            "status": STATUS[how],
            "lifecycle_stage": "active",
            "user_id": "",
            "source_type": 4,  # a program on this machine
            "source_name": "",
            "source_version": "",
            "entry_point_name": "",
            "tags": [],
        }
        _write(path, facts)


def _about(path: Path) -> Mapping[str, Any]:
    """A meta.yaml, empty if it is not there or cannot be read."""
    with suppress(OSError, ValueError):
        return read(path)
    return {}


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(facts), allow_unicode=True)
    write_whole(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
