"""Which cases a site has, how they fall into train, validation and test, and in which order they arrive."""

import json

import numpy as np
import pytest

from clients.data import SOURCES, read_msd, site_cases, subject_of
from configs.schema import Selection, SiteFile, Split

ONE = np.ones((2, 2, 2), np.uint8)
NAMES = [f"case_{i:02d}" for i in range(1, 9)]


@pytest.fixture
def folder(msd_folder):
    """Cases 1 to 8; site of origin a or b; a list; classes organ (1) and tumor (2)."""
    partitions = {"origin": {name: "a" if i < 5 else "b" for i, name in enumerate(NAMES)}, "held": ["case_02", "case_08"]}
    labels = {"0": "background", "1": "organ", "2": "tumor"}
    return msd_folder(dict.fromkeys(NAMES, (ONE, ONE)), labels, partitions=partitions)


def names(cases):
    return [case.name for case in cases]


def everything(root, **facts):
    return site_cases("here", SiteFile(root=root, split=Split(test=0.0), order="listed", **facts), 0)


def test_a_decathlon_folder_is_read_as_listed_and_without_background(folder):
    cases, labels = read_msd(folder)
    assert names(cases) == NAMES
    assert labels == {"organ": (1,), "tumor": (2,)}
    assert cases[0].image == folder / "imagesTr" / "case_01.nii.gz"
    assert cases[0].label.is_file()


def test_a_map_selects_by_value_and_a_list_selects_what_it_names(folder):
    assert names(everything(folder, cases=Selection(key="origin", value="b")).train) == NAMES[5:]
    assert names(everything(folder, cases=Selection(key="held")).train) == ["case_02", "case_08"]
    assert names(everything(folder, cases=Selection(key="origin")).train) == NAMES


def test_a_numeric_value_of_a_map_selects(folder):
    (folder / "numbers.json").write_text(json.dumps({"natural": {"case_01": 0, "case_03": 1}}))
    chosen = Selection(file="numbers.json", key="natural", value=0)
    assert names(everything(folder, cases=chosen).train) == ["case_01"]


def test_domains_are_told_for_the_cases_that_have_one(folder):
    found = everything(folder, cases=Selection(key="held"), domains=Selection(key="origin"))
    assert found.domains == {"case_02": "a", "case_08": "b"}


@pytest.mark.parametrize(("case", "subject"), [("hippocampus_035", "18"), ("hippocampus_036", "18"), ("hippocampus_037", "19")])
def test_the_rule_is_arithmetic_on_the_last_number(case, subject):
    assert subject_of(case, "(id + 1) // 2") == subject
    assert subject_of(case, None) == case
    assert subject_of(f"site3_{case}", "id % 10 - 2 * 2") == str(int(case[-1]) - 4)


@pytest.mark.parametrize(
    "rule",
    [
        "id.real",
        "__import__('os')",
        "id ** 2",
        "id / 2",
        "id +",
        "id // 0",
        "f(id)",
        "ID",
        "1.5 * id",
        "",
        "id\nid",
        "id if id else 1",
    ],
)
def test_a_rule_that_is_no_plain_arithmetic_is_refused(rule):
    with pytest.raises(ValueError, match=r"split\.subject"):
        subject_of("case_01", rule)


def test_a_case_without_a_number_is_refused_by_name():
    with pytest.raises(ValueError, match="'left' has no number"):
        subject_of("left", "(id + 1) // 2")


@pytest.mark.parametrize("test", [0.25, 0.5, Selection(key="held")])
def test_no_subject_is_in_two_splits(folder, test):
    split = Split(subject="(id + 1) // 2", test=test, validation=0.3)
    found = site_cases("here", SiteFile(root=folder, split=split), 0)
    parts = [{subject_of(case.name, split.subject) for case in part} for part in (found.train, found.validation, found.test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts)) == 4
    assert sorted(names([*found.train, *found.validation, *found.test])) == NAMES


def test_both_sides_of_a_listed_test_case_are_test_cases(folder):
    split = Split(subject="(id + 1) // 2", test=Selection(key="held"))
    found = site_cases("here", SiteFile(root=folder, split=split), 0)
    assert names(found.test) == ["case_01", "case_02", "case_07", "case_08"]


def test_the_validation_share_is_of_what_is_left_after_the_test(folder):
    found = site_cases("here", SiteFile(root=folder, split=Split(test=0.5, validation=0.25)), 0)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [3, 1, 4]


