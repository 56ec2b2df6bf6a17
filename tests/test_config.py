"""Configs: what is read, what is refused, and the one line that says why."""

import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from configs.load import build_run, cache_root, dump_run, load_run, load_site
from configs.plain import parse
from configs.schema import Run, SiteFile, Strategy

SHIPPED = sorted(path for path in (Path(__file__).parents[1] / "configs").glob("*.yaml") if path.name != "strategies.yaml")
SITES: dict[str, Any] = {"a": {"phantoms": {}, "annotates": ["liver"]}, "b": {"phantoms": {}, "annotates": ["liver"]}}


@pytest.fixture
def write(tmp_path):
    """Writes texts as YAML files beside each other; returns the last one's path."""

    def files(text: str = "", **texts: str) -> Path:
        for name, content in {**texts, "mine": text}.items():
            (tmp_path / f"{name}.yaml").write_text(content, encoding="utf-8")
        return tmp_path / "mine.yaml"

    return files


def complaint(tree: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:
        build_run(tree)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("config: ")


def refused(path: Path, *edits: str) -> str:
    with pytest.raises(ValueError) as caught:
        load_run(path, edits)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path.parent}/", "")


# What is shipped ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_loads_and_survives_being_written(path, tmp_path):
    run = load_run(path)
    assert run.name == path.stem
    (tmp_path / "config.yaml").write_text(dump_run(run))
    assert load_run(tmp_path / "config.yaml") == run


def test_what_is_written_spells_the_defaults_out_and_leaves_out_what_is_not_given():
    visits = {"a": [[1, None]], "b": [[2, 3]]}
    tree = parse(dump_run(build_run({"sites": SITES, "arrivals": {"visits": visits}})))
    assert (tree["seed"], tree["memory"]["policy"], tree["memory"]["budget"], tree["keep"]) == (0, "selective", 16, 2)
    assert tree["arrivals"]["visits"] == visits
    assert "order" not in tree["arrivals"] and "budget" not in tree["sites"]["a"] and "classes" not in tree
    for name, section in Run():
        if isinstance(section, BaseModel):
            assert {key for key, value in section if value is not None} - {"visits"} <= set(tree[name])


def models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    seen.add(model)
    for field in model.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            annotation = waiting.pop()
            waiting += getattr(annotation, "__args__", ())
            if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
                models(annotation, seen)
    return seen


def test_every_field_is_documented():
    found = models(Run, models(SiteFile, set()))
    assert {"Run", "SiteFile", "PretendSite", "Phantoms", "Selection", "Split", "Augment", "Arrivals"} <= {
        m.__name__ for m in found
    }
    bare = [f"{m.__name__}.{name}" for m in found for name, field in m.model_fields.items() if not field.description]
    assert bare == []


