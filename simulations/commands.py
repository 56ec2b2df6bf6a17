"""The commands that only read a run, or need no run at all; run_sim.py has those that begin one or go on with it."""

import argparse
from pathlib import Path

from rich.console import Console

from configs.load import load_run
from simulations.run_folder import config_of


class Unfinished(Exception):
    """Not all that was asked for could be done; the message is for people, `code` is the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def do_report(args: argparse.Namespace) -> int:
    """Write report.html from what the run's folder holds."""
    config_of(args.folder)
    print(f"report: {make_report(args.folder)}")
    return 0


def do_memory(args: argparse.Namespace) -> int:
    """Print what the sites' memories hold, finished or not."""
    from simulations.memory_tables import print_memory

    duplicate = load_run(config_of(args.folder)).index.duplicate
    print_memory(args.folder, duplicate, args.site, args.evictions)
    return 0


def do_predict(args: argparse.Namespace) -> int:
    """Segment images with a model's file alone."""
    from clients.predict import predict_files

    failed, of = predict_files(args.model, args.images, args.out, each=args.each, overwrite=args.overwrite, device=args.device)
    if failed:
        raise Unfinished(f"{failed} of {of} images failed", 2 if failed == of else 3)
    return 0


def do_study(args: argparse.Namespace) -> int:
    """Do what is left of a study's runs, and compare them."""
    from simulations.studies.command import conduct_study

    facts = {"workers": args.workers, "retry_failed": args.retry_failed, "dry_run": args.dry_run}
    if failed := conduct_study(args.file, args.out, **facts, console=Console(soft_wrap=True)):
        raise Unfinished(f"{failed} of the study's cells failed", 3)
    return 0


def do_watch(args: argparse.Namespace) -> int:
    """Serve a run's page while the run goes on."""
    from simulations.live import serve_page

    serve_page(args.folder, args.port, Console())
    return 0


def do_audit(args: argparse.Namespace) -> int:
    """Print what came to a site and what left it."""
    from simulations.audit import audit

    if broken := audit(args.folder, args.round, args.json, Console(soft_wrap=True)):
        raise Unfinished(f"the ledger is not whole: {'; '.join(broken)}", 3)
    return 0


def make_report(folder: Path) -> Path:
    """Write a run's report.html and return its path."""
    from server.report import write_report
    from simulations.holdings import held_by_uncertainty

    return write_report(folder, held_by_uncertainty(folder))
