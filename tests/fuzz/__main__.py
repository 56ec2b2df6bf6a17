"""Fuzz every target for a share of the time: `python -m tests.fuzz --seconds 300`. Exit code 1: something was found.

Each target runs in a process of its own, which may take 2 GiB more than it begins with; an example may take 10 s.
"""

import argparse
import logging
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.messages import TARGETS
from tests.fuzz.targets import only_one_line

ROOM = 2 * 2**30
"""Bytes of memory beyond what the modules take: a thousand times what any example is worth."""
SLOWEST_MS = 10_000
AT_ONCE = 100
"""Examples between two looks at the clock; each hundred has a seed of its own."""
LONGEST = 60
"""Lines of a finding that are printed."""


def main() -> int:
    """Every target in turn, or one of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="in all (default 300)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="for the same examples again")
    parser.add_argument("--target", choices=sorted(TARGETS), help="one of them, in this process")
    args = parser.parse_args()
    if args.target:
        return fuzz(args.target, args.seconds, args.seed)
    share = str(args.seconds / len(TARGETS))
    print(f"seed {args.seed}, {float(share):.0f} s for each of {len(TARGETS)} targets")
    here = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", "--seconds", share, "--seed", str(args.seed)]
    codes = [subprocess.run([*here, "--target", name], check=False).returncode for name in TARGETS]
    found = sum(code != 0 for code in codes)
    print(f"{found} of {len(TARGETS)} targets with a finding")
    return min(found, 1)


def fuzz(name: str, seconds: float, first_seed: int) -> int:
    """Examples until the time is up, or one is a finding, which is printed in its shortest form."""
    began, tried, finding = time.monotonic(), 0, ""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    with tempfile.TemporaryDirectory(prefix="sitestream-fuzz-") as folder:
        examples, read = TARGETS[name].make(Path(folder))

        @settings(max_examples=AT_ONCE, deadline=SLOWEST_MS, database=None, print_blob=False,
                  phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(examples)
        def attempt(example: object) -> None:
            nonlocal tried
            if time.monotonic() - began > seconds:
                return  # the rest of this hundred
            tried += 1
            only_one_line(lambda: read(example))

        while not finding and time.monotonic() - began < seconds:
            try:
                seed(first_seed + tried)(attempt)()
            except BaseException as error:  # hypothesis groups several findings
                if isinstance(error, KeyboardInterrupt):
                    raise
                lines = "".join(traceback.format_exception(error)).splitlines()
                finding = "\n".join(lines[-LONGEST:])
    print(
        f"{name:<16} {tried:>7} examples {time.monotonic() - began:>6.0f} s  {'a finding:' if finding else 'nothing'}",
        flush=True,
    )
    if finding:
        print(finding, flush=True)
    return int(bool(finding))


if __name__ == "__main__":
    sys.exit(main())