# Unknown keys and wrong values: where, and what would have been right --------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"sed": 1}, "sed: unknown key; did you mean 'seed'?"),
        ({"train": {"bach": 2}}, "train.bach: unknown key; did you mean 'batch'?"),
        ({"train": {"augment": {"fliip": 1}}}, "train.augment.fliip: unknown key; did you mean 'flip'?"),
        ({"sites": {"a": {"phantom": {}}}}, "sites.a.phantom: unknown key; did you mean 'phantoms'?"),
        ({"sites": {"a": {"phantoms": {"scaner": "mr"}}}}, "sites.a.phantoms.scaner: unknown key; did you mean 'scanner'?"),
        ({"sites": {"a": {"cases": {"kye": "natural"}}}}, "sites.a.cases.kye: unknown key; did you mean 'key'?"),
        (
            {"sites": {"a": {"split": {"test": {"fil": "x", "key": "y"}}}}},
            "sites.a.split.test.fil: unknown key; did you mean 'file'?",
        ),
        ({"sites": {"a": {"split": {"test": {"kye": "x"}}}}}, "sites.a.split.test.kye: unknown key; did you mean 'key'?"),
        ({"sites": {"split": {"sorce": "msd"}}}, "sites.split.sorce: unknown key; did you mean 'source'?"),
        ({"strategy": {"merg": "average"}}, "strategy.merg: unknown key; did you mean 'merge'?"),
        (
            {"engine": {"zzz": 1}},
            "engine.zzz: unknown key; valid: actors, address, cpus, deadline_s, gpus, name, retries, watch_s",
        ),
    ],
)
def test_an_unknown_key_is_placed_and_the_nearest_is_named(tree, line):
    assert complaint(tree) == line


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"seed": "x"}, "seed: Input should be a valid integer, unable to parse string as an integer (given: 'x')"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0 (given: -1)"),
        (
            {"sites": {"a": {"split": {"test": "x"}}}},
            "sites.a.split.test: Input should be a valid number, unable to parse string as a number (given: 'x')",
        ),
        (
            {"sites": {"a": {"split": {"test": 1.0}}}},
            "sites.a.split.test: must be a share from 0 to below 1, or {file, key} of a list of cases",
        ),
        ({"sites": {"a": {"split": {"test": {"file": "x"}}}}}, "sites.a.split.test.key: is missing"),
        (
            {"sites": {"a": {"labels": {"liver": "x"}}}},
            "sites.a.labels.liver: Input should be a valid integer, unable to parse string as an integer (given: 'x')",
        ),
        ({"sites": {"a b": {}}}, "sites: 'a b' is no site name: letters, digits, '-' and '_', a letter or digit first"),
        ({"sites": {"a": None}}, "sites.a: Input should be a valid dictionary or instance of PretendSite (given: None)"),
        ({"train": {"patch": [8, 8]}}, "train.patch.2: is missing"),
        (
            {"arrivals": {"order": ["a", "b", "a"]}},
            "arrivals.order: names 'a' twice (a site that comes back is written with `visits`)",
        ),
        (
            {"arrivals": {"visits": {"a": [[0, 1]]}}},
            "arrivals.visits: a: [0, 1] does not fit: rounds count from 1, and visits follow one another",
        ),
        (
            {"arrivals": {"visits": {"a": [[1, None], [3, 4]]}}},
            "arrivals.visits: a: [3, 4] does not fit: rounds count from 1, and visits follow one another",
        ),
        (
            {"arrivals": {"visits": {"a": [[1, 2], [2, None]]}}},
            "arrivals.visits: a: [2, null] does not fit: rounds count from 1, and visits follow one another",
        ),
        ({"arrivals": {"door": "open"}}, "arrivals.rounds: an open door needs a number of rounds"),
        ({"strategy": "fedavgg"}, "strategy: there is no preset 'fedavgg'; did you mean 'fedavg'?"),
        ({"strategy": {"preset": ["fedavg"]}}, "strategy: there is no preset ['fedavg']; did you mean 'fedavg'?"),
        ({"strategy": ["fedavg"]}, "strategy: Input should be a valid dictionary or instance of Strategy (given: ['fedavg'])"),
        ({"strategy": 3}, "strategy: Input should be a valid dictionary or instance of Strategy (given: 3)"),
    ],
)
def test_a_wrong_value_is_one_line(tree, line):
    assert complaint(tree) == line


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"arrivals": {"order": ["a"]}}, "sites.b: is never present (arrivals does not name it)"),
        ({"arrivals": {"visits": {"a": [[1, None]], "b": []}}}, "sites.b: is never present (arrivals does not name it)"),
        ({"arrivals": {"visits": {}}}, "arrivals.visits: names no site"),
        ({"arrivals": {"order": []}}, "arrivals.order: names no site"),
        ({"arrivals": {"order": ["a", "b", "c"]}}, "arrivals names the site 'c', which `sites` does not have (it has a, b)"),
        ({"arrivals": {"extra": ["d"]}}, "arrivals names the site 'd', which `sites` does not have (it has a, b)"),
        ({"arrivals": {"order": ["a", "b"], "visits": {"a": [[1, 2]]}}}, "arrivals: write `order` or `visits`, not both"),
        ({"classes": ["lung"]}, "classes: 'lung' is annotated by nobody (sites annotate liver)"),
        ({"memory": {"budget": 1}}, "memory.budget: 1 is smaller than the batch (train.batch: 2), so no batch could be drawn"),
        ({"train": {"batch": 17}}, "memory.budget: 16 is smaller than the batch (train.batch: 17), so no batch could be drawn"),
        (
            {"sites": SITES | {"b": {"phantoms": {}, "annotates": ["liver"], "budget": 1}}},
            "sites.b.budget: 1 is smaller than the batch (train.batch: 2), so no batch could be drawn",
        ),
        (
            {"sites": SITES | {"b": {"phantoms": {}, "annotates": ["liver"], "budget": 17}}},
            "sites.b.budget: 17 is more than the server asks any site to keep (memory.budget: 16)",
        ),
        (
            {"arrivals": {"overlap": 1}},
            "arrivals.overlap: 1 means nothing while sites stay (arrivals.stay: false lets them leave)",
        ),
        (
            {"sites": SITES | {"b": {"root": "x", "labels": {"liver": 1}, "annotates": ["liver", "lung"]}}},
            "sites.b.annotates: 'lung' is not in its labels (liver)",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(change, line):
    assert complaint({"sites": SITES} | change) == line


def test_a_site_may_leave_a_class_of_its_label_files_alone():
    run = build_run({"sites": SITES | {"b": {"root": "x", "labels": {"liver": 1, "lung": 2}, "annotates": ["liver"]}}})
    assert run.sites["b"].annotates == ["liver"]


def test_a_site_has_the_engines_size_unless_it_has_its_own(write):
    run = build_run({"engine": {"cpus": 2, "gpus": 0.5}, "sites": SITES | {"b": {"root": "x", "cpus": 1, "gpus": 0}}})
    again = load_run(write(dump_run(run)))
    for found in (run, again):
        assert [(site.cpus, site.gpus) for site in found.sites.values()] == [(2, 0.5), (1, 0)]


def test_a_class_that_an_unlisted_data_set_may_hold_is_not_refused_too_early():
    assert build_run({"classes": ["lung"], "sites": {"a": {"root": "somewhere"}}}).classes == ["lung"]


# YAML -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed: 1\nname: x\nseed: 2\n", "mine.yaml: not valid YAML: 'seed' is given twice (line 3)"),
        ("sites:\n  a: {}\n  a: {}\n", "mine.yaml: not valid YAML: 'a' is given twice (line 3)"),
        ("train: {batch: 1, batch: 2}\n", "mine.yaml: not valid YAML: 'batch' is given twice (line 1)"),
        ("seed: 1\n  name: x\n", "mine.yaml: not valid YAML: mapping values are not allowed here (line 2)"),
        ("train: {batch: 1\n", "mine.yaml: not valid YAML: expected ',' or '}', but got '<stream end>' (line 2)"),
        ("sites: {1: {}}\n", "mine.yaml: not valid YAML: a key must be a word (or in quotes) (line 1)"),
        ("? [a, b]\n: 1\n", "mine.yaml: not valid YAML: a key must be a word (or in quotes) (line 1)"),
        ("- a\n", "mine.yaml: must hold `key: value` lines"),
        ("", "mine.yaml: must hold `key: value` lines"),
        ("name: &a [*a]\n", "mine.yaml: not valid YAML: it contains itself"),
        ("name: \x01\n", "mine.yaml: not valid YAML: unacceptable character #x0001: special characters are not allowed in"),
    ],
)
def test_a_fault_of_the_text_is_one_line_with_its_place(write, text, line):
    assert refused(write(text)).startswith(line)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch hacked']",
        "!!python/name:os.system",
        "!own 1",
        "!!binary aGk=",
        "!!set {x}",
        "!!timestamp 2020-01-01",
        "!!str 1",
        "!!int x",
        "!!bool maybe",
        "! x",
    ],
)
def test_yaml_tags_make_no_objects(write, tag, tmp_path):
    assert refused(write(f"name: {tag}\n")) == (
        f"mine.yaml: not valid YAML: there are no tags here, and this is {tag.partition(' ')[0]} (line 1)"
    )
    assert not (tmp_path / "hacked").exists()


