"""A SuperNode that gives up ends, although Flower leaves a thread behind that would keep its process."""

import subprocess
import sys
from pathlib import Path

from clients.supernode import GAVE_UP

HOME = Path(__file__).parents[1]
GIVES_UP = """
import threading, time
from clients.supernode import main
def supernode():
    threading.Thread(target=time.sleep, args=(600,)).start()
main(supernode)
"""


def test_its_process_ends_and_says_why():
    done = subprocess.run([sys.executable, "-c", GIVES_UP], cwd=HOME, capture_output=True, text=True, timeout=60)
    assert done.returncode == GAVE_UP
    assert "connection is over for good" in done.stderr


def test_it_takes_flowers_own_options():
    command = [sys.executable, "-W", "ignore", "-m", "clients.supernode", "--help"]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "flower-supernode" in done.stdout
    assert "--auth-supernode-private-key" in done.stdout
