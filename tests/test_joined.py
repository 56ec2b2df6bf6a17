"""One client for sites that annotate different things: what its cases' labels mean, and who teaches which class."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from clients.data import SiteCases, site_cases
from clients.labels import Origin
from clients.losses import binary_entropy
from clients.model import HEAD, build
from clients.objective import Batch
from clients.prepare import Volume, checked
from clients.rounds import Round
from clients.sources import Case, read_joined
from clients.train import Trainer, in_parts
from configs.load import build_run, cache_root, dump_run
from configs.plain import parse
from configs.schema import Memory, Train
from memory.linear import Linear
from simulations.engines import simulate
from simulations.partition import joined_folder, meanings
from simulations.pretend import materialise
from simulations.stream import STREAM

LIVER = {"labels": {"liver": 1, "tumor": 2}, "includes": {"liver": ["tumor"]}}
SPLEEN = {"labels": {"spleen": 1, "liver": 3, "bone": 2}, "annotates": ["spleen", "liver"]}
BASE = {
    "name": "joined",
    "paradigm": "stream",
    "model": {"network": "UNet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 0}},
    "preprocess": {"crop": False},
    "train": {"patch": [8, 8, 8], "batch": 2, "sampling_rate": 2, "lr": 0.01, "weight_decay": 0.1},
    "memory": {"policy": "linear", "budget": 4},
    "evaluate": {"surface": False, "slices": 0, "overlap": 0},
    "engine": {"name": "local"},
}


@pytest.fixture
def hospitals(tmp_path, monkeypatch):
    """Site a draws livers (1) and their tumours (2), b spleens (1) and livers (3), and marks bone (2); three cases each."""
    monkeypatch.setenv("SITESTREAM_CACHE", str(tmp_path / "cache"))
    for name, values in (("a", (1, 2)), ("b", (1, 2, 3))):
        training = []
        for case in range(3):
            rng = np.random.default_rng([case, len(values)])
            label = np.zeros((8, 8, 8), np.uint8)
            for i, value in enumerate(values):
                label[2 * i : 2 * i + 2, :4, :4] = value
            image = (rng.standard_normal(label.shape) + 3 * label).astype(np.float32)
            training.append({"image": f"imagesTr/{name}_{case}.nii.gz", "label": f"labelsTr/{name}_{case}.nii.gz"})
            for part, array in zip(training[-1].values(), (image, label), strict=True):
                (tmp_path / name / part).parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name / part)
        listing = {"labels": {"0": "background", "1": "thing"}, "training": training}
        (tmp_path / name / "dataset.json").write_text(json.dumps(listing))
    return {"a": {"root": str(tmp_path / "a"), **LIVER}, "b": {"root": str(tmp_path / "b"), **SPLEEN}}


def run(sites, **sections):
    return materialise(build_run({**BASE, "sites": sites, "data": {"split": {"test": 0.3}}, **sections}))


def told(labels, values):
    return SiteCases((), (), (), labels, {}, frozenset(values))


def test_a_number_stands_for_the_classes_that_a_voxel_belongs_to():
    found = meanings(
        {"a": told({"liver": (1, 2), "tumor": (2,)}, {1, 2}), "b": told({"spleen": (1,), "liver": (3,)}, {1, 2, 3})}
    )
    assert found == {
        "classes": {"liver": [1, 2], "tumor": [2], "spleen": [3]},
        "origins": {
            "a": {"numbers": {"1": 1, "2": 2}, "annotates": ["liver", "tumor"]},
            "b": {"numbers": {"1": 3, "2": 0, "3": 1}, "annotates": ["spleen", "liver"]},  # a liver is a liver; bone is nothing
        },
    }


def test_more_combinations_than_a_byte_holds_are_refused():
    many = {f"class {i}": (i,) for i in range(1, 256)}
    assert len(meanings({"a": told(many, range(1, 256))})["classes"]) == 255
    with pytest.raises(ValueError, match="256 combinations of classes; 255 can be joined"):
        meanings({"a": told(many, range(1, 256)), "b": told({"one more": (1,)}, {1})})


def test_a_joined_client_annotates_what_any_site_does_and_each_case_what_its_own_site_does(hospitals):
    whole = run(hospitals)
    client = whole.sites[STREAM]
    assert (client.source, client.labels, client.annotates) == ("joined", None, None)
    cases = site_cases(STREAM, client, whole.seed)
    assert cases.labels == {"liver": (1, 2), "tumor": (2,), "spleen": (3,)} and cases.values == {1, 2, 3}
    assert [(case.name[0], case.origin.annotates) for case in cases.train] == [("a", ("liver", "tumor"))] * 2 + [
        ("b", ("spleen", "liver"))
    ] * 2
    assert list(cases.domains.values()) == ["a", "a", "b", "b"]
    assert build_run(parse(dump_run(whole))) == whole


def test_a_prepared_case_speaks_in_its_origins_numbers_and_the_cache_keeps_the_files_own(hospitals):
    whole = run(hospitals)
    case = site_cases(STREAM, whole.sites[STREAM], 0).train[-1]  # b: spleen 1, bone 2, liver 3
    volume = checked(case, whole.preprocess, cache_root())
    assert volume.counts == {3: 32, 1: 32} and {number: len(found) for number, found in volume.positions.items()} == {
        3: 32,
        1: 32,
    }
    assert volume.label()[0, 0, 0] == 3 and volume.label()[2, 0, 0] == 0 and volume.label()[4, 0, 0] == 1
    assert volume.label((slice(4, 5), slice(0, 1), slice(0, 1))).tolist() == [[[1]]]
    assert [volume.annotates(name) for name in ("liver", "tumor", "spleen")] == [True, False, True]
    own = checked(replace(case, origin=None), whole.preprocess, cache_root())
    assert own.counts == {1: 32, 2: 32, 3: 32} and own.annotates("tumor") and own.label()[2, 0, 0] == 2


def test_a_value_that_the_origin_does_not_know_is_refused(hospitals):
    whole = run(hospitals)
    case = site_cases(STREAM, whole.sites[STREAM], 0).train[-1]
    with pytest.raises(ValueError, match="holds the value 2 in 32 voxels, which no class has"):
        checked(replace(case, origin=Origin({1: 1, 3: 2}, ("spleen", "liver"))), whole.preprocess, cache_root())


def heads(folder):
    return {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if name in HEAD}


@pytest.mark.parametrize(("order", "taught"), [(["a", "b"], {"liver", "tumor"}), (["b", "a"], {"liver", "spleen"})])
def test_the_row_of_a_class_that_the_case_s_site_does_not_annotate_stays_bit_for_bit(hospitals, tmp_path, order, taught):
    """One round, in which only the first site's cases arrive: gradient, weight decay and moments leave the other rows alone."""
    whole = run(hospitals, arrivals={"order": order})
    short = whole.model_copy(update={"arrivals": whole.arrivals.model_copy(update={"rounds": 1})})
    (tmp_path / "run").mkdir()
    simulate(short, tmp_path / "run")
    sent = heads(tmp_path / "run")
    classes = json.loads((tmp_path / "run" / "record.jsonl").read_text().splitlines()[1])["classes"]
    fresh = dict(build("UNet", BASE["model"]["args"], tuple(classes), 0).named_parameters())
    for name in HEAD:
        same = [bool((sent[name][row] == fresh[name][row].detach().numpy()).all()) for row in range(3)]
        assert {cls for cls, unchanged in zip(classes, same, strict=True) if not unchanged} == taught