def test_a_date_is_a_word(write):
    assert load_run(write("name: 2020-01-01\n")).name == "2020-01-01"


def laughs(first, item, levels=9, times=9):
    """Each level repeats the one before it so many times: 9^8 values in a few hundred characters."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {item.format(', '.join([f'*a{i - 1}'] * times))}" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


WIDE = "a: &a {" + ", ".join(f"k{i}: 1" for i in range(2000)) + "}\nb: [" + ", ".join(["{<<: *a}"] * 2000) + "]\n"
"""Two thousand mappings, each with the same two thousand keys merged in."""
MULTIPLY = "its aliases (*) multiply to more than 262,144 values"
DEEP = "more than 50 levels of nesting (line 1)"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (laughs("[x, x, x]", "[{}]"), MULTIPLY),
        (laughs("{k: 1, l: 2}", "{{<<: [{}]}}"), MULTIPLY + " (line 7)"),
        (WIDE, MULTIPLY + " (line 2)"),
        ("a: " + "[" * 100_000, DEEP),
        ("a: " + "{b: " * 60, DEEP),
        ("- " * 100_000, DEEP),
        (
            "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 1000)),
            "it contains itself, or nests too deep",
        ),
        ("a: &a {<<: *a}\n", "it contains itself, or nests too deep"),
        ("seed: " + "9" * 5000, "'99999999999999999999...' is no number (line 1)"),
        ("seed: 0x" + "f" * 500_000, "'0xffffffffffffffffff...' is no number (line 1)"),
        ("seed: 1" + ":10" * 100_000, "'1:10:10:10:10:10:10:...' is no number (line 1)"),
        ("seed: 0x_", "'0x_' is no number (line 1)"),
        ("train: {lr: 1" + "0" * 5000 + ".5}", "'10000000000000000000...' is no number (line 1)"),
    ],
    ids=lambda value: value[:12],
)
def test_a_small_text_that_would_be_a_large_run_is_refused_quickly(write, text, fault):
    begun = time.perf_counter()
    assert refused(write(text)) == f"mine.yaml: not valid YAML: {fault}"
    assert time.perf_counter() - begun < 10


def test_what_is_too_large_for_a_config_is_not_read(write, tmp_path):
    path = write("a" * (2**20 + 1))
    assert refused(path) == "mine.yaml: cannot be read (larger than 1 MB)"
    with pytest.raises(ValueError, match=r"^/dev/zero: cannot be read \(larger than 1 MB\)$"):
        load_run(Path("/dev/zero"))


def test_a_deep_recipe_is_still_a_recipe(write):
    text = "model: {args: {a: " + "[" * 40 + "1" + "]" * 40 + "}}\n"
    assert load_run(write(text)).model.args["a"][0][0][0]


def test_on_is_a_key_and_no_is_a_word(write):
    run = load_run(
        write("evaluate: {on: validation}\nsites: {no: {phantoms: {}}}\npreprocess: {crop: no}\ntrain: {compile: true}\n")
    )
    assert (run.evaluate.on, list(run.sites), run.preprocess.crop, run.train.compile) == ("validation", ["no"], False, True)
    again = load_run(write(dump_run(run)))
    assert again == run


def test_a_change_to_one_alias_is_no_change_to_the_other(write):
    path = write("sites: {a: &site {phantoms: {cases: 4}}, b: *site, c: {<<: *site, budget: 9}}\n")
    run = load_run(path, ["sites.a.phantoms.cases=8"])
    assert [site.phantoms.cases for site in run.sites.values() if site.phantoms] == [8, 4, 4]
    assert run.sites["c"].budget == 9


def test_a_file_that_cannot_be_read(tmp_path):
    assert refused(tmp_path / "none.yaml") == "none.yaml: cannot be read (No such file or directory)"
    assert refused(tmp_path) == f"{tmp_path.name}: cannot be read (Is a directory)"
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert refused(tmp_path / "b.yaml") == "b.yaml: cannot be read (not a text file)"


# Variants and edits ---------------------------------------------------------------------------------------------------


def test_extends_lays_key_over_key_and_replaces_args_whole(write):
    base = "seed: 1\nmodel: {args: {channels: [4, 8], strides: [2]}}\nsites: {a: {phantoms: {}}, b: {phantoms: {}}}\n"
    run = load_run(write("extends: base.yaml\nmodel: {args: {channels: [8, 16]}}\nsites: {b: null}\n", base=base))
    assert (run.name, run.seed, run.model.network, list(run.sites)) == ("mine", 1, "UNet", ["a"])
    assert run.model.args == {"channels": [8, 16]}


OTHER = "memory: {policy: dynamic, args: {k: 2}}\nmodel: {args: {channels: [4, 8]}}\n"


@pytest.mark.parametrize(
    ("layer", "memory", "model"),
    [
        ("memory: {policy: reservoir}", {}, {"channels": [4, 8]}),
        ("memory: {policy: reservoir, args: {m: 1}}", {"m": 1}, {"channels": [4, 8]}),
        ("memory: {policy: dynamic, budget: 9}", {"k": 2}, {"channels": [4, 8]}),
        ("model: {network: DynUNet}", {"k": 2}, {}),
        ("model: {network: UNet}", {"k": 2}, {"channels": [4, 8]}),
    ],
)
def test_arguments_go_with_the_policy_or_network_that_they_belong_to(write, layer, memory, model):
    run = load_run(write(f"extends: base.yaml\n{layer}\n", base=OTHER))
    assert (run.memory.args, run.model.args) == (memory, model)


@pytest.mark.parametrize(
    ("edits", "args"),
    [
        (["memory.policy=selective"], {}),
        (["memory.policy=selective", "memory.args.m=1"], {"m": 1}),
        (["memory.args.m=1", "memory.policy=selective"], {"m": 1}),
        (["memory={policy: selective}"], {}),
        (["memory.policy=dynamic", "memory.args.m=1"], {"k": 2, "m": 1}),
        (["memory.policy=selective", "memory.policy=dynamic"], {"k": 2}),
    ],
)
def test_the_edits_of_a_command_are_one_layer(write, edits, args):
    assert load_run(write(OTHER), edits).memory.args == args


def test_extends_may_be_a_chain_but_no_circle(write):
    assert load_run(write("extends: b.yaml\n", b="extends: c.yaml\nkeep: 3\n", c="seed: 7\nkeep: 9\n")).model_dump(
        include={"seed", "keep"}
    ) == {"seed": 7, "keep": 3}
    assert (
        refused(write("extends: b.yaml\n", b="extends: mine.yaml\n"))
        == "mine.yaml: more than 8 files extend one another (a circle?)"
    )
    assert refused(write("extends: gone.yaml\n")) == "gone.yaml: cannot be read (No such file or directory)"
    assert refused(write("extends: [b.yaml]\n")) == "mine.yaml: `extends` names one file"


def test_a_preset_is_the_four_choices_and_choices_lie_over_it(write):
    plain = {"merge": "average", "weigh": "draws", "share": "all", "objective": "plain"}
    strategy = load_run(write("strategy: fedavg\n")).strategy
    assert strategy.model_dump(include=set(plain)) == plain
    assert strategy == Strategy()  # what the preset does not name is as without a preset
    assert load_run(write("strategy: {preset: fedavg, weigh: equal}\n")).strategy.weigh == "equal"
    assert load_run(write("strategy: fedavg\n"), ["strategy.weigh=equal"]).strategy.weigh == "equal"
    line = "mine.yaml: strategy: there is no preset 'fedavf'; did you mean 'fedavg'?"
    assert refused(write("strategy: fedavf\n"), "strategy.weigh=equal") == line


def test_a_merges_settings_go_with_the_merge(write):
    base = "strategy: {merge: momentum, merge_args: {beta: 0.5}}\n"
    assert load_run(write(base)).strategy.merge_args == {"beta": 0.5}
    assert load_run(write("extends: b.yaml\nstrategy: {merge: adam}\n", b=base)).strategy.merge_args == {}
    assert load_run(write(base), ["strategy.merge=average"]).strategy.merge_args == {}
    assert load_run(write(base), ["strategy.merge_args.lr=2"]).strategy.merge_args == {"beta": 0.5, "lr": 2}
    base = "strategy: {objective: prox, objective_args: {mu: 0.5}}\n"
    assert load_run(write(base), ["strategy.merge=adam"]).strategy.objective_args == {"mu": 0.5}
    assert load_run(write("extends: b.yaml\nstrategy: {objective: ewc}\n", b=base)).strategy.objective_args == {}


@pytest.mark.parametrize(
    ("edit", "path", "value"),
    [
        ("seed=5", "seed", 5),
        (" train.lr =1e-4", "train.lr", 1e-4),
        ("train.patch=[8, 16, 24]", "train.patch", (8, 16, 24)),
        ("model.args={channels: [1, 2]}", "model.args", {"channels": [1, 2]}),
        ("model.args.channels=[1, 2]", "model.args", {"channels": [1, 2], "strides": [2]}),
        ("stream.cases_per_round=null", "stream.cases_per_round", None),
        ("stream.cases_per_round=", "stream.cases_per_round", None),
        ("sites.a.device=cuda:1", "sites.a.device", "cuda:1"),
        ("evaluate.on=validation", "evaluate.on", "validation"),
        ("train.compile=true", "train.compile", True),
    ],
)
def test_set_changes_one_thing(write, edit, path, value):
    text = "model: {args: {channels: [4, 8], strides: [2]}}\nstream: {cases_per_round: 2}\nsites: {a: {phantoms: {}}}\n"
    found: Any = load_run(write(text), [edit])
    for part in path.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value


def test_set_drops_a_site_and_the_last_edit_wins(write):
    path = write("sites: {a: {phantoms: {}}, b: {phantoms: {}}}\n")
    assert list(load_run(path, ["sites.a=null"]).sites) == ["b"]
    assert load_run(path, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        ("seed", "--set seed: write it as a.b=value"),
        ("=3", "--set =3: write it as a.b=value"),
        ("train.patch=[8, 8", "--set train.patch=[8, 8: '[8, 8' is not a valid value"),
        ("train.bach=2", "mine.yaml: train.bach: unknown key; did you mean 'batch'?"),
        ("seed.x=2", "mine.yaml: seed: Input should be a valid integer"),
        ("strategy=3", "mine.yaml: strategy: Input should be a valid dictionary or instance of Strategy (given: 3)"),
    ],
)
def test_a_wrong_edit_is_one_line(write, edit, line):
    assert refused(write("seed: 1\n"), edit).startswith(line)


def test_a_run_named_run_keeps_its_name(write, tmp_path):
    run = load_run(write("name: run\n"))
    (tmp_path / "config.yaml").write_text(dump_run(run))
    assert load_run(tmp_path / "config.yaml") == run


def test_what_is_written_is_read_back_whatever_it_holds(write):
    run = build_run(
        {
            "name": "x",
            "sites": {
                "yes": {"root": "äö/ß", "split": {"test": {"key": "1"}}, "labels": {"on": [1, 2], "ü": 3}},
                "b": {"phantoms": {}, "shift": "none", "arriving": [1, 2]},
            },
            "arrivals": {"visits": {"yes": [[1, 2], [4, None]], "b": [[2, 3]]}},
            "engine": {"deadline_s": float("inf")},
            "model": {"args": {"a": [1.5, None, "no", "true", "1"]}},
        }
    )
    assert load_run(write(dump_run(run))) == run


WORDS = [
    "1e3",
    "1E-05",
    "0x10",
    "1_000",
    "2024-01-01",
    "1:30",
    "on",
    "Off",
    "yes",
    "NO",
    "y",
    "null",
    "~",
    "=",
    "<<",
    ".inf",
    "",
]
"""What a word can be taken for by one YAML or another: a number, a date, a truth, nothing, a merge."""


@pytest.mark.parametrize("word", WORDS)
def test_a_word_stays_a_word(write, word):
    site = {"root": f"/{word}", "labels": {word: 1}, "cases": {"key": word}}
    name = word if word.replace("_", "").replace("-", "").isalnum() else "x"
    run = build_run({"name": name, "sites": {name: site}, "model": {"args": {"a": [word]}}})
    assert load_run(write(dump_run(run))) == run


def test_numbers_stay_numbers(write):
    args = {"a": [1e3, 1e-05, 1e22, 16, -0.5, 10**20, True, None, float("-inf")]}
    assert load_run(write(dump_run(build_run({"sites": SITES, "model": {"args": args}})))).model.args == args


def test_links_are_allowed_at_each_site_or_at_all(write):
    """And a site that says no is not overruled."""
    run = build_run({"data": {"follow_links": True}, "sites": SITES | {"b": {"root": "x", "follow_links": False}}})
    for found in (run, load_run(write(dump_run(run)))):
        assert [site.follow_links for site in found.sites.values()] == [True, False]
    assert not build_run({"sites": SITES}).sites["a"].follow_links


def test_a_hospitals_own_file(write):
    site = load_site(write("root: /data\nlabels: {liver: [1, 2]}\n"))
    assert site == SiteFile(root=Path("/data"), labels={"liver": [1, 2]})
    path = write("rot: /data\n")
    with pytest.raises(ValueError, match="rot: unknown key; did you mean 'root'"):
        load_site(path)
    with pytest.raises(ValueError, match="phantoms: unknown key"):
        load_site(write("phantoms: {}\n"))


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SITESTREAM_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("SITESTREAM_CACHE")
    assert cache_root() == Path.home() / ".cache" / "sitestream"
