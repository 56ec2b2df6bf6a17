"""The benchmark's sites share training subjects, and nobody is trained on at one site and tested at another."""

import sys
from itertools import combinations
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.fixture(scope="module")
def overlap(real_root):
    import overlap

    return overlap


def people(overlap, cases):
    return {overlap.subject(case) for case in cases}


def test_no_subject_is_in_train_anywhere_and_held_out_anywhere(overlap):
    train, held_out = overlap.subjects()
    trained = people(overlap, [case for cases in train.values() for case in cases])
    tested, validated = (people(overlap, held_out[which]) for which in ("test", "validation"))
    assert len(trained) == 102 and len(tested) == 42 and len(validated) == 26
    assert not trained & tested and not trained & validated and not tested & validated


def test_a_third_of_each_sites_subjects_were_scanned_again_at_the_next(overlap):
    train, _ = overlap.subjects()
    names = list(overlap.SITES)
    own = {site: [case for case in train[site] if case not in train[names[i - 1]]] for i, site in enumerate(names)}
    for i, site in enumerate(names):
        shared = [case for case in train[site] if case in train[names[i - 1]]]
        assert len(shared) == round(len(own[names[i - 1]]) / 3)
    together = [(one, other) for one, other in combinations(names, 2) if set(train[one]) & set(train[other])]
    assert len(together) == len(names)  # each with the next, the last with the first


@pytest.mark.parametrize("evaluated", ["test", "validation"])
def test_the_sites_as_a_run_reads_them_hold_nobody_out_and_train_on_them(overlap, evaluated):
    from clients.data import site_cases
    from configs.load import build_run

    run = build_run({"name": "o", "data": {"root": str(overlap.folder())}, "sites": overlap.sites(evaluated)})
    found = {name: site_cases(name, site.model_copy(update={"root": run.data.root}), 0) for name, site in run.sites.items()}
    trained = people(overlap, [case.name for cases in found.values() for case in cases.train])
    tested = people(overlap, [case.name for cases in found.values() for case in cases.test])
    listed = overlap.subjects()[1][evaluated]
    assert len(trained) == 102 and tested == people(overlap, listed) and not trained & tested
    assert sum(len(cases.test) for cases in found.values()) == len(listed)  # each is evaluated at one site
