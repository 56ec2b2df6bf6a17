"""Which label values are a class: its own, and those of what lies inside it."""

import numpy as np
import pytest

from clients.data import site_cases
from clients.labels import with_included
from clients.work import Site
from configs.load import build_run, load_run, load_site
from configs.schema import SiteFile, Split
from configs.site import within, without_circles
from simulations.arguments import QUICKSTART
from simulations.phantoms import LABELS
from simulations.pretend import materialise

ONE = np.ones((2, 2, 2), np.uint8)
NESTED = {"abdomen": ["liver", "kidney"], "liver": ["tumor"], "tumor": ["necrosis"]}


@pytest.fixture
def folder(msd_folder):
    """Two cases of classes organ (1), tumor (2) and vessel (3)."""
    labels = {"0": "background", "1": "organ", "2": "tumor", "3": "vessel"}
    return msd_folder(dict.fromkeys(("case_1", "case_2"), (ONE, ONE)), labels)


def labels(root, **facts):
    return site_cases("here", SiteFile(root=root, split=Split(test=0.0), **facts), 0).labels


def test_what_lies_inside_lies_inside_at_every_depth():
    assert within("abdomen", NESTED) == ["liver", "kidney", "tumor", "necrosis"]
    assert within("kidney", NESTED) == []


def test_a_class_has_its_own_values_and_those_inside_it_each_once():
    own = {"abdomen": (9,), "liver": (1, 2), "tumor": (2,), "necrosis": (3,)}
    whole = {"abdomen": (9, 1, 2, 3), "liver": (1, 2, 3), "tumor": (2, 3), "necrosis": (3,)}
    assert with_included(own, NESTED) == whole
    assert with_included(whole, NESTED) == whole  # a run that was written and read again stays the same
    assert with_included({"abdomen": (9,), "necrosis": (3,)}, NESTED)["abdomen"] == (
        9,
        3,
    )  # though no label has what lies between


def test_a_site_counts_what_its_labels_have_even_if_it_is_not_annotated(folder):
    includes = {"organ": ["tumor", "cyst"]}
    assert labels(folder, includes=includes) == {"organ": (1, 2), "tumor": (2,), "vessel": (3,)}
    assert labels(folder, includes=includes, annotates=["organ"]) == {"organ": (1, 2)}
    assert labels(folder, includes=includes, labels={"organ": 1}) == {"organ": (1,)}
    assert labels(folder) == {"organ": (1,), "tumor": (2,), "vessel": (3,)}


@pytest.mark.parametrize(
    ("includes", "words"),
    [
        ({"organ": ["organ"]}, "'organ' includes itself"),
        ({"organ": ["tumor"], "tumor": ["organ"]}, "'organ' lies inside itself, through 'tumor'"),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, "'a' lies inside itself, through 'b'"),
    ],
)
def test_a_circle_is_refused_in_one_line(includes, words, tmp_path):
    tree = {"name": "x", "sites": {"a": {"root": "none", "includes": includes}}}
    with pytest.raises(ValueError, match=f"^config: sites.a.includes: {words}$"):
        build_run(tree)
    with pytest.raises(ValueError, match=f"^config: includes: {words}$"):
        build_run({"name": "x", "includes": includes})
    (tmp_path / "site.yaml").write_text(f"root: none\nincludes: {includes}\n")
    with pytest.raises(ValueError, match=f"includes: {words}$"):
        load_site(tmp_path / "site.yaml")
    assert without_circles(NESTED) == NESTED


# In a simulation ------------------------------------------------------------------------------------------------------


def simulated(includes=None, **sites):
    phantoms = {"cases": 4, "shape": [24, 22, 20], "spacing": [8, 8, 9]}
    return build_run(
        {"name": "p", "sites": {n: {"phantoms": phantoms, **facts} for n, facts in sites.items()}, "includes": includes or {}}
    )


def test_a_name_that_no_site_has_is_refused_with_the_nearest(folder):
    with pytest.raises(ValueError, match="^includes: 'liver_tumour' is a class that no site has; did you mean 'liver_tumor'"):
        materialise(simulated({"liver": ["liver_tumour"]}, a={"annotates": ["liver"]}))
    with pytest.raises(ValueError, match="^sites.b.includes: 'lever' is a class that no site has; did you mean 'liver'"):
        materialise(simulated(a={}, b={"includes": {"lever": ["liver_tumor"]}}))
    real = build_run({"name": "p", "sites": {"a": {"root": str(folder)}}, "includes": {"organ": ["tumour"]}})
    with pytest.raises(ValueError, match="^includes: 'tumour' is a class that no site has; did you mean 'tumor'"):
        materialise(real)


def test_a_name_that_one_site_has_is_no_mistake_at_the_others(folder):
    sites = {"a": {"root": str(folder)}, "b": {"root": str(folder), "labels": {"vessel": 3}}}
    run = materialise(build_run({"name": "p", "sites": sites, "includes": {"organ": ["tumor"]}}))
    assert site_cases("a", run.sites["a"], 0).labels["organ"] == (1, 2)
    assert site_cases("b", run.sites["b"], 0).labels == {"vessel": (3,)}


def test_a_phantoms_tumour_is_its_livers_unless_the_site_says_otherwise():
    both = ["liver", "liver_tumor"]
    own = {"liver": LABELS["liver"], "liver_tumor": LABELS["liver_tumor"]}
    run = materialise(
        simulated(a={"annotates": both}, b={"annotates": both, "includes": {"liver": []}}, c={"annotates": both, "labels": own})
    )
    assert run.sites["a"].labels == own | {"liver": [LABELS["liver"], LABELS["liver_tumor"]]}
    assert run.sites["b"].labels == run.sites["c"].labels == own


def test_a_circle_with_what_a_phantom_knows_is_refused():
    with pytest.raises(ValueError, match="site 'a': 'liver' lies inside itself, through 'liver_tumor'"):
        materialise(simulated(a={"includes": {"liver_tumor": ["liver"]}}))


# At a hospital ----------------------------------------------------------------------------------------------------------


def test_a_hospitals_own_file_leaves_it_to_the_recipe_or_says_its_own(folder, tmp_path):
    run = build_run({"name": "p", "includes": {"organ": ["tumor"]}})
    (tmp_path / "site.yaml").write_text(f"root: {folder}\nsplit: {{test: 0}}\n")
    (tmp_path / "own.yaml").write_text(f"root: {folder}\nsplit: {{test: 0}}\nincludes: {{organ: [vessel]}}\n")
    found = [Site("a", load_site(tmp_path / name), run, tmp_path / "a").cases.labels for name in ("site.yaml", "own.yaml")]
    assert [each["organ"] for each in found] == [(1, 2), (1, 3)]


def test_the_quickstart_is_what_it_was_without_the_word():
    small = [f"sites.{name}.phantoms={{cases: 2, shape: [24, 22, 20]}}" for name in ("north", "east", "south", "west")]
    said, unsaid = load_run(QUICKSTART, small), load_run(QUICKSTART, [*small, "includes=null"])
    assert (said.includes, unsaid.includes) == ({"liver": ["liver_tumor"]}, {})
    one, other = materialise(said), materialise(unsaid)
    assert {name: site.labels for name, site in one.sites.items()} == {name: site.labels for name, site in other.sites.items()}
    assert site_cases("north", one.sites["north"], 0).labels["liver"] == (LABELS["liver"], LABELS["liver_tumor"])
