"""A virtual environment of its own for each peer, made once."""

import subprocess
import sys
from pathlib import Path

PINS = ("torch==2.13.0", "monai==1.6.1")
"""The same in each as in this project."""
PEERS = {"flower": "flwr[simulation]==1.41.0", "nvflare": "nvflare==2.9.*"}


def python_of(peer: str, folder: Path) -> Path:
    """The interpreter of a peer's venv below `folder`, which is made, and the peer installed, if it is not there.

    Raises:
        ValueError: pip could not install it.
    """
    place = folder / peer
    wanted = [PEERS[peer], *PINS]
    done, python = place / "installed.txt", place / "bin" / "python"
    if done.is_file() and done.read_text().split() == wanted:
        return python
    print(f"installing {' '.join(wanted)} in {place} (once)", file=sys.stderr, flush=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    got = subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], capture_output=True, text=True)
    if got.returncode:
        said = (got.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise ValueError(f"{peer}: pip could not install {' '.join(wanted)} in {place}: {said}")
    done.write_text("\n".join(wanted))
    return python
