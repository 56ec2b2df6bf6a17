"""Kills a run at random instants, resumes it, and compares what comes out with an undisturbed run, byte by byte.

    python benchmarks/kill_anywhere.py [--times 50] [--engine ray] [--seed 0] [--write]

The smoke config as a user runs it: `run_sim.py run`, then `resume` at once, without waiting for what a killed run left
alive. Each life of a run is hit once. Half of the instants are uniform over the duration of an undisturbed run, start-up
and report included; Ray's start takes most of that, so the others are uniform over the rounds that are left: kill -9 of its
driver, one of its actors, its raylet, its gcs_server or one of Ray's agents, a kind that is there at that moment, kinds
alike. If the run survives that, it goes on to its end; else it is resumed, and hit again. Each run that has come to its end
is compared with an undisturbed one on the local engine, and a new one begins, in an empty cache. Linux only.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from lives import Life, kill
from pages import put
from sameness import differences
from stages import Where, where

CONFIG, ROUNDS = "configs/smoke.yaml", 6
KINDS = ("driver", "actor", "raylet", "gcs_server", "agent")
PAGE = ROOT / "docs" / "reliability.md"
TOO_MANY = 20
PATIENCE_S = 300.0
"""A run that goes on for so long after it was hit, or resumed for the last time, hangs."""


@dataclass(frozen=True)
class Kill:
    """One kill: what was hit, when and where, and what came of it."""

    run: int
    after_s: float
    """Since the start of the life that it hit."""
    victim: str
    where: Where
    code: int | None
    """The life's exit code; None: it hung."""
    said: str

    @property
    def outcome(self) -> str:
        """What became of the run."""
        words = {0: "the run went on to its end", 3: "the run stopped", -9: "killed", None: "THE RUN HANGS"}
        return words.get(self.code, f"the run ended with exit code {self.code}")


