"""The live page in a browser: it renews itself as the record grows, and what a reader has made of it stays."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server.alone import alone
from simulations import live_painter
from simulations.live import Page, watched_in
from simulations.live_script import SCRIPT
from tests.browser import CHROMIUM, Browser, browser
from tests.test_live import study as study  # a fixture
from tests.test_report import record_rows, write_folder
from tests.test_screen import Folder

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium here to look at the pages with")

SECTION = (
    "Array.from(document.querySelectorAll('#report h2')).find((head) => head.textContent === %r).closest('[data-section]')"
)
ORDER = f"Array.from({SECTION % 'Arrivals'}.querySelectorAll('tbody tr'), (row) => row.cells[0].innerText.trim())"
WORDS = "document.body.innerText"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A page with its real painter; its address."""
    with Page(watched_in(folder), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are made as fast as they can be."""
    monkeypatch.setattr(live_painter, "PAUSE_S", 0.1)
    monkeypatch.setattr(live_painter, "SHARE", 1.0)
    monkeypatch.setattr(live_painter, "NICE", 0)


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    """A run in its second round; four sites, one with a hostile name."""
    return Folder(write_folder(tmp_path / "run", record_rows(2), None, slices=False))


def grow(run: Folder, last_round: int) -> None:
    """The record as it is some rounds later."""
    there = (run.path / "record.jsonl").read_text()
    later = "".join(json.dumps(row) + "\n" for row in record_rows(last_round))
    assert later.startswith(there) and len(later) > len(there)
    with (run.path / "record.jsonl").open("a") as file:
        file.write(later[len(there) :])


def loaded(page: Browser, address: str) -> list[str]:
    """What the page has asked of anybody else."""
    return [url for url in page.requests if not url.startswith((f"{address}/", "data:"))]


def test_the_page_renews_itself_as_the_record_grows(run, tmp_path):
    with alone(run.path), served(run.path) as address, browser(tmp_path / "profile") as page:
        page.open(address)
        assert page.see("document.querySelector('h1').innerText") == "pretend"
        assert page.see("document.getElementById('said').innerText").startswith("Round 2")
        page.until(f"{WORDS}.includes('Report so far') && {SECTION % 'Arrivals'} && {SECTION % 'Memory'}")
        assert "2 rounds so far" in page.see(WORDS) and page.see("document.getElementById('note').hidden")
        assert page.see("document.title") == "2/? · pretend"
        grow(run, 3)
        page.until("document.getElementById('said').innerText.startsWith('Round 3')")
        page.until(f"{WORDS}.includes('3 rounds so far')")
        assert page.see("document.title") == "3/? · pretend"
        run.progress("east", "train", round=4, step=7, steps=40, loss=0.125)
        page.until("document.querySelector('#live table').innerText.includes('training, step 7/40')")
        assert page.see("document.querySelector('#live progress[max=\"40\"]').value") == 7
        assert "0.125" in page.see("document.querySelector('#live table').innerText")
        grow(run, 5)
        page.until("document.getElementById('said').innerText.startsWith('Finished after 5 rounds')")
        page.until(f"{WORDS}.includes('How this was made') && !{WORDS}.includes('Report so far')")
        assert page.complaints == [] and loaded(page, address) == []
        assert len(page.requests) > 10 and page.see("document.querySelectorAll('script').length") == 2


def test_what_a_reader_has_made_of_it_stays(run, tmp_path):
    with alone(run.path), served(run.path) as address, browser(tmp_path / "profile") as page:
        page.open(address)
        page.until(f"{WORDS}.includes('2 rounds so far') && {SECTION % 'Memory'}")
        heads = f"{SECTION % 'Arrivals'}.querySelectorAll('th button')"
        page.see(f"{heads}[0].click(), {heads}[0].click(), {heads}[0].focus()")
        assert page.see(ORDER) == ["south", "north", "east", "<script>west"]
        page.see("document.querySelector('#live th button').click()")
        live = "Array.from(document.querySelectorAll('#live tbody tr'), (row) => row.cells[0].innerText.trim())"
        assert page.see(live) == ["<script>west", "east", "north", "south"]
        page.see(f"{SECTION % 'How this was made'}.querySelector('pre').kept = true")
        page.see(f"{SECTION % 'Memory'}.scrollIntoView(), scrollBy(0, 40)")
        top = f"Math.round({SECTION % 'Memory'}.getBoundingClientRect().top)"
        before, height = page.see(top), page.see(f"{SECTION % 'Arrivals'}.offsetHeight")
        run.event("failure", round=3, site="east", task="train", kind="late", reason="x")  # the live section grows
        grow_after_failure(run)
        page.until(f"{WORDS}.includes('5 rounds so far') || {WORDS}.includes('Report\\n')")
        page.until(f"{SECTION % 'Results'}.querySelectorAll('figure').length > 1")
        assert page.see("scrollY") > 100 and abs(page.see(top) - before) <= 2 and height
        assert page.see(ORDER) == ["south", "north", "east", "<script>west"]
        assert page.see(f"{heads}[0].parentNode.getAttribute('aria-sort')") == "descending"
        assert page.see(f"document.activeElement === {heads}[0]")
        assert page.see(live) == ["<script>west", "east", "north", "south"]
        assert page.complaints == []


def grow_after_failure(run: Folder) -> None:
    for row in record_rows(5)[len(record_rows(2)) :]:
        run.event(row.pop("event"), **row)


def test_a_server_that_has_gone_is_said_and_its_return_too(run, tmp_path):
    with browser(tmp_path / "profile") as page:
        with alone(run.path), served(run.path) as address:
            page.open(address)
            assert page.see("document.getElementById('lost').hidden") is True
        page.until("!document.getElementById('lost').hidden")
        assert "`run_sim.py watch` has ended" in page.see("document.getElementById('lost').innerText")
        assert page.see("document.getElementById('said').innerText").startswith("Round 2")
        with Page(watched_in(run.path), int(address.rpartition(":")[2])) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            page.until("document.getElementById('lost').hidden")
            server.shutdown()
            thread.join()


def test_ages_count_on_between_two_answers(run, tmp_path):
    """By the same words as the server's: at 119 s and an hour, no answer comes in between."""
    ages = "Array.from(document.querySelectorAll('#live [data-kind]'), (age) => [age.dataset.kind, age.textContent])"
    with alone(run.path), served(run.path) as address, browser(tmp_path / "profile") as page:
        page.open(address)
        page.see("window.fetch = () => Promise.reject()")
        spans = [("age", 3700), ("clock", 70), ("age", 50)]
        marks = "".join(f'<span data-kind="{kind}" data-at="${{Date.now() / 1000 - {back}}}"></span>' for kind, back in spans)
        page.see(f"document.getElementById('live').innerHTML = `{marks}`")
        page.until(f"{ages}[0][1]")
        found = page.see(ages)
        assert found[0][1].startswith("1:01:4") and found[1][1].startswith("1:1") and found[2][1].startswith("5")
        assert found[2][1].endswith(" s")


def test_a_study_s_page(study: Path, tmp_path):
    three = study.parents[1] / "cells" / "three"
    with alone(three), served(study) as address, browser(tmp_path / "profile") as page:
        page.open(address)
        page.until(f"{WORDS}.includes('Result matrices')")
        assert page.see("document.getElementById('said').innerText") == "1 of 4 runs are finished, 1 at work, 1 failed."
        with (three / "record.jsonl").open("a") as file:
            file.write('{"event": "round", "round": 2}\n')
        page.until("document.querySelector('#live table').innerText.includes('2 of 6')")
        assert page.see("document.querySelectorAll('a').length") == 0
        assert page.complaints == [] and loaded(page, address) == []


def test_a_picture_of_it_in_light_and_dark(run, tmp_path):
    """Two pictures, for people too ($SITESTREAM_LIVE_PICTURES: where to leave them); dark is darker."""
    from matplotlib.image import imread

    shades = []
    place = Path(os.environ.get("SITESTREAM_LIVE_PICTURES", tmp_path))
    with alone(run.path), served(run.path) as address, browser(tmp_path / "profile") as page:
        for scheme in ("light", "dark"):
            page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            page.open(address)
            page.until(f"{WORDS}.includes('2 rounds so far')")
            seen: Any = imread(page.picture(place / f"live-{scheme}.png"))[..., :3]
            shades.append(float(seen.mean()))
            assert seen.std() > 0.02
    assert shades[0] > 0.8 and shades[1] < 0.3


def test_without_a_script_it_asks_again_by_itself(run, tmp_path):
    import urllib.request

    with served(run.path) as address, urllib.request.urlopen(address, timeout=30) as answer:
        document = answer.read().decode()
    assert '<noscript><meta http-equiv="refresh" content="10"></noscript>' in document[: document.index("</head>")]
    assert "Round 2" in document and document.index("<h1") < document.index("south") and SCRIPT in document