@pytest.mark.parametrize(("share", "cases", "tests"), [(0.07, 100, 7), (0.1, 30, 3), (0.25, 5, 2), (0.01, 8, 1), (0.0, 8, 0)])
def test_a_share_is_rounded_up_but_not_by_a_rounding_error(msd_folder, share, cases, tests):
    root = msd_folder({}, None)
    entries = [{"image": f"imagesTr/c{i}.nii.gz", "label": f"labelsTr/c{i}.nii.gz"} for i in range(cases)]
    (root / "dataset.json").write_text(json.dumps({"labels": {"1": "organ"}, "training": entries}))
    assert len(site_cases("here", SiteFile(root=root, split=Split(test=share)), 0).test) == tests


def test_the_stream_is_shuffled_by_seed_and_site_and_the_split_is_not(folder):
    def found(site, seed, **facts):
        return site_cases(site, SiteFile(root=folder, split=Split(test=0.25), **facts), seed)

    again, other_seed, other_site = found("here", 0), found("here", 1), found("there", 0)
    first = found("here", 0)
    assert names(first.train) == names(again.train)
    assert names(first.train) != names(other_seed.train)
    assert names(first.train) != names(other_site.train)
    assert first.test == other_seed.test == other_site.test
    assert names(found("here", 0, order="listed").train) == sorted(names(first.train))
    assert found("here", 0, max_cases=2).train == first.train[:2]


def test_a_site_that_does_not_learn_has_tests_and_no_stream(folder):
    found = site_cases("here", SiteFile(root=folder, split=Split(test=0.25), learns=False), 0)
    assert found.train == ()
    assert len(found.test) == 2


def test_classes_are_those_annotated_in_the_sites_own_order(folder):
    own = {"all": [1, 2], "tumor": 2}
    assert everything(folder).labels == {"organ": (1,), "tumor": (2,)}
    assert everything(folder, labels=own).labels == {"all": (1, 2), "tumor": (2,)}
    assert list(everything(folder, labels=own, annotates=["tumor", "all"]).labels) == ["tumor", "all"]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"annotates": ["tumour"]}, "'tumour', which its labels do not have; did you mean 'tumor'"),
        ({"annotates": []}, "annotates no class"),
        ({"cases": Selection(key="origin", value="c")}, "no case of .* is selected"),
        ({"cases": Selection(key="origine", value="a")}, "has no 'origine'; did you mean 'origin'"),
        ({"cases": Selection(file="nothing.json", key="x")}, "nothing.json cannot be read"),
        ({"source": "mds"}, "there is no source 'mds'; did you mean 'msd'"),
        ({"domains": Selection(key="held")}, "held"),
    ],
)
def test_what_does_not_fit_is_said_with_the_sites_name(folder, facts, words):
    with pytest.raises(ValueError, match=rf"site 'here': .*{words}"):
        everything(folder, **facts)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"site 'here': the data folder .*nowhere does not exist"):
        everything(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="site 'here': has no data folder"):
        everything(None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"training": []}', "not an MSD data set"),
        ('{"labels": {"1": "a"}, "training": ["x"]}', "not an MSD data set"),
        ('{"labels": {"x": "a"}, "training": []}', "not an MSD data set"),
    ],
)
def test_a_bad_listing_is_refused_in_one_line(tmp_path, text, words):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        everything(tmp_path)
    assert "\n" not in str(caught.value)


def test_two_cases_of_one_name_are_refused(tmp_path):
    entries = [{"image": "a/x.nii", "label": "b/x.nii"}, {"image": "c/x.nii.gz", "label": "d/x.nii.gz"}]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"1": "organ"}, "training": entries}))
    with pytest.raises(ValueError, match="two cases of the name 'x'"):
        everything(tmp_path)


def test_a_source_is_a_function_of_a_folder():
    assert SOURCES["msd"] is read_msd


def test_the_five_natural_sites_share_no_person_between_train_and_test(real_root):
    split = Split(subject="(id + 1) // 2", test=Selection(key="test"), validation=0.15)
    train, test, total = set(), set(), 0
    for value in range(5):
        site = SiteFile(root=real_root, cases=Selection(key="natural", value=value), split=split)
        found = site_cases(f"site{value}", site, 0)
        train |= {subject_of(case.name, split.subject) for case in (*found.train, *found.validation)}
        test |= {subject_of(case.name, split.subject) for case in found.test}
        total += len(found.train) + len(found.validation) + len(found.test)
    assert total == 260
    assert train and test and not train & test
    listed = json.loads((real_root / "partitions.json").read_text())["test"]
    assert {subject_of(name, split.subject) for name in listed} == test
