"""The report's lines on how to do the run again."""

import shlex
import sys
from pathlib import Path

from server.digest import Digest
from server.page import text

HOME = Path(__file__).parents[1]


def again(run: Digest) -> str:
    """The command for this machine, in any folder and shell; nothing where the run's recipe is not at hand."""
    if not run.config:
        return ""
    python, script = Path(sys.executable), HOME / "run_sim.py"
    if python.is_relative_to(HOME):
        home, called = f"cd {shlex.quote(str(HOME))} && ", [str(python.relative_to(HOME)), script.name]
    else:
        home, called = "", [str(python), str(script)]
    line = home + shlex.join([*called, "run", str(run.folder.absolute() / "config.yaml")])
    new = "It makes a new folder, runs/NAME or the next that is free."
    elsewhere = "Elsewhere: save the configuration below as config.yaml, put its folders right, and install the versions below"
    return (
        f"<p>To run it again on this machine:</p><pre>{text(line)}</pre><p class=soft>{new} "
        f"{elsewhere} (<code>make install</code>); then <code>python run_sim.py run config.yaml</code>.</p>"
    )
