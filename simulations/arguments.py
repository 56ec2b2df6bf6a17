"""The words that the command understands, and what a person asked for with them."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from configs.load import check_key

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
MEMORY_EXAMPLES = """examples:
  python run_sim.py memory runs/quickstart                     every site in one table, and the federation round by round
  python run_sim.py memory runs/quickstart --site site_2       that site's samples one by one
  python run_sim.py memory runs/quickstart --evictions         what was dropped, when, and what was most like it
  python run_sim.py memory runs/quickstart --site site_2 --evictions

A run may be under way, stopped or finished. An uncertainty is low, middle or high by thirds of what all present sites hold.
u: uniqueness, 1 - similarity to the nearest sample at another site, in [0, 1]; only in runs with an index (index.on).
"""
RESUME_EXAMPLES = """examples:
  python run_sim.py resume runs/hippocampus                          after Ctrl-C, a crash, a power cut, or kill -9
  python run_sim.py resume runs/hippocampus --engine local           in this process instead of on Ray: the same results
  python run_sim.py resume runs/hippocampus --actors 8
  python run_sim.py resume runs/hippocampus --allow train.lr=0.001   with another learning rate from here on, on purpose
  python run_sim.py resume runs/hippocampus --allow memory.policy    with the policy that its config.yaml now names

