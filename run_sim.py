"""SiteStream's command: federated continual learning of 3D medical segmentation, simulated on this machine.

    python run_sim.py                                  the quickstart: four pretend hospitals, about three minutes
    python run_sim.py check configs/hippocampus.yaml   what would run, without running it
    python run_sim.py run configs/hippocampus.yaml --engine ray --set memory.policy=reservoir
    python run_sim.py resume runs/hippocampus          go on where a run stopped, whatever stopped it
    python run_sim.py report runs/hippocampus          write its report.html anew
    python run_sim.py watch runs/hippocampus           the same page on localhost, while the run goes on
    python run_sim.py memory runs/hippocampus          what each site's memory holds, what was dropped and why
    python run_sim.py study studies/smoke.yaml         a grid of runs, several at once, and their tables
    python run_sim.py audit runs/hippocampus           what came to each site and what left it, from the sites' ledgers
    python run_sim.py predict runs/hippocampus/model.safetensors scans/ -o segmented

Exit codes: 0 done; 2 a mistake in what was asked (one line says which); 3 the run could not be completed (and how to
resume); 130 interrupted (Ctrl-C or SIGTERM; a second one leaves at once), everything up to the last finished round saved.
"""

from simulations.interrupt import INTERRUPTED, Interrupt

INTERRUPT = Interrupt()
if __name__ == "__main__":
    INTERRUPT.listen()  # before the slow imports: nothing is under way yet

import argparse
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    from rich.console import Console
except ModuleNotFoundError:  # the first thing that is missing where nothing was installed
    print(
        f"run_sim: SiteStream is not installed for {sys.executable}: `make install`, then .venv/bin/python run_sim.py",
        file=sys.stderr,
    )
    sys.exit(2)

from configs.load import load_run
from configs.schema import Run
from server.alone import alone
from simulations import commands
from simulations.arguments import QUICKSTART, allowances, edits, engine_edits, read_arguments
from simulations.run_folder import ASKED_FILE, config_of, free_folder, is_taken, with_absolute_paths, write_run

LOG = logging.getLogger("sitestream")


def main(argv: list[str] | None = None) -> int:
    """Parse, do, and turn what went wrong into one line and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        arguments = ["run", str(QUICKSTART)]
    with INTERRUPT.rolled_back():
        try:
            return _do(arguments)
        except KeyboardInterrupt:
            saved = "interrupted; finished rounds are saved. " if INTERRUPT.go_on else "interrupted"
            return _complain(saved + INTERRUPT.go_on, INTERRUPTED)


def _do(arguments: list[str]) -> int:
    ours = {"run": do_run, "resume": do_resume, "check": do_check, "study": do_study, "report": commands.do_report}
    ours |= {"memory": commands.do_memory, "predict": commands.do_predict, "watch": commands.do_watch}
    ours |= {"audit": commands.do_audit}
    try:
        args = read_arguments(arguments, __doc__, ours)
        return int(args.do(args))
    except commands.Unfinished as error:
        return _complain(str(error), error.code)
    except (ValueError, OSError) as error:  # an OSError: a folder that cannot be written, say
        return _complain(str(error), 2)


def _complain(message: str, code: int) -> int:
    Console(stderr=True, soft_wrap=True).print(f"run_sim: {' '.join(message.split())}", markup=False, highlight=False)
    return code


# The commands -------------------------------------------------------------------------------------------------------------


def do_run(args: argparse.Namespace) -> int:
    """Run a config in a new folder."""
    run = load_run(args.config, edits(args))
    _check_words(run)
    if args.out:
        _check_free(args.out)  # before the data are prepared, which may take long
    whole = _prepared(run)
    with alone(args.out) if args.out else free_folder(Path("runs") / run.name) as folder:
        _check_free(folder)
        write_run(folder / ASKED_FILE, with_absolute_paths(run))
        return _simulate(whole, folder)


def _check_free(folder: Path) -> None:
    if is_taken(folder):
        back = "" if (folder / ASKED_FILE).exists() else f"put its {ASKED_FILE} back, then "
        raise ValueError(f"{folder} already holds a run: {back}{_to_resume(folder)} or another --out")


def do_resume(args: argparse.Namespace) -> int:
    """Go on with a run from its last finished round; what is different in its config must be allowed."""
    from server.changes import what_changed
    from server.conduct import is_finished

    config, (changes, allow) = config_of(args.folder), allowances(args)
    INTERRUPT.go_on = _go_on(args.folder)
    with alone(args.folder):
        run = load_run(config, changes)
        changed = what_changed(args.folder, run, allow)
        if not changed and is_finished(args.folder):
            print(f"{args.folder} is finished: nothing to go on with; its report: {commands.make_report(args.folder)}")
            return 0
        _check_words(run)
        whole = _prepared(load_run(config, [*changes, *engine_edits(args)]))
        if changes:
            write_run(config, with_absolute_paths(run))
        return _simulate(whole, args.folder, allow)


def do_check(args: argparse.Namespace) -> int:
    """Validate config and data, and print what would run."""
    from simulations.hospital import print_site
    from simulations.outline import print_plan
    from simulations.plan import make_plan, prepare_all
    from simulations.pretend import materialise

    run = load_run(args.config, edits(args))
    _check_words(run)
    if args.site:
        print_site(run, args.site, Console())
        return 0
    if not run.sites:
        raise ValueError(f"{args.config} names no site: each hospital has a site file; look at one with --site site.yaml")
    whole = materialise(run)
    print_plan(make_plan(whole, prepare_all(whole)), run, Console())
    return 0


def do_study(args: argparse.Namespace) -> int:
    """Do what is left of a study's runs, and compare them."""
    INTERRUPT.go_on = f"go on with: {_again('study', args.file)} --out {shlex.quote(str(args.out))}"
    return commands.do_study(args)


