"""Both reports in a browser that shows nothing: tables sort, slices scroll, nothing is complained of and nothing is loaded."""

import json
import re
import shutil
import subprocess
from base64 import b64encode
from hashlib import sha256
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from server.page import POLICY, page, table
from server.report import write_report
from tests.test_report import record_rows, result_matrix, write_folder
from tests.test_study_page import pretend, written

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--virtual-time-budget=2000", "--enable-logging=stderr", "--dump-dom"),
]

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium here to look at the pages with")

COLUMN = """
function column(table, name) {
  const heads = [...table.tHead.rows[0].cells], head = heads.find((cell) => cell.innerText.startsWith(name));
  const cells = () => [...table.tBodies[0].rows].map((row) => row.cells[heads.indexOf(head)].innerText.split("\\n")[0].trim());
  const button = head.querySelector("button");
  button.focus();
  const seen = { focus: document.activeElement === button, written: cells() };
  for (const time of ["first", "second"]) {
    button.click();
    seen[time] = [head.getAttribute("aria-sort"), ...cells()];
  }
  seen.others = heads.filter((other) => other !== head && other.hasAttribute("aria-sort")).length;
  return seen;
}
const section = (title) => [...document.querySelectorAll("h2")].find((head) => head.innerText === title).parentNode;
const table = (title) => section(title).querySelector("table");
"""


def seen_by(tmp_path: Path, document: str, script: str) -> tuple[Any, list[str]]:
    """What a test script in a copy of a page returns, and what the browser complains of on its console."""
    probe = f"""{COLUMN}
    const out = document.createElement("pre");
    out.id = "outcome";
    out.textContent = JSON.stringify((() => {{ {script} }})());
    document.body.append(out);"""
    source = f"'sha256-{b64encode(sha256(probe.encode()).digest()).decode()}'"
    assert document.count(POLICY) == 1
    copy = tmp_path / "copy.html"
    copy.write_text(
        document.replace(POLICY, f"{POLICY} {source}").replace("</body>", f"<script>{probe}</script></body>"), encoding="utf-8"
    )
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    outcome = re.search(r'<pre id="outcome">(.*?)</pre>', done.stdout, re.DOTALL)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unescape(outcome[1])) if outcome else None, complaints


LOADED = 'performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => !name.startsWith("data:"))'


def test_the_report_of_a_run_sorts_and_scrolls_and_loads_nothing(tmp_path):
    document = write_report(write_folder(tmp_path / "run", record_rows(), result_matrix())).read_text()
    script = f"""
      const box = document.querySelector(".scroller"), slider = box.querySelector("input"), film = box.querySelector("img");
      const said = () => [box.querySelector("output").value, slider.getAttribute("aria-valuetext"), film.style.transform];
      const scrolled = [box.hidden, said()];
      slider.value = 0;
      slider.dispatchEvent(new Event("input"));
      return {{ sizes: column(table("Arrivals"), "sent back"), names: column(table("Arrivals"), "site"),
                scrolled: [...scrolled, said()], tall: box.querySelector(".screen").clientHeight > 50,
                loaded: {LOADED} }};"""
    seen, complaints = seen_by(tmp_path, document, script)
    assert complaints == [] and seen["loaded"] == []
    assert seen["sizes"]["written"] == ["1.9 MB", "960.0 kB", "1.4 MB", "480.0 kB"]
    assert seen["sizes"]["first"] == ["descending", "1.9 MB", "1.4 MB", "960.0 kB", "480.0 kB"]  # 1.4 MB is more than 960 kB
    assert seen["sizes"]["second"] == ["ascending", "480.0 kB", "960.0 kB", "1.4 MB", "1.9 MB"]
    assert seen["names"]["first"] == ["ascending", "<script>west", "east", "north", "south"]
    assert seen["names"]["focus"] and seen["names"]["others"] == 0
    assert seen["scrolled"][0] is False and seen["tall"]
    assert seen["scrolled"][1] == ["16 of 30", "slice 16 of 30", "translateY(-47.3684%)"]  # the 10th of 19 frames
    assert seen["scrolled"][2] == ["7 of 30", "slice 7 of 30", "translateY(0%)"]


def test_the_report_of_a_study_sorts_and_loads_nothing(tmp_path):
    script = f"""
      const variants = column(table("Variants"), "acc minus");
      return {{ variants, runs: column(table("Runs"), "acc"), axis: table("Variants").tFoot.innerText.split(/\\s+/),
                drawn: document.querySelectorAll("svg.forest circle").length, loaded: {LOADED} }};"""
    seen, complaints = seen_by(tmp_path, written(pretend(tmp_path / "study", seeds=3)), script)
    assert complaints == [] and seen["loaded"] == []
    assert seen["variants"]["written"] == ["+.100 (+.100 to +.100)", "–"]
    assert seen["variants"]["first"] == ["descending", "+.100 (+.100 to +.100)", "–"]
    assert seen["variants"]["second"] == ["ascending", "+.100 (+.100 to +.100)", "–"]  # a dash is last either way
    assert seen["runs"]["written"] == [".600", ".605", ".610", ".700", ".705", ".710"]
    assert seen["runs"]["first"] == ["descending", ".710", ".705", ".700", ".610", ".605", ".600"]
    assert seen["drawn"] == 1 and "+.100" in seen["axis"]


def test_numbers_sort_by_size_and_a_foot_stays_below(tmp_path):
    cells = ["10", "9", "−2", "–", "1.5e-05", ".5 ± .2", "≥ .12", "", "3 of 4"]
    document = page("t", ["<h2>x</h2>", table(["number", ""], [[cell, "y"] for cell in cells], [0], ["mean", ""])])
    script = """
      const heads = document.querySelectorAll("th button").length;
      return { column: column(document.querySelector("table"), "number"), heads,
               foot: document.querySelector("tfoot").innerText.trim() };"""
    seen, complaints = seen_by(tmp_path, document, script)
    assert complaints == []
    assert seen["column"]["second"] == ["ascending", "−2", "1.5e-05", "≥ .12", ".5 ± .2", "3 of 4", "9", "10", "–", ""]
    assert seen["foot"] == "mean" and seen["heads"] == 1  # a head without a name is none to press


def test_what_would_be_loaded_or_run_is_refused_and_seen(tmp_path):
    """The tests above would see it."""
    foreign = (
        '<img src="http://127.0.0.1:9/x.png"><img src="x" onerror="document.title = 1"><script>document.title = 2</script>'
    )
    seen, complaints = seen_by(tmp_path, page("t", [foreign]), "return document.title")
    assert seen == "t" and len(complaints) >= 3 and all("Content Security Policy" in line for line in complaints)
