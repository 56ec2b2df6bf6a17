"""Puts every fault that a run must survive into a small one, and says what became of it.

    python benchmarks/faults.py [--only WORDS] [--write]        each fault once, as a table
    python benchmarks/faults.py --sites 64 --failing 0.2        so many sites, of whose rounds a share fails: all accounted for
    python benchmarks/faults.py --cost [runs/quickstart]        the share of a run's time that goes into checkpoints

Faults of sites, disks, replies and files are put in from inside this process; those of processes are signals to a run over
Ray that is started as its user does it. The exit code is 1 if anything is in capitals: a fault that was not detected, or cost
more than it must.
"""

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from faults_of_input import OF_INPUT
from faults_of_processes import OF_PROCESSES
from faults_within import WITHIN
from injecting import Seen, acting, changing, events, finished, tiny
from lives import Life
from pages import put

from clients.work import Site
from wire import Failure, Order, Reply

PAGE = ROOT / "docs" / "reliability.md"
FAULTS = OF_PROCESSES | WITHIN | OF_INPUT
SHOUTS = ("| NOT |", "EXIT CODE", "UNEXPLAINED", "CASES OF", "ROUNDS |", "differs in")
"""What a table says of a fault that was not survived as it must be."""
FAILURES = ("raises", "late", "torn", "replayed", "poisoned")
"""How a site's round fails: before its commit, or after it on the way."""
TARGET = 0.03
"""The largest share of a run's wall time that may go into checkpoints."""


def table(place: Path, only: str) -> str:
    """Every fault once, as Markdown."""
    lines = ["| fault | times | detected | the run | lost | what was said |", "|---|---|---|---|---|---|"]
    for number, (fault, inject) in enumerate(FAULTS.items()):
        if only in fault:
            here = place / str(number)
            here.mkdir(parents=True)
            seen = inject(here)
            detected = seen.detected if seen.detected else "NOT"
            said = _plain(seen, place)
            lines.append(f"| {fault} | {seen.injected} | {detected} | {seen.survived} | {seen.lost} | {said} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _plain(seen: Seen, place: Path) -> str:
    """What was said, without this machine's folders, in a table's cell."""
    words = seen.said.replace(str(place), "...").replace(os.environ["SITESTREAM_CACHE"], "...").replace("|", "/")
    return words.replace("<", "&lt;") if len(words) <= 200 else words[:197].replace("<", "&lt;") + "..."


# Many sites -----------------------------------------------------------------------------------------------------------------


def many(place: Path, count: int, share: float, seed: int) -> tuple[str, bool]:
    """A run of so many sites, of whose rounds a share fails in some way; whether the record accounts for all."""

    def how(order: Order) -> str:
        rng = np.random.default_rng([seed, crc32(order.site.encode()), order.round])
        return str(rng.choice(FAILURES)) if order.task == "train" and rng.random() < share else ""

    def raising(answer: Callable[[], Reply], site: Site, order: Order) -> Reply:
        if how(order) == "raises":
            raise RuntimeError("the scanner is on fire")
        return answer()

    def failing(answer: Reply | Failure, order: Order) -> Reply | Failure:
        if (kind := how(order)) and isinstance(answer, Reply):
            changes = {"torn": lambda tensor: tensor[..., :1], "poisoned": lambda tensor: tensor * np.float32(np.nan)}
            if kind == "late":
                return Failure(site=order.site, round=order.round, task="train", kind="late", reason="no answer within 1 s")
            if kind == "replayed":
                return replace(answer, round=order.round - 1)
            return replace(answer, weights={name: changes[kind](tensor) for name, tensor in answer.weights.items()})
        return answer

    like = tiny().sites["here"]
    sites = {f"site{number:02d}": like for number in range(count)}
    plain = {name: site.model_dump(mode="json", include={"root", "annotates"}) for name, site in sites.items()}
    with acting(raising), changing(failing):
        finished(tiny(sites=plain, arrivals={"visits": {name: [[1, None]] for name in sites}, "rounds": 4}), place / "many")
    return accounted(place / "many")


def accounted(folder: Path) -> tuple[str, bool]:
    """Whether every present site has, for every round, one train row or one failure."""
    asked = [(row["round"], site) for row in events(folder, "round") for site in row["present"]]
    failures = events(folder, "failure")
    told = Counter((row["round"], row["site"]) for row in (*events(folder, "train"), *failures))
    once = sum(told[one] == 1 for one in asked)
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(Counter(row["kind"] for row in failures).items()))
    whole = once == len(asked) == len(told)
    words = f"{len(asked)} site rounds, {len(failures)} failed ({kinds}), {once} accounted for"
    return f"{words}: {'all of them' if whole else 'NOT ALL'}.", whole


# Cost -----------------------------------------------------------------------------------------------------------------------


def cost(folder: Path) -> tuple[str, bool]:
    """What checkpoints and snapshots took of a finished run."""
    end, rounds = events(folder, "end")[-1], len(events(folder, "round"))
    server, sites = end["seconds_saving"], sum(row["saving"] for row in events(folder, "train"))
    share = (server + sites) / end["seconds"]
    words = (
        f"{folder.name}: {rounds} rounds in {end['seconds']:.0f} s; per round the server's checkpoint {server / rounds:.3f} s"
    )
    good = share < TARGET
    return f"{words}, the sites' {sites / rounds:.3f} s: {share:.2%} (target {'' if good else 'MISSED: '}{TARGET:.0%}).", good


def quickstart(place: Path) -> Path:
    """A finished run of the quickstart."""
    life = Life(("run", "configs/quickstart.yaml", "--out", str(place / "quickstart")), place / "said.txt", place / "cache")
    if life.wait(3600) != 0:
        raise SystemExit(life.last_words())
    return place / "quickstart"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose name holds these words")
    parser.add_argument("--sites", type=int, help="this many sites instead of the table")
    parser.add_argument("--failing", type=float, default=0.2, help="the share of their rounds that fails")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cost", type=Path, nargs="?", const=Path(), help="a finished run; none: run the quickstart")
    parser.add_argument("--write", action="store_true", help=f"put it into docs/{PAGE.name}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        place = Path(name)
        os.environ["SITESTREAM_CACHE"] = str(place / "cache")
        if args.cost is not None:
            mark, (text, good) = "<!-- cost -->", cost(args.cost if args.cost != Path() else quickstart(place))
        elif args.sites:
            mark, (text, good) = "<!-- many -->", many(place, args.sites, args.failing, args.seed)
        else:
            text = table(place, args.only)
            mark, good = "<!-- faults -->", not any(word in text for word in SHOUTS)
    print(text if mark != "<!-- faults -->" else "all as they must be" if good else "NOT all as they must be")
    if args.write:
        put(PAGE, mark, text)
    return 0 if good else 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.exit(main())