def test_a_stream_of_sites_that_annotate_different_things_trains_and_evaluates(hospitals, tmp_path):
    (tmp_path / "run").mkdir()
    simulate(run(hospitals), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "record.jsonl").read_text().splitlines()]
    assert not [row for row in rows if row["event"] in ("failure", "fault")]
    assert [row["memory_domains"] for row in rows if row["event"] == "train"] == [{"a": 2}, {"a": 2, "b": 2}]
    tested = {(row["site"], row["class"]) for row in rows if row["event"] == "case"}
    assert tested == {("a", "liver"), ("a", "tumor"), ("b", "spleen"), ("b", "liver")}


def test_everything_shuffled_takes_sites_that_annotate_different_things_too(hospitals):
    whole = run(hospitals, paradigm="joint.pooled")
    assert site_cases(STREAM, whole.sites[STREAM], 0).labels.keys() == {"liver", "tumor", "spleen"}


def test_sites_that_annotate_the_same_are_joined_as_before(hospitals):
    """An MSD folder with the sites' own values, and its labels in the config."""
    same = {name: {**hospitals["a"]} for name in ("a", "c")}
    client = run(same).sites[STREAM]
    assert client.source == "msd" and client.labels == {"liver": [1, 2], "tumor": [2]}
    listing = json.loads((client.root / "dataset.json").read_text())
    assert listing["labels"] == {"0": "background", "1": "thing"} and "origins" not in listing


def test_the_address_of_a_joined_folder_changes_with_what_its_labels_mean(hospitals):
    parts = [("a", run(hospitals).sites["a"].root, ["a_0"])]
    one, other = ({"a": told({name: (1, 2)}, {1, 2})} for name in ("liver", "spleen"))
    assert len({joined_folder(parts), joined_folder(parts, one), joined_folder(parts, other)}) == 3


