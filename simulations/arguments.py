"""The words that the command understands, and what a person asked for with them."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
MEMORY_EXAMPLES = """examples:
  python run_sim.py memory runs/quickstart                     every site in one table, and the federation round by round
  python run_sim.py memory runs/quickstart --site site_2       that site's samples one by one
  python run_sim.py memory runs/quickstart --evictions         what was dropped, when, and what was most like it
  python run_sim.py memory runs/quickstart --site site_2 --evictions

A run may be under way, stopped or finished. An uncertainty is low, middle or high by thirds of what all present sites hold.
u: uniqueness, 1 - similarity to the nearest sample at another site, in [0, 1]; only in runs with an index (index.on).
"""


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        """Raises ValueError instead of printing the usage."""
        raise ValueError(f"{message} (see {self.prog} --help)")


def read_arguments(given: Sequence[str], about: str | None, commands: Mapping[str, Callable[[Any], int]]) -> argparse.Namespace:
    """What was asked for; `do` in it is the command's function. Raises ValueError with a line that says what is wrong."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="run_sim.py", description=about, formatter_class=raw)
    subs = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help: str, examples: str | None = None) -> argparse.ArgumentParser:
        sub = subs.add_parser(name, help=help, description=help, epilog=examples, formatter_class=raw)
        sub.set_defaults(do=commands[name])
        return sub

    run = command("run", "run a config: train, evaluate, write the report")
    check = command("check", "validate config and data, and print what would run without running it")
    for sub in (run, check):
        sub.add_argument("config", type=Path, nargs="?", default=QUICKSTART, help="a YAML file (default: the quickstart)")
        _add_set(sub)
    run.add_argument("--out", type=Path, help="the run's folder (default: runs/<name>, numbered if that is taken)")
    resume = command("resume", "go on with a run after its last finished round")
    report = command("report", "write a run's report.html anew")
    memory = command("memory", "show what each site's memory holds, what was dropped and why", MEMORY_EXAMPLES)
    for sub in (resume, report, memory):
        sub.add_argument("folder", type=Path, help="a run's folder, e.g. runs/quickstart")
    memory.add_argument("--site", metavar="NAME", help="one site's samples, one by one")
    memory.add_argument("--evictions", action="store_true", help="the log of dropped samples, newest last")
    for sub in (run, check, resume):
        sub.add_argument("--engine", choices=("local", "ray"), help="sites in this process, or on Ray actors")
        sub.add_argument("--actors", type=int, help="Ray actors at most (default: as many as there are cores)")
    return parser.parse_args(given)


def edits(args: argparse.Namespace) -> list[str]:
    """What --set, --seed, --engine and --actors change of the config, as `a.b=c`."""
    seed = [] if args.seed is None else [f"seed={args.seed}"]
    return [*args.set, *seed, *engine_edits(args)]


def engine_edits(args: argparse.Namespace) -> list[str]:
    """What --engine and --actors change of the config."""
    engine = [] if args.engine is None else [f"engine.name={args.engine}"]
    return engine + ([] if args.actors is None else [f"engine.actors={args.actors}"])


def _add_set(sub: argparse.ArgumentParser) -> None:
    help = "change one key of the config, e.g. --set memory.budget=32; may be repeated"
    sub.add_argument("--set", action="append", default=[], metavar="a.b=c", help=help)
    sub.add_argument("--seed", type=int, help="the run's seed: every random choice is derived from it")