@dataclass
class Trial:
    """Runs that are hit and resumed until so many kills are done and the last run has come to its end."""

    place: Path
    engine: str
    rng: np.random.Generator
    kinds: Sequence[str] = KINDS
    patience_s: float = PATIENCE_S
    kills: list[Kill] = field(default_factory=list)
    compared: int = 0
    found: list[str] = field(default_factory=list)
    """Differences and hangs, one line each."""
    lives: list[Life] = field(default_factory=list)
    cache: Path | None = None
    """Of all runs; None: each begins with an empty one."""
    reference: Path = Path()
    """The undisturbed run."""
    duration_s: float = 0.0
    """How long one takes from its start."""
    rounds_s: float = 0.0
    """How long its rounds take."""

    def __call__(self, times: int) -> None:
        """Measure an undisturbed run, then kill; what came of it is in the fields then."""
        with self:
            self.reference = self.undisturbed("reference", "local")
            whole = self.undisturbed("undisturbed", self.engine)
            self.duration_s = self.lives[-1].lasted
            self.rounds_s = float(json.loads((whole / "summary.json").read_text())["seconds"]["total"])
            self.compare(whole)
            self.kill(times)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave no process behind."""
        for life in self.lives:
            life.bury()

    def kill(self, times: int) -> None:
        """Go on until so many kills are done in all and the last run has come to its end."""
        while len(self.kills) < times:
            self.run(times)

    def undisturbed(self, name: str, engine: str) -> Path:
        """A run from its start to its end."""
        life = self.start(self.place / name, engine)
        if life.wait(self.patience_s) != 0:
            raise SystemExit(f"the undisturbed run failed: {life.last_words()}")
        return self.place / name

    def run(self, times: int) -> None:
        """One run, hit and resumed until it has come to its end."""
        folder = self.place / f"run{self.compared}"
        while True:
            life = self.start(folder, self.engine)
            code = self.instant(life, folder) if len(self.kills) < times else life.wait(self.patience_s)
            if code is None and len(self.kills) < times:
                code = self.hit(life, folder)
            if code is None:
                self.found.append(f"{folder.name} hangs: {life.last_words()}")
                life.bury()
            elif code not in (0, 3, -9):
                self.found.append(f"{folder.name} ended with exit code {code}: {life.last_words()}")
            if code == 0:
                return self.compare(folder)
            if len(self.found) > TOO_MANY:
                raise SystemExit("\n".join(["too much goes wrong to go on:", *self.found]))

    def instant(self, life: Life, folder: Path) -> int | None:
        """Let a life go on up to the instant at which it is hit; its exit code if it ended before that."""
        if self.rng.random() < 0.5:
            return life.wait(self.rng.uniform(0, self.duration_s))
        while where(folder, life.began).phase == "start-up":
            if (code := life.wait(0.02)) is not None or life.age() > self.patience_s:
                return code
        left = 1 - where(folder, life.began).round / ROUNDS
        return life.wait(self.rng.uniform(0, self.rounds_s * left))

    def start(self, folder: Path, engine: str) -> Life:
        """A new run, or the next life of one."""
        begun, cache = (folder / "config.yaml").exists(), self.cache or self.place / "cache"
        if not begun and self.cache is None:
            shutil.rmtree(cache, ignore_errors=True)
        arguments = ("resume", str(folder)) if begun else ("run", CONFIG, "--out", str(folder))
        said = self.place / f"{folder.name}.{len(self.lives)}.txt"
        life = Life((*arguments, "--engine", engine), said, cache)
        self.lives.append(life)
        return life

    def hit(self, life: Life, folder: Path) -> int | None:
        """Kill one of a life's processes, and see what becomes of it."""
        while not (there := [kind for kind in self.kinds if kind in (parts := life.parts())]):
            if (code := life.wait(0.1)) is not None:
                return code
        after_s = life.age()
        victim = str(self.rng.choice(there))
        kill(int(self.rng.choice(sorted(parts[victim]))))
        stage = where(folder, life.began)
        code = life.wait(self.patience_s)
        hit = Kill(self.compared, after_s, victim, stage, code, life.last_words())
        self.kills.append(hit)
        print(
            f"kill {len(self.kills)}: run {hit.run}, {hit.after_s:.1f} s after its start, {stage.phase} after round "
            f"{stage.round}: {victim}; {hit.outcome}; it said: {hit.said[:200]}",
            flush=True,
        )
        return code

    def compare(self, folder: Path) -> None:
        """A run that has come to its end against the undisturbed one."""
        self.compared += 1
        unlike = differences(folder, self.reference)
        self.found += [f"{folder.name}: {line}" for line in unlike]
        print(f"{folder.name}: {'; '.join(unlike) or 'the same as the undisturbed run'}", flush=True)

    def table(self) -> str:
        """The kills by victim and by phase as Markdown, and the sum of it all."""
        victims = [kind for kind in KINDS if any(hit.victim == kind for hit in self.kills)]
        count = Counter((hit.where.phase, hit.victim) for hit in self.kills)
        lines = [f"| killed while | {' | '.join(victims)} |", f"|---|{'---|' * len(victims)}"]
        for phase in sorted({hit.where.phase for hit in self.kills}):
            lines.append(f"| {phase} | {' | '.join(str(count[phase, victim]) for victim in victims)} |")
        hangs = sum(hit.code is None for hit in self.kills)
        total = f"{len(self.kills)} kills, {self.compared} runs compared, {hangs} hangs, {len(self.found)} differences"
        return "\n".join([*lines, "", f"Engine {self.engine}: {total}."])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--engine", choices=("ray", "local"), default="ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="what may be killed")
    parser.add_argument("--place", type=Path, help="keep everything here; default: a folder that is deleted")
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{PAGE.name}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        trial = Trial(args.place or Path(temporary), args.engine, np.random.default_rng(args.seed), args.only)
        trial.place.mkdir(parents=True, exist_ok=True)
        trial(args.times)
    print("\n".join(["", trial.table(), *(f"- {line}" for line in trial.found)]))
    if args.write:
        put(PAGE, f"<!-- kills {args.engine} -->", trial.table())
    return 1 if trial.found else 0


if __name__ == "__main__":
    sys.exit(main())