def _check_words(run: Run) -> None:
    from clients.lean import import_lean

    import_lean("monai.networks.nets")
    from simulations.plan import check_names

    check_names(run)


def _prepared(run: Run) -> Run:
    """The materialised run, with every case in the cache; a line says so when that takes a while."""
    from simulations.plan import make_plan, prepare_all
    from simulations.pretend import materialise

    console = Console(stderr=True)
    with console.status("preparing the sites' data") as status:
        whole = materialise(run)

        def said(site: str, done: int, of: int) -> None:
            status.update(f"preparing the sites' data: {site} {done}/{of}")

        make_plan(whole, prepare_all(whole, said))
    return whole


def _simulate(run: Run, folder: Path, allow: Sequence[str] = ()) -> int:
    INTERRUPT.go_on = again = _go_on(folder)
    from server.arrivals import make_schedule
    from server.loop import CannotContinue
    from simulations.chatter import chatter_to
    from simulations.engines import simulate
    from simulations.screen import Screen

    rounds = make_schedule(run.arrivals, list(run.sites)).rounds
    with chatter_to(folder / "log.txt"):
        try:
            with Screen(folder, list(run.sites), rounds, watch_s=run.engine.watch_s):
                simulate(run, folder, allow)
            print(f"report: {commands.make_report(folder)}")
            return 0
        except CannotContinue as error:
            details = f" (details: {folder / 'log.txt'})" if error.__cause__ else ""  # not foreseen
            LOG.error("%s", error, exc_info=bool(details))
            return _complain(f"{error}{details}. {again}", 3)
        except ValueError:
            LOG.exception("the run was refused")
            raise
        except Exception as error:
            LOG.exception("the run stopped")
            reason = f"{type(error).__name__}: {error}"
            return _complain(f"the run stopped: {reason} (details: {folder / 'log.txt'}). {again}", 3)


def _go_on(folder: Path) -> str:
    return f"go on with: {_to_resume(folder)}"


def _to_resume(folder: Path) -> str:
    return _again("resume", folder)


def _again(command: str, path: Path) -> str:
    """A command as this shell understands it: outside the venv, and in another folder."""
    here = Path.cwd()
    ours = [path.relative_to(here) if path.is_relative_to(here) else path for path in map(Path, (sys.executable, __file__))]
    return shlex.join([*map(str, ours), command, str(path)])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    code = main()
    INTERRUPT.end(code)
    sys.exit(code)
