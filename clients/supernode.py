"""Flower's SuperNode as a hospital's supervisor needs it: when it gives up, the process ends.

    python -m clients.supernode --superlink HOST:8000 --root-certificates ca.crt ...   (the options of flower-supernode)

Flower 1.41 gives up where TLS breaks off in the middle of a word, as when the server or a proxy before it is restarted: it
says so in one line, and then the process stays, connected to nothing, because its local server goes on listening. A supervisor
(systemd, Restart=) sees nothing to restart. Here the process ends with GAVE_UP instead.
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import sys
from collections.abc import Callable

GAVE_UP = 75
"""Exit code: a temporary failure (sysexits.h, EX_TEMPFAIL); to be started again."""


def main(supernode: Callable[[], None] | None = None, leave: Callable[[int], object] = os._exit) -> None:
    """Run the SuperNode; it returns only when its connection is over for good."""
    (supernode or _flowers())()
    print("the SuperNode's connection is over for good; it ends, so that its supervisor starts it again", file=sys.stderr)
    sys.stderr.flush()
    leave(GAVE_UP)


def _flowers() -> Callable[[], None]:
    from flwr.supernode.cli.flower_supernode import flower_supernode

    sys.argv[0] = "flower-supernode"
    return flower_supernode  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
