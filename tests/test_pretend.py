"""From a config to pretend hospitals, the stream paradigm, and the plan of a run: checked by counting."""

from pathlib import Path
from typing import Any

import pytest

from clients.data import SOURCES, read_msd, site_cases
from configs.load import build_run, dump_run, load_run
from configs.schema import Run
from server.arrivals import make_schedule
from simulations.outline import print_plan, spans
from simulations.phantoms import LABELS
from simulations.plan import Plan, check_names, make_plan, prepare_all
from simulations.pretend import materialise
from simulations.stream import STREAM

SMALL = {"shape": [24, 22, 20], "spacing": [8, 8, 9], "scanner": "ct_window"}
NET = {"network": "UNet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 0}}
TRAIN = {"patch": [16, 16, 16], "batch": 2, "sampling_rate": 4, "replay_steps": 3}


def site(cases: int = 5, **more: Any) -> dict[str, Any]:
    return {"phantoms": {"cases": cases, **SMALL}, "annotates": ["liver", "spleen"], **more}


def make(sites: dict[str, Any] | None = None, **sections: Any) -> Run:
    """Five cases a site, of which ceil(.25 * 5) = 2 are for testing."""
    base = {"name": "p", "model": NET, "train": TRAIN, "memory": {"budget": 2}, "sites": sites or {"a": site(), "b": site()}}
    return build_run(base | sections)


@pytest.fixture
def other_source(monkeypatch):
    """A second way of storing data, `other`."""
    monkeypatch.setitem(SOURCES, "other", read_msd)


def plan(run: Run) -> Plan:
    whole = materialise(run)
    return make_plan(whole, prepare_all(whole))


# Materialising --------------------------------------------------------------------------------------------------------


def test_a_materialised_site_is_an_ordinary_folder_with_everything_said():
    whole = materialise(make({"a": site(shift="gamma"), "b": site(annotates=["liver", "liver_tumor"])}))
    for name, made in whole.sites.items():
        assert made.root is not None
        assert made.root.is_absolute()
        assert (made.root / "dataset.json").is_file()
        assert (made.phantoms, made.shift) == (None, None)
        assert made.split == whole.data.split
        assert len(site_cases(name, made, 0).test) == 2
    labels = whole.sites["b"].labels
    assert labels is not None
    assert labels["liver"] == [LABELS["liver"], labels["liver_tumor"]]  # a tumour is part of its organ


def test_the_materialised_run_can_be_written_and_read_by_sites_and_server(tmp_path):
    for run in (make(), make(paradigm="stream")):
        whole = materialise(run)
        (tmp_path / "simulated.yaml").write_text(dump_run(whole))
        assert load_run(tmp_path / "simulated.yaml") == whole


def test_hospitals_are_the_same_for_every_seed_and_do_not_share_patients():
    first, second = materialise(make(seed=1)), materialise(make(seed=2))
    assert [s.root for s in first.sites.values()] == [s.root for s in second.sites.values()]
    assert first.sites["a"].root != first.sites["b"].root


@pytest.mark.parametrize("more", [{}, {"max_cases": 2}, {"learns": False}, {"order": "listed"}])
def test_a_shift_changes_neither_the_split_nor_the_order(more):
    plain = materialise(make({"a": site(12, **more)}))
    shifted = materialise(make({"a": site(12, shift="invert", **more)}))
    assert plain.sites["a"].root != shifted.sites["a"].root
    one, other = (site_cases("a", run.sites["a"], run.seed) for run in (plain, shifted))
    for part in ("train", "validation", "test"):
        assert [case.name for case in getattr(one, part)] == [case.name for case in getattr(other, part)]


@pytest.mark.parametrize(
    ("sites", "line"),
    [
        ({}, "sites: a simulation needs at least one site"),
        ({"a": {"root": "/no/such/place"}}, "site 'a': the data folder /no/such/place does not exist"),
        ({"a": {"root": "/no/such/place", "shift": "gamma"}}, "site 'a': the data folder /no/such/place does not exist"),
        ({"a": {}}, "site 'a': has no data folder (`root`, or `data.root` for all sites)"),
        (
            {"a": {"root": "ROOT", "source": "other", "shift": "gamma"}},
            "site 'a': a shift needs an MSD folder, and its source is 'other'",
        ),
        ({"a": site(shift="gama")}, "site 'a': sites.a.shift: there is no shift 'gama'; did you mean 'gamma'?"),
    ],
)
def test_what_cannot_be_made_names_the_site(sites, line, other_source, phantom_root):
    if sites.get("a", {}).get("root") == "ROOT":
        sites = {"a": sites["a"] | {"root": str(phantom_root)}}
    run = make(sites or {"x": site()})
    run = run if sites else run.model_copy(update={"sites": {}})
    with pytest.raises(ValueError) as caught:
        whole = materialise(run)
        prepare_all(whole)
    assert str(caught.value) == line


def test_folders_made_here_are_msd_folders(other_source):
    whole = materialise(make({"a": site(source="other"), "b": site(source="other", shift="gamma")}))
    assert [made.source for made in whole.sites.values()] == ["msd", "msd"]


# The stream paradigm --------------------------------------------------------------------------------------------------


def test_the_stream_is_all_sites_training_cases_in_order():
    run = make({"a": site(), "b": site(6)}, paradigm="stream", arrivals={"order": ["b", "a"]})
    continual, whole = materialise(run.model_copy(update={"paradigm": "continual"})), materialise(run)
    own = {name: site_cases(name, continual.sites[name], run.seed) for name in "ab"}
    client = site_cases(STREAM, whole.sites[STREAM], run.seed)
    assert [case.name for case in client.train] == [f"{name}__{case.name}" for name in "ba" for case in own[name].train]
    assert client.test == client.validation == ()
    assert [client.domains[case.name] for case in client.train] == ["b"] * 4 + ["a"] * 3
    for name in "ab":
        watching = site_cases(name, whole.sites[name], run.seed)
        assert (watching.train, watching.test) == ((), own[name].test)


def test_a_stage_of_the_stream_begins_with_its_sites_first_cases():
    run = make({"a": site(), "b": site(6)}, paradigm="stream", stream={"cases_per_round": 2})
    whole = materialise(run)
    # a has 3 cases to train on, b has 4: two rounds each
    assert whole.sites[STREAM].arriving == [2, 1, 2, 2]
    assert whole.arrivals.visits == {STREAM: [(1, None)], "a": [(1, None)], "b": [(3, None)]}
    assert (whole.arrivals.rounds, whole.arrivals.extra) == (4, [STREAM])
    schedule = make_schedule(whole.arrivals, list(whole.sites))
    assert [len(schedule.present(r, whole.sites.keys())) for r in range(1, 5)] == [2, 2, 3, 3]


def test_without_a_portion_a_site_is_a_round():
    whole = materialise(make(paradigm="stream"))
    assert (whole.sites[STREAM].arriving, whole.arrivals.rounds) == ([3, 3], 2)


@pytest.mark.parametrize(
    ("sites", "arrivals", "line"),
    [
        ({"a": site(), STREAM: site()}, {}, "sites.stream: that name is the extra client's in the stream paradigm"),
        ({"a": site()}, {"visits": {"a": [[1, None]]}}, "arrivals: the stream paradigm takes `order`, not `visits`"),
        ({"a": site()}, {"door": "open", "rounds": 1}, "arrivals: the stream paradigm takes `order`, not `visits`"),
        (
            {"a": site()},
            {"rounds_per_stage": 3},
            "arrivals.rounds_per_stage: means nothing in the stream paradigm (a stage lasts as long as its site's cases, and "
            "no site leaves; leave it at 1)",
        ),
        ({"a": site()}, {"stay": False}, "arrivals.stay: means nothing in the stream paradigm"),
        ({"a": site()}, {"overlap": 1, "stay": False}, "arrivals.stay: means nothing in the stream paradigm"),
    ],
)
def test_what_cannot_be_a_stream_is_said(sites, arrivals, line):
    with pytest.raises(ValueError) as caught:
        materialise(make(sites, paradigm="stream", arrivals=arrivals))
    assert str(caught.value).startswith(line)


def test_a_stream_joins_msd_folders_only(other_source, phantom_root):
    other = {"root": str(phantom_root), "source": "other", "annotates": ["liver", "spleen"]}
    with pytest.raises(ValueError, match="site 'b': the stream paradigm needs an MSD folder, and its source is 'other'"):
        materialise(make({"a": site(), "b": other}, paradigm="stream"))


# The plan -------------------------------------------------------------------------------------------------------------


def test_a_plan_counts_rounds_steps_classes_and_bytes():
    sites = {"a": site(), "b": site(annotates=["kidney", "liver"])}
    found = plan(make(sites, arrivals={"rounds_per_stage": 2}, stream={"cases_per_round": 2}))
    assert (found.rounds, found.stages, found.classes) == (4, ("a", "b"), ("liver", "spleen", "kidney"))
    a, b = found.sites
    # 3 cases: two in the first round (S = 4 steps for B = 2), one in the next (2 steps), then 3 replay steps in each round
    assert (a.name, a.cases, a.tests, a.rounds, a.steps) == ("a", 3, 2, (1, 2, 3, 4), 4 + 2 + 3 + 3)
    assert (b.rounds, b.steps, b.classes) == ((3, 4), 4 + 2, ("kidney", "liver"))
    assert found.model_bytes == 4 * found.parameters
    # trained 6 times (down and up), evaluated at both sites three times (start, a, b)
    assert found.wire_bytes == found.model_bytes * (2 * 6 + 2 * 3)


def test_the_plan_of_a_stream_counts_the_client_alone():
    found = plan(make(paradigm="stream"))
    steps = {site.name: site.steps for site in found.sites}
    assert steps == {STREAM: 2 * (4 + 2), "a": 0, "b": 0}
    assert found.stages == ("a", "b")


def test_a_site_that_comes_after_the_last_round_is_never_present():
    with pytest.raises(ValueError, match=r"sites.b: is never present in the run's 1 rounds"):
        plan(make(arrivals={"rounds": 1}))


def test_a_class_that_no_data_set_holds_is_annotated_by_nobody():
    folder = materialise(make()).sites["a"].root
    with pytest.raises(ValueError, match="classes: 'livr' is annotated by nobody; did you mean 'liver'"):
        plan(make({"a": {"root": str(folder)}}, classes=["livr"]))


def test_a_site_without_a_training_case_is_refused():
    with pytest.raises(ValueError, match="site 'a': no training case is left after the split"):
        plan(make({"a": site(1)}))


def test_a_run_without_a_case_to_evaluate_on_is_refused():
    with pytest.raises(ValueError) as caught:
        plan(make(evaluate={"on": "validation"}))
    key = "split.validation"
    assert str(caught.value) == f"evaluate.on: no site has a validation case; set data.{key} (or sites.<site>.{key}) above 0"
    found = plan(make({"a": site(split={"test": 0}), "b": site()}))  # one site without tests is fine
    assert [there.tests for there in found.sites] == [0, 2]


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"memory": {"policy": "selectiv", "budget": 2}}, "selectiv"),
        ({"model": {"network": "Unett"}}, "model.network: there is no 'Unett'; did you mean 'UNet'?"),
        ({"model": NET | {"weights": "gone.safetensors"}}, "model.weights: there is no file gone.safetensors"),
        ({"model": {"network": "UNet", "args": {"chanels": [1]}}}, "model.args: UNet does not take them"),
        ({"strategy": {"merge": "averag"}}, "strategy.merge: there is no 'averag'; did you mean 'average'?"),
        ({"strategy": {"objective": "plane"}}, "plane"),
        ({"train": TRAIN | {"patch": [15, 16, 16]}}, "train.patch: UNet cannot take [15, 16, 16]; the nearest"),
        ({"sites": {"a": site(device="cudda")}}, "sites.a.device: device 'cudda' is not to be had here"),
    ],
)
def test_every_name_is_looked_up(sections, line):
    with pytest.raises(ValueError) as caught:
        check_names(make(**sections))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_is_printed_with_all_that_it_knows():
    from io import StringIO

    from rich.console import Console

    sites, memory = {"a": site(), "b": site(budget=2), "c": site(budget=3)}, {"budget": 3}
    run, text = make(sites, memory=memory, arrivals={"rounds_per_stage": 2}), StringIO()
    found = plan(run)
    print_plan(found, run, Console(file=text, width=120))
    wire, strategy = f"about {found.wire_bytes / 1e6:.1f} MB", "average · draws · all · plain"
    size = f"{found.parameters:,} parameters"
    for word in ("a", "1-6", "3-6", "3 in 6 rounds: a → b → c", "2: liver, spleen", size, wire, strategy):
        assert word in text.getvalue()
    assert "selective, 3 samples a site (b 2)\n" in text.getvalue()


