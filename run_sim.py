"""SiteStream's command: federated continual learning of 3D medical segmentation, simulated on this machine.

    python run_sim.py                                  the quickstart: four pretend hospitals, about three minutes
    python run_sim.py check configs/hippocampus.yaml   what would run, without running it
    python run_sim.py run configs/hippocampus.yaml --engine ray --set memory.policy=reservoir
    python run_sim.py resume runs/hippocampus          go on where a run stopped
    python run_sim.py report runs/hippocampus          write its report.html anew
    python run_sim.py memory runs/hippocampus          what each site's memory holds, what was dropped and why

Exit codes: 0 done; 2 a mistake in what was asked (one line says which); 3 the run could not be completed (and how to
resume); 130 interrupted, everything up to the last finished round saved.
"""

import argparse
import logging
import os
import shlex
import signal
import sys
import warnings
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

from configs.load import dump_run, load_run
from configs.schema import Run
from simulations.arguments import QUICKSTART, edits, engine_edits, read_arguments

LOG = logging.getLogger("sitestream")


def main(argv: list[str] | None = None) -> int:
    """Parse, do, and turn what went wrong into one line and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        arguments = ["run", str(QUICKSTART)]
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        commands = {"run": do_run, "resume": do_resume, "check": do_check, "report": do_report, "memory": do_memory}
        args = read_arguments(arguments, __doc__, commands)
        return int(args.do(args))
    except (ValueError, OSError) as error:  # an OSError: a folder that cannot be written, say
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)


def _complain(message: str, code: int) -> int:
    Console(stderr=True, soft_wrap=True).print(f"run_sim: {' '.join(message.split())}", markup=False, highlight=False)
    return code


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


# The commands -------------------------------------------------------------------------------------------------------------


def do_run(args: argparse.Namespace) -> int:
    """Run a config in a new folder."""
    run = load_run(args.config, edits(args))
    _check_words(run)
    folder = args.out or _free_folder(Path("runs") / run.name)
    if (folder / "config.yaml").exists():
        raise ValueError(f"{folder} already holds a run: {_to_resume(folder)} or another --out")
    whole = _prepared(run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump_run(_with_absolute_paths(run)), encoding="utf-8")
    return _simulate(whole, folder)


def do_resume(args: argparse.Namespace) -> int:
    """Go on with a run from its last finished round."""
    run = load_run(_config_of(args.folder), engine_edits(args))
    return _simulate(_prepared(run), args.folder)


def do_check(args: argparse.Namespace) -> int:
    """Validate config and data, and print what would run."""
    from simulations.outline import print_plan
    from simulations.plan import make_plan, prepare_all
    from simulations.pretend import materialise

    run = load_run(args.config, edits(args))
    _check_words(run)
    whole = materialise(run)
    print_plan(make_plan(whole, prepare_all(whole)), run, Console())
    return 0


def do_report(args: argparse.Namespace) -> int:
    """Write report.html from what the run's folder holds."""
    from server.report import write_report
    from simulations.holdings import held_by_uncertainty

    _config_of(args.folder)
    print(f"report: {write_report(args.folder, held_by_uncertainty(args.folder))}")
    return 0


def do_memory(args: argparse.Namespace) -> int:
    """Print what the sites' memories hold, finished or not."""
    from simulations.memory_tables import print_memory

    duplicate = load_run(_config_of(args.folder)).index.duplicate
    print_memory(args.folder, duplicate, args.site, args.evictions)
    return 0


def _check_words(run: Run) -> None:
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


def _simulate(run: Run, folder: Path) -> int:
    from server.arrivals import make_schedule
    from server.loop import CannotContinue
    from server.report import write_report
    from simulations.chatter import chatter_to
    from simulations.engines import simulate
    from simulations.holdings import held_by_uncertainty
    from simulations.screen import Screen

    rounds = make_schedule(run.arrivals, list(run.sites)).rounds
    again = f"go on with: {_to_resume(folder)}"
    with chatter_to(folder / "log.txt"):
        try:
            with Screen(folder, list(run.sites), rounds):
                simulate(run, folder)
            print(f"report: {write_report(folder, held_by_uncertainty(folder))}")
            return 0
        except KeyboardInterrupt:
            return _complain(f"interrupted; finished rounds are saved. {again}", 130)
        except CannotContinue as error:
            return _complain(f"{error}. {again}", 3)
        except ValueError:
            LOG.exception("the run was refused")
            raise
        except Exception as error:
            LOG.exception("the run stopped")
            reason = f"{type(error).__name__}: {error}"
            return _complain(f"the run stopped: {reason} (details: {folder / 'log.txt'}). {again}", 3)


def _to_resume(folder: Path) -> str:
    """The command that goes on with a run, as this shell understands it: outside the venv, and in another folder."""
    here = Path.cwd()
    ours = [path.relative_to(here) if path.is_relative_to(here) else path for path in map(Path, (sys.executable, __file__))]
    return shlex.join([*map(str, ours), "resume", str(folder)])


# Folders and files --------------------------------------------------------------------------------------------------------


def _config_of(folder: Path) -> Path:
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{folder} holds no run (it has no config.yaml)")
    return path


def _free_folder(wanted: Path) -> Path:
    """runs/<name>, or the first of runs/<name>-2, -3 ... that is free."""
    folder, number = wanted, 1
    while (folder / "config.yaml").exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _with_absolute_paths(run: Run) -> Run:
    """So that a run's folder can be resumed from anywhere."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    sites = {name: site.model_copy(update={"root": absolute(site.root)}) for name, site in run.sites.items()}
    data = run.data.model_copy(update={"root": absolute(run.data.root)})
    model = run.model.model_copy(update={"weights": absolute(run.model.weights)})
    return run.model_copy(update={"sites": sites, "data": data, "model": model})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