The results are those of a run that nothing stopped. A config.yaml that differs from the one with which the run began is
refused, and the line names the keys; only keep, name and engine.* (but for its cpus and gpus) are free to change. What a run
is made of (its seed, its network, a site's labels) cannot change at all. A run that is finished gets its report anew, and
nothing is done twice.
"""
PREDICT_EXAMPLES = """examples:
  python run_sim.py predict runs/quickstart/model.safetensors scan.nii.gz -o segmented
  python run_sim.py predict model.safetensors monday/ tuesday/scan_7.nii -o segmented --device cuda:0
  python run_sim.py predict model.safetensors scans/ -o segmented --each     one mask per class instead of one label map

NAME.nii.gz has the grid of the image NAME. What its values mean, and which class lies over which, is in labels.json beside
it. Images that have been done are left out, so the same command goes on where it was stopped. Exit code 3: some images
failed (each is named); 2: all of them, or a mistake in what was asked.
"""
WATCH_EXAMPLES = """examples:
  python run_sim.py watch runs/hippocampus                 http://localhost:8765: what each site is doing, and the report so far
  python run_sim.py watch runs/hippocampus --port 9000     another port

It only reads the run's folder, so it can be started, stopped and started again at any time. Only this machine can connect:
from elsewhere, `ssh -L 8765:localhost:8765 MACHINE`, then open the same address there. Ctrl-C ends it, not the run.
"""
AUDIT_EXAMPLES = """examples:
  python run_sim.py audit /var/lib/sitestream                a site's folder: what came to it and what left, message by message
  python run_sim.py audit runs/quickstart                    a simulation's run: every site below it
  python run_sim.py audit runs/quickstart/sites/site_2 --round 3
  python run_sim.py audit /var/lib/sitestream --json         for programs, and to keep elsewhere

It reads ledger.jsonl: for each field of each message its kind, shape, entries and bytes, never the content, and what the
site's own policy (`shares` in its site file) withheld. Every line carries the SHA-256 of the line before; exit code 3: the
chain is not whole, so a line was changed, cut out or cut off. Who may write the file could write it anew: note the last
line's sum elsewhere from time to time.
"""
CHECK_EXAMPLES = """examples:
  python run_sim.py check configs/hippocampus.yaml --set memory.budget=32
  python run_sim.py check configs/deployed.yaml --site /etc/sitestream/site.yaml     at a hospital, before its node connects

Every case is read and prepared on the way, so that nothing is found wrong later.
"""
STUDY_EXAMPLES = """examples:
  python run_sim.py study studies/smoke.yaml --dry-run       which runs there would be, and about how long they would take
  python run_sim.py study studies/smoke.yaml                 do what is left of them, several at once, and write the tables
  python run_sim.py study studies/smoke.yaml --retry-failed  the failed ones too

A study is a recipe (base), what varies (variants, vary, bounds), seeds and orders: configs/study.py documents every key. Its
tables and its page are written to runs/studies/NAME. Its runs lie in runs/cells, each under an address of all that its results
depend on (recipe, data, code, versions): no run is done twice, whichever study wants it, none is taken for what it no longer
is, and one that was stopped goes on where it was. Exit code 3: some runs failed (each is named).
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
    check = command("check", "validate config and data, and print what would run without running it", CHECK_EXAMPLES)
    check.add_argument("--site", type=Path, metavar="FILE", help="a hospital's site file: what it would be in such a run")
    for sub in (run, check):
        sub.add_argument("config", type=Path, nargs="?", default=QUICKSTART, help="a YAML file (default: the quickstart)")
        _add_set(sub)
    run.add_argument("--out", type=Path, help="the run's folder (default: runs/<name>, numbered if that is taken)")
    resume = command("resume", "go on with a run after its last finished round", RESUME_EXAMPLES)
    report = command("report", "write a run's report.html anew")
    memory = command("memory", "show what each site's memory holds, what was dropped and why", MEMORY_EXAMPLES)
    watch = command("watch", "show a run in the browser while it goes on", WATCH_EXAMPLES)
    watch.add_argument("--port", type=int, default=8765, help="on localhost (default: 8765)")
    for sub in (resume, report, memory, watch):
        sub.add_argument("folder", type=Path, help="a run's folder, e.g. runs/quickstart")
    allow = "let this key of the config differ from here on, as --set writes it, or as config.yaml has it now; may be repeated"
    resume.add_argument("--allow", action="append", default=[], metavar="a.b[=c]", help=allow)
    memory.add_argument("--site", metavar="NAME", help="one site's samples, one by one")
    memory.add_argument("--evictions", action="store_true", help="the log of dropped samples, newest last")
    _add_audit(command("audit", "show what came to a site and what left it, from its ledger", AUDIT_EXAMPLES))
    _add_predict(command("predict", "segment images with a model's file alone", PREDICT_EXAMPLES))
    _add_study(command("study", "do the runs of a study and compare them", STUDY_EXAMPLES))
    for sub in (run, check, resume):
        sub.add_argument("--engine", choices=("local", "ray"), help="sites in this process, or on Ray actors")
        sub.add_argument("--actors", type=int, help="Ray actors at most (default: as many as there are cores)")
    return parser.parse_args(given)


def edits(args: argparse.Namespace) -> list[str]:
    """What --set, --seed, --engine and --actors change of the config, as `a.b=c`."""
    seed = [] if args.seed is None else [f"seed={args.seed}"]
    return [*args.set, *seed, *engine_edits(args)]


def allowances(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """What --allow changes of the config, as `a.b=c`, and the keys that it lets differ.

    Raises:
        ValueError: a run has no such key.
    """
    keys = [text.partition("=")[0].strip() for text in args.allow]
    for key in keys:
        check_key(key)
    return [text for text in args.allow if "=" in text], keys


def engine_edits(args: argparse.Namespace) -> list[str]:
    """What --engine and --actors change of the config."""
    engine = [] if args.engine is None else [f"engine.name={args.engine}"]
    return engine + ([] if args.actors is None else [f"engine.actors={args.actors}"])


def _add_study(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", type=Path, metavar="STUDY", help="a YAML file, e.g. studies/smoke.yaml")
    sub.add_argument("--dry-run", action="store_true", help="say what there is to do and time a first round, but do nothing")
    sub.add_argument("--retry-failed", action="store_true", help="try failed runs again")
    sub.add_argument("--workers", type=int, metavar="N", help="runs at once (default: one per core)")
    sub.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="DIR", help="where studies and their runs lie (default: runs)"
    )


def _add_audit(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", type=Path, metavar="DIR", help="a site's folder, or a run's: every site below it")
    sub.add_argument("--round", type=int, metavar="N", help="only this round")
    sub.add_argument("--json", action="store_true", help="as JSON")


def _add_predict(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", type=Path, metavar="MODEL", help="a run's model.safetensors; nothing else of the run is needed")
    sub.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="a .nii or .nii.gz file, or a folder of them")
    sub.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="the folder for the results")
    sub.add_argument("--each", action="store_true", help="one binary mask per class, NAME_CLASS.nii.gz: overlaps are kept")
    sub.add_argument("--overwrite", action="store_true", help="do images again whose results are there")
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: the first GPU if there is one)")


def _add_set(sub: argparse.ArgumentParser) -> None:
    help = "change one key of the config, e.g. --set memory.budget=32; may be repeated"
    sub.add_argument("--set", action="append", default=[], metavar="a.b=c", help=help)
    sub.add_argument("--seed", type=int, help="the run's seed: every random choice is derived from it")