def test_spans():
    assert spans(()) == ""
    assert spans((4,)) == "4"
    assert spans((1, 2, 3, 5, 7, 8)) == "1-3, 5, 7-8"


def test_paths_of_real_data_are_made_absolute(monkeypatch, phantom_root: Path):
    monkeypatch.chdir(phantom_root.parent)
    whole = materialise(make({"a": {"root": phantom_root.name, "annotates": ["liver"]}}))
    assert whole.sites["a"].root == phantom_root.parent.absolute() / phantom_root.name


@pytest.mark.parametrize(
    ("objective", "arrivals", "reason"),
    [
        ("scaffold", {"stay": False}, "scaffold mends the drift between sites, and no two ever train in the same round"),
        (
            "ewc",
            {"visits": {"a": [[1, None]], "b": [[1, None]]}},
            "ewc protects what earlier stages need, and all sites arrive",
        ),
    ],
)
def test_an_objective_with_nothing_to_do_is_refused(objective, arrivals, reason):
    with pytest.raises(ValueError, match=reason):
        plan(make(strategy={"objective": objective}, arrivals=arrivals))


def test_what_an_objective_adds_to_the_wire_is_planned():
    """In every site's round: told once and said once the model's size; ewc is told two, importances and their place."""
    plain, scaffold, ewc = (plan(make(strategy={"objective": name})) for name in ("plain", "scaffold", "ewc"))
    rounds = sum(len(site.rounds) for site in plain.sites)
    assert scaffold.wire_bytes - plain.wire_bytes == 2 * plain.model_bytes * rounds
    assert ewc.wire_bytes - plain.wire_bytes == 3 * plain.model_bytes * rounds
