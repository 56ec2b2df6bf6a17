"""Which cases a site has, how they fall into train, validation and test, and in which order they arrive."""

import json

import numpy as np
import pytest

from clients.data import SOURCES, read_msd, site_cases, subject_of
from clients.work import Site
from configs.load import build_run
from configs.schema import Selection, SiteFile, Split
from simulations.plan import prepare_all

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


@pytest.mark.parametrize(
    "text",
    [
        '{"labels": ' + "[" * 100_000,
        '{"labels": {"1": "a"}, "training": ' + "9" * 5000 + "}",
        '{"labels": {"1' + "0" * 5000 + '": "a"}}',
    ],
    ids=["deep", "a long number", "a long label value"],
)
def test_a_listing_that_python_cannot_take_is_one_line(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"site 'here': .*dataset.json(: not an MSD data set| is not valid JSON)") as caught:
        everything(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_listing_without_end_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("clients.folder.MAX_JSON", 2**20)
    (tmp_path / "dataset.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(ValueError, match=r"dataset.json is larger than 1 MB"):
        everything(tmp_path)


# Out of the data folder -------------------------------------------------------------------------------------------------

OUT = ["../secret.nii.gz", "imagesTr/../../secret.nii.gz", "/etc/passwd", "C:\\secret.nii", "a\0b.nii.gz"]


def listing(image="imagesTr/a.nii.gz", label="labelsTr/a.nii.gz"):
    return json.dumps({"labels": {"1": "organ"}, "training": [{"image": image, "label": label}]})


@pytest.mark.parametrize("part", ["image", "label"])
@pytest.mark.parametrize("path", OUT)
@pytest.mark.parametrize("follow", [False, True])
def test_a_listed_path_stays_in_the_data_folder_whatever_the_site_allows(tmp_path, path, part, follow):
    (tmp_path / "dataset.json").write_text(listing(**{part: path}))
    with pytest.raises(ValueError, match=r"^site 'here': .* leads out of the data folder .*; its files must lie inside it"):
        everything(tmp_path, follow_links=follow)


@pytest.mark.parametrize("kind", ["cases", "domains"])
@pytest.mark.parametrize("path", OUT)
def test_a_selection_stays_in_the_data_folder(folder, path, kind):
    with pytest.raises(ValueError, match="leads out of the data folder"):
        everything(folder, **{kind: Selection(file=path, key="held")}, follow_links=True)


@pytest.mark.parametrize(
    "name", ["imagesTr/case_03.nii.gz", "labelsTr/case_03.nii.gz", "dataset.json", "partitions.json", "imagesTr"]
)
def test_a_link_out_of_the_data_folder_is_followed_only_if_the_site_says_so(folder, tmp_path, name):
    outside = tmp_path / "elsewhere"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    held = {"cases": Selection(key="origin", value="a")}
    where = r"\(follow_links: true in the site's settings, or data.follow_links: true for .*, allows links\)"
    words = rf"is a link out of the data folder, to {outside}.* {where}"
    with pytest.raises(ValueError, match=rf"^site 'here': {folder}/.* {words}$"):
        everything(folder, **held)
    assert names(everything(folder, follow_links=True, **held).train) == NAMES[:5]


def test_links_inside_the_data_folder_and_to_it_are_no_trouble(folder, tmp_path):
    inside = folder / "imagesTr" / "case_01.nii.gz"
    inside.rename(folder / "moved.nii.gz")
    inside.symlink_to("../moved.nii.gz")
    (tmp_path / "link").symlink_to(folder)
    assert names(everything(tmp_path / "link").train) == NAMES


def test_links_in_a_circle_are_one_line(folder):
    image = folder / "imagesTr" / "case_01.nii.gz"
    image.unlink()
    image.symlink_to(image.name)
    with pytest.raises(ValueError, match=rf"site 'here': {image} cannot be followed"):
        everything(folder)


def test_what_is_not_selected_may_be_anywhere(folder):
    image = folder / "imagesTr" / "case_01.nii.gz"
    image.unlink()
    image.symlink_to("/etc/hostname")
    assert names(everything(folder, cases=Selection(key="held")).train) == ["case_02", "case_08"]


# Label values -----------------------------------------------------------------------------------------------------------


def test_the_label_files_may_hold_what_the_data_set_and_the_site_name(folder):
    assert everything(folder).values == {1, 2}
    assert everything(folder, labels={"tumor": [2, 7], "rest": 9}, annotates=["tumor"]).values == {1, 2, 7, 9}


def holding(msd_folder, labels, value=7):
    """A run of one site over two cases, whose second label holds the value in three voxels."""
    image, label = np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.zeros((8, 8, 8), np.uint8)
    label[2:6, 2:6, 2:6] = 1
    other = label.copy()
    other[4, 4, 3:6] = value
    root = msd_folder({"good": (image, label), "odd": (image, other)})
    sites = {"a": {"root": str(root), "split": {"test": 0.5}, **labels}}
    return build_run({"sites": sites, "preprocess": {"crop": False}})


def test_a_value_that_no_class_has_is_refused_before_the_run_and_at_the_site(msd_folder, tmp_path):
    words = "the label of case 'odd' holds the value 7 in 3 voxels, which no class has; name it under the site's labels"
    run = holding(msd_folder, {})
    with pytest.raises(ValueError, match=f"^site 'a': {words}"):
        prepare_all(run)
    with pytest.raises(ValueError, match=words):
        Site("a", run.sites["a"], run, tmp_path / "site").prepare()


def test_a_value_may_belong_to_a_class_that_nobody_draws_here(msd_folder):
    run = holding(msd_folder, {"labels": {"organ": 1, "other": 7}, "annotates": ["organ"]})
    assert list(prepare_all(run)["a"].labels) == ["organ"]


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