@pytest.mark.parametrize(
    "spoilt",
    [
        {"origins": {}},
        {"origins": {"a": {"numbers": {"1": 300}, "annotates": []}}},
        {"origins": {"a": {"numbers": {"x": 1}, "annotates": []}}},
        {"classes": 3},
        {"training": [{"image": "x.nii", "label": "y.nii"}]},
    ],
)
def test_a_spoilt_listing_is_refused(tmp_path, spoilt):
    listing = {
        "classes": {"liver": [1]},
        "origins": {"a": {"numbers": {"1": 1}, "annotates": ["liver"]}},
        "training": [{"image": "x.nii", "label": "y.nii", "origin": "a"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(listing))
    (case,), labels = read_joined(tmp_path)
    assert case == Case("x", tmp_path / "x.nii", tmp_path / "y.nii", Origin({1: 1}, ("liver",))) and labels == {"liver": (1,)}
    (tmp_path / "dataset.json").write_text(json.dumps(listing | spoilt))
    with pytest.raises(ValueError, match="not an MSD data set"):
        read_joined(tmp_path)


# The loss -------------------------------------------------------------------------------------------------------------


def drawn(*classes):
    """A case with one voxel of class one, and three of two; of the classes it annotates those given."""
    label = np.zeros((4, 4, 4), np.uint8)
    label[0, 0, 0], label[1, 0, :3] = 1, 2
    origin = None if len(classes) == 3 else Origin({1: 1, 2: 2}, classes)
    return Volume("".join(classes), label.astype(np.float16), label, {}, {1: 1, 2: 3}, (1, 1, 1), 0.0, origin)


def rounds(model, recipe):
    labels = {"one": (1,), "two": (2,), "three": (3,)}
    trainer = Trainer(model, [0, 1, 2], recipe)
    return Round(
        trainer, Linear(), 4, recipe, Memory(), labels, lambda name: drawn(*name.split()), np.random.default_rng(0), [], print
    )


def fresh():
    torch.manual_seed(0)
    return build("UNet", {"channels": [4, 8], "strides": [2], "num_res_units": 0}, ("one", "two", "three"), 0)


def test_a_class_that_was_not_drawn_weighs_nothing_and_the_others_as_much_as_at_their_own_site():
    """By hand: of voxels 1 and 3, w = max(1, T (1/V) / (4/3)); of two classes of three, they count one and a half times."""
    work = rounds(fresh(), Train(patch=(4, 4, 4)))
    assert work._class_weights(drawn("one", "two")).tolist() == [2.25, 1.5, 0.0]
    assert work._class_weights(drawn("three")).tolist() == [0.0, 0.0, 3.0]  # absent, and said so: weight one
    assert work._class_weights(drawn("one", "two", "three")).tolist() == [2.25, 1.0, 1.0]


def test_a_class_gets_no_gradient_from_a_case_of_a_site_that_does_not_annotate_it():
    model = fresh()
    trainer = Trainer(model, [0, 1, 2], Train(lr=0.01, weight_decay=0.1))
    image, target = torch.randn(2, 1, 8, 8, 8), torch.ones(2, 3, 8, 8, 8)
    weight, annotated = torch.tensor([[1.5, 0, 0], [0.0, 1.5, 0]]), torch.tensor([[True, False, False], [False, True, False]])
    seen = {}
    trainer._descend = lambda rows: seen.update(rows=rows.tolist(), grad=dict(model.named_parameters())[HEAD[0]].grad.clone())
    assert trainer.step(image, target, weight, annotated) is not None
    assert seen["rows"] == [0, 1]
    assert seen["grad"][0].abs().max() > 0 and seen["grad"][1].abs().max() > 0 and (seen["grad"][2] == 0).all()


def test_entropy_is_of_the_classes_that_were_drawn():
    logits = torch.tensor([0.0, 50.0]).reshape(1, 2, 1, 1, 1)
    assert binary_entropy(logits).item() == pytest.approx(np.log(2) / 2)
    assert binary_entropy(logits, torch.tensor([[True, False]])).item() == pytest.approx(np.log(2))


def test_parts_of_a_batch_keep_what_was_drawn():
    batch = Batch(
        torch.zeros(3, 1), torch.zeros(3, 2), torch.zeros(3, 2), torch.tensor([[True, False], [False, True], [True, True]])
    )
    assert [part.annotated_BT.tolist() for part in in_parts(batch, 2)] == [[[True, False], [False, True]], [[True, True]]]
    assert [part.annotated_BT for part in in_parts(replace(batch, annotated_BT=None), 0)] == [None]
