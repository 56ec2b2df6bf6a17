"""Everything that reads what others wrote, with a few examples of what nobody would write; `make fuzz` tries many more."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from clients.data import subject_of
from configs.load import build_run, load_run
from tests.fuzz.messages import TARGETS
from tests.fuzz.targets import Target, only_one_line
from tests.site_orders import order

HOME = Path(__file__).parents[1]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_reader_succeeds_or_says_in_one_line_why_not(tmp_path, target: Target):
    examples, read = target.make(tmp_path)
    tried = []

    @settings(max_examples=target.few, derandomize=True, database=None, deadline=None,
              phases=[Phase.generate], suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(examples)
    def attempt(example):
        tried.append(only_one_line(lambda: read(example)))  # raises where a reader fails in any other way

    attempt()
    assert len(tried) >= min(target.few, 2)


@pytest.mark.parametrize("words", ["", "one\ntwo", "x" * 500])
def test_a_complaint_that_is_not_one_short_line_is_a_finding(words):
    def read() -> None:
        raise ValueError(words)

    with pytest.raises(AssertionError, match="not one short line"):
        only_one_line(read)


def test_the_fuzzer_prints_a_finding_and_ends_with_1(tmp_path):
    """A reader that raises KeyError for one byte in 256 is found, and shown with the shortest example."""
    (tmp_path / "broken.py").write_text(
        "from hypothesis import strategies as st\n"
        "from tests.fuzz import __main__ as fuzzing\n"
        "from tests.fuzz.targets import Target\n"
        "fuzzing.TARGETS['broken'] = Target(lambda folder: (st.binary(), lambda data: {}[7] if 7 in data else None))\n"
        "raise SystemExit(fuzzing.fuzz('broken', 20, 1))\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "broken.py"], cwd=HOME, env={"PYTHONPATH": str(HOME)}, capture_output=True
    )
    said = done.stdout.decode()
    assert (done.returncode, "a finding:" in said) == (1, True), said + done.stderr.decode()
    assert "KeyError: 7" in said and r"example=b'\x07'" in said


# Findings -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        (
            {"sites": {"a\nb": None}},
            "config: sites.a b: Input should be a valid dictionary or instance of PretendSite (given: None)",
        ),
        ({"strategy": "x\ny"}, "config: strategy: there is no preset 'x\\ny'; valid: "),
        (
            {"seed": "x" * 900},
            "config: seed: Input should be a valid integer, unable to parse string as an integer (given: 'xxx",
        ),
    ],
)
def test_a_config_is_quoted_on_one_short_line(tree, line):
    with pytest.raises(ValueError) as caught:
        build_run(tree)
    assert str(caught.value).startswith(line) and len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_an_edit_is_quoted_on_one_short_line():
    with pytest.raises(ValueError) as caught:
        load_run(HOME / "configs" / "smoke.yaml", ["seed={" + "a, " * 300])
    assert str(caught.value).startswith("--set seed={a, a,") and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("(" * 150 + "id", "split.subject: '(((((("),
        ("1+" * 101 + "id", "split.subject: a rule of 204 characters; 200 are the most"),
        ("id ** 9", "split.subject: only id, whole numbers and + - * // % are understood, not 'id ** 9'"),
    ],
)
def test_a_rule_that_is_no_arithmetic_is_quoted_on_one_short_line(rule, line):
    with pytest.raises(ValueError) as caught:
        subject_of("case_036", rule)
    assert str(caught.value).startswith(line) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("task", "asked", "words"),
    [
        (
            "train",
            {"replay": 2**53},
            r"the order asks for 9007199254740992 steps; 3000 are .* \(1000 times its train.replay_steps: 3",
        ),
        ("train", {"replay": 3001}, "the order asks for 3001 steps; 3000 are the most"),
        ("evaluate", {"personalise": 2**53}, r"steps; 1000 are the most \(1000 times its strategy.personalise: 0\)"),
    ],
)
def test_an_order_does_not_hold_a_site_for_ever(site, task, asked, words):
    with pytest.raises(ValueError, match=words):
        site.answer(order(task, **asked), {})
