"""Predicting from a model's file: every voxel lands where it belongs, and what is wrong is said in one line."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension
from safetensors.numpy import load_file, save_file
from scipy.spatial.transform import Rotation
from torch import nn

from clients import model as networks
from clients.data import read_msd, site_cases
from clients.evaluate import predict, scores
from clients.image_files import find_images
from clients.keyed import Keyed
from clients.predict import load_model, predict_files
from clients.prepare import prepare
from clients.scan import Scan
from configs.card import METADATA
from configs.load import load_run
from configs.schema import Evaluate
from run_sim import main
from tests.test_prepare import stored

SMOKE = str(Path(__file__).parents[1] / "configs" / "smoke.yaml")
PLAIN = {"intensity": "ct", "window": [0, 100], "crop": False}
"""Image values 0..100 reach the network as 0..1."""
THRESHOLDS = {"bright": 50, "very bright": 80}


def eye(args):
    """A network that hands on what it sees."""
    net = nn.Conv3d(1, 1, 1, bias=False)
    nn.init.ones_(net.weight)
    return networks.Body(net, 1, net, (1, 1, 1))


def card(**changes):
    facts = {"network": "Eye", "args": {}, "classes": list(THRESHOLDS), "preprocess": PLAIN, "patch": [8, 8, 8], "overlap": 0.5}
    facts |= {"seed": 0, "includes": {}, **changes}
    return {key: value for key, value in facts.items() if value is not None}


@pytest.fixture
def make_model(tmp_path, monkeypatch):
    """A model file whose class `c` is where the image is brighter than THRESHOLDS[c]; keywords change the card."""
    monkeypatch.setitem(networks.NETWORKS, "Eye", eye)

    def make(**changes):
        facts = card(**changes)
        limits = np.array([THRESHOLDS[name] / 100 for name in facts.get("classes", THRESHOLDS)], np.float32)
        weights = {
            "net.weight": np.ones((1, 1, 1, 1, 1), np.float32),
            "head.weight": np.ones((len(limits), 1, 1, 1, 1), np.float32),
        }
        save_file(weights | {"head.bias": -limits}, tmp_path / "m.safetensors", {METADATA: json.dumps(facts)})
        return tmp_path / "m.safetensors"

    return make


@pytest.fixture
def write_image(tmp_path):
    """Writes scans/NAME; returns its path."""

    def write(array, affine=None, name="scan.nii.gz", kind=nib.Nifti1Image):
        path = tmp_path / "scans" / name
        path.parent.mkdir(exist_ok=True)
        nib.save(kind(array, np.eye(4) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def segment(tmp_path, make_model):
    """Predicts one image; returns the label map's file."""

    def run(image, **changes):
        assert predict_files(make_model(**changes), [image], tmp_path / "out", overwrite=True) == (0, 1)
        return nib.load(tmp_path / "out" / "scan.nii.gz")

    return run


def speckled(shape=(9, 7, 5)):
    """Values 1..99 in no order."""
    return np.random.default_rng(0).integers(1, 100, shape).astype(np.int16)


def ramp(shape):
    """Rises evenly from 1.5 to 101.5, corner to corner: linear interpolation, there and back, changes nothing."""
    return (sum(np.ogrid[tuple(slice(side) for side in shape)]) * 100 / (sum(shape) - 3) + 1.5).astype(np.float32)


def expected(image):
    """The label map that the model should give."""
    return (image > 50).astype(np.uint8) + (image > 80)


# Back to the source's voxels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "SPL", "ARI"])
def test_however_an_image_is_stored_every_voxel_is_told_in_its_place(write_image, segment, axes, crop):
    image = np.zeros((12, 9, 8), np.int16)
    image[2:11, 1:8, 3:8] = speckled()
    array, affine = stored(image, axes, (1.0, 2.0, 3.0))
    found = segment(write_image(array, affine), preprocess=PLAIN | {"crop": crop})
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected(array))
    assert (found.affine == affine).all() and found.get_data_dtype() == np.uint8


def test_a_fourth_axis_of_length_1_is_none(write_image, segment):
    found = segment(write_image(speckled()[..., None]))
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected(speckled()))


def test_an_image_in_metres_is_resampled_in_millimetres_and_keeps_its_grid(write_image, segment):
    image = nib.Nifti1Image(ramp((11, 9, 7)), np.diag([0.001, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    path = write_image(speckled())
    nib.save(image, path)
    found = segment(path, preprocess=PLAIN | {"spacing": (2, 2, 2)})
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected(ramp((11, 9, 7))))
    assert (found.affine == nib.load(path).affine).all() and found.header.get_xyzt_units()[0] == "meter"


def test_an_oblique_image_keeps_its_grid(write_image, segment):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [20, -35, 100], degrees=True).as_matrix() @ np.diag([0.7, 0.9, 2.5])
    affine[:3, 3] = 12.3, -45.6, 78.9
    path = write_image(speckled(), affine)
    found = segment(path)
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected(speckled()))
    assert (found.affine == nib.load(path).affine).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, ">i2"])
def test_the_type_of_the_voxels_makes_no_difference(write_image, segment, dtype):
    found = segment(write_image(speckled().astype(dtype)))
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected(speckled()))


def test_what_was_cut_away_is_background(write_image, segment, tmp_path, make_model):
    image = np.zeros((10, 9, 8), np.int16)
    image[3:7, 3:7, 3:7] = 90
    path, weights = make_model(preprocess=PLAIN | {"crop": True}), load_file(tmp_path / "m.safetensors")
    save_file(weights | {"head.bias": np.array([1, 1], np.float32)}, path, {METADATA: json.dumps(card(preprocess=PLAIN))})
    predict_files(path, [write_image(image)], tmp_path / "whole")
    save_file(
        weights | {"head.bias": np.array([1, 1], np.float32)},
        path,
        {METADATA: json.dumps(card(preprocess=PLAIN | {"crop": True}))},
    )
    predict_files(path, [tmp_path / "scans"], tmp_path / "cropped")
    whole, cropped = (np.asarray(nib.load(tmp_path / folder / "scan.nii.gz").dataobj) for folder in ("whole", "cropped"))
    assert (whole == 2).all()  # this model sees both classes everywhere
    np.testing.assert_array_equal(cropped, np.where(image, 2, 0))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SPL"])
@pytest.mark.parametrize("spacing", [(2, 2, 2), (0.5, 1.0, 4.5)])
def test_after_resampling_borders_lie_where_they_lay_to_the_voxel(write_image, segment, axes, spacing):
    """Both spacings divide the 10 x 16 x 18 mm between the first and the last voxels."""
    array, affine = stored(ramp((11, 9, 7)), axes, (1.0, 2.0, 3.0))
    found = segment(write_image(array, affine), preprocess=PLAIN | {"spacing": spacing})
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected(array))


def test_a_voxel_past_the_last_resampled_one_has_that_ones_class(write_image, segment):
    """4 voxels of 1 mm become 2 of 2 mm, at 0 and 2 mm: the voxel at 3 mm lies in the outer half of the second."""
    found = segment(write_image(np.full((4, 4, 4), 70, np.int16)), preprocess=PLAIN | {"spacing": (2, 2, 2)})
    assert (np.asarray(found.dataobj) == 1).all()


def test_a_sheared_image_is_straightened_and_sheared_back(write_image, segment):
    """A tilted gantry: MONAI resamples onto a grid with right angles. Its corners lie outside, so the middle is compared."""
    affine, image = np.eye(4), ramp((24, 24, 12))
    affine[1, 2] = 0.4
    found = segment(write_image(image, affine), preprocess=PLAIN | {"spacing": (1.0, 1.0, 2.0)})
    middle = (slice(2, -2), slice(6, -6), slice(2, -2))
    assert set(np.unique(expected(image)[middle])) == {0, 1, 2}
    np.testing.assert_array_equal(np.asarray(found.dataobj)[middle], expected(image)[middle])


def test_nothing_seen_is_an_empty_map(write_image, segment):
    assert not np.asarray(segment(write_image(np.full((4, 5, 6), 20, np.int16))).dataobj).any()


def test_logits_and_not_labels_are_read_between_voxels():
    """Of two prepared voxels, 2 mm apart, one is barely in and one surely out: the voxel half-way between them is out."""
    header = nib.Nifti1Image(np.zeros((3, 1, 1), np.uint8), np.eye(4)).header
    scan = Scan(np.zeros((2, 1, 1), np.float16), 0.0, header, np.diag([0.5, 1, 1, 1]))
    assert scan.in_source(np.array([1, -3], np.float32).reshape(2, 1, 1)).ravel().tolist() == [True, False, False]
    assert scan.in_source(np.array([3, -1], np.float32).reshape(2, 1, 1)).ravel().tolist() == [True, True, False]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_the_header_keeps_the_grid_and_loses_the_patient(write_image, segment, kind):
    source = kind(speckled(), np.diag([1, 2, 3, 1]))
    source.set_qform(np.diag([-1, 2, 3, 1]), code=1)
    source.header.set_xyzt_units("mm")
    source.header["descrip"] = b"Doe, Jane"
    source.header.extensions.append(Nifti1Extension("comment", b"Doe, Jane"))
    path = write_image(speckled())
    nib.save(source, path)
    found = segment(path)
    assert isinstance(found, kind)
    for field in ("qform_code", "sform_code", "quatern_d", "srow_x", "pixdim", "xyzt_units"):
        assert found.header[field].tolist() == source.header[field].tolist(), field
    assert not found.header.extensions and not found.header["descrip"].tobytes().strip(b"\0")


# What is written ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "includes, order, both", [({}, ["very bright", "bright"], 2), ({"bright": ["very bright"]}, ["bright", "very bright"], 1)]
)
def test_an_inner_class_covers_the_one_around_it_whatever_its_row(write_image, segment, tmp_path, includes, order, both):
    image = speckled()
    found = segment(write_image(image), classes=["very bright", "bright"], includes=includes)
    told = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert told["labels"] == {"0": "background", "1": "very bright", "2": "bright"}
    assert told["order"] == order
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.where(image > 80, both, np.where(image > 50, 2, 0)))


def test_each_class_may_have_a_mask_of_its_own(write_image, make_model, tmp_path):
    image = speckled()
    assert predict_files(make_model(), [write_image(image)], tmp_path / "out", each=True) == (0, 1)
    for name, limit in (("bright", 50), ("very_bright", 80)):
        np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "out" / f"scan_{name}.nii.gz").dataobj), image > limit)
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_the_images_are_as_they_were_and_the_same_again_is_the_same_bytes(write_image, make_model, tmp_path):
    path, model = write_image(speckled()), make_model()
    before = path.read_bytes()
    for folder in ("one", "two"):
        predict_files(model, [path], tmp_path / folder)
    assert path.read_bytes() == before
    one, two = ((tmp_path / folder / "scan.nii.gz").read_bytes() for folder in ("one", "two"))
    assert one == two and one[4:8] == bytes(4)  # gzip would write down the time


def test_done_images_are_left_out_unless_told_otherwise(write_image, make_model, tmp_path, capsys):
    write_image(speckled(), name="a.nii.gz")
    write_image(speckled(), name="b.nii")
    model, out = make_model(), tmp_path / "out"
    ask = ["predict", str(model), str(tmp_path / "scans"), "-o", str(out)]
    assert main(ask) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["1/2 a", "2/2 b"]
    (out / "b.nii.gz").unlink()
    (out / "a.nii.gz").write_bytes(b"done before")
    assert main(ask) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "1 of 2 images have been done before (--overwrite does them again)" and told[1].startswith("1/1 b: ")
    assert (out / "a.nii.gz").read_bytes() == b"done before"
    assert main([*ask, "--overwrite"]) == 0
    assert (out / "a.nii.gz").read_bytes() == (out / "b.nii.gz").read_bytes()


def test_the_results_of_two_models_are_not_mixed(write_image, make_model, tmp_path):
    image, out = write_image(speckled()), tmp_path / "out"
    predict_files(make_model(), [image], out)
    with pytest.raises(ValueError, match=r"out holds the results of another model \(.*labels.json\)"):
        predict_files(make_model(classes=["very bright"]), [image], out)
    predict_files(make_model(classes=["very bright"]), [image], out, overwrite=True)
    assert json.loads((out / "labels.json").read_text())["labels"]["1"] == "very bright"


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_a_broken_image_is_named_and_the_others_are_done(write_image, make_model, tmp_path, capsys):
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz"):
        write_image(speckled(), name=name)
    (tmp_path / "scans" / "b.nii.gz").write_bytes(b"no image")
    ask = ["predict", str(make_model()), str(tmp_path / "scans"), "-o", str(tmp_path / "out")]
    assert main(ask) == 3
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("2/3 b failed: ") and "b.nii.gz cannot be read" in told[0]
    assert told[1:] == ["run_sim: 1 of 3 images failed"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz", "labels.json"]


def test_if_all_images_are_broken_it_is_a_mistake_in_what_was_asked(write_image, make_model, tmp_path, capsys):
    write_image(np.full((4, 4, 4), np.nan, np.float32))
    assert main(["predict", str(make_model()), str(tmp_path / "scans"), "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "NaN" in told[0] and told[1:] == ["run_sim: 1 of 1 images failed"]


def test_an_image_too_large_for_the_memory_fails_alone(write_image, make_model, tmp_path, monkeypatch, capsys):
    for name in ("a.nii", "b.nii"):
        write_image(speckled(), name=name)
    real, seen = nn.Conv3d.forward, []

    def full(self, image):
        if not seen:
            seen.append(image)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, image)

    monkeypatch.setattr(nn.Conv3d, "forward", full)
    assert predict_files(make_model(), [tmp_path / "scans"], tmp_path / "out") == (1, 2)
    assert capsys.readouterr().err == "1/2 a failed: out of memory\n"
    assert (tmp_path / "out" / "b.nii.gz").exists()


@pytest.mark.parametrize(
    "given, words",
    [
        (["scans/a.nii", "scans/a.nii.gz"], "scans/a.nii and scans/a.nii.gz would both become a.nii.gz"),
        (["scans"], "scans/a.nii and scans/a.nii.gz would both become a.nii.gz"),
        (["nowhere"], "there is no nowhere"),
        (["scans/notes.txt"], "scans/notes.txt is not a .nii or .nii.gz file"),
        (["scans/b.hdr"], "scans/b.hdr is a pair of .hdr and .img; convert it to .nii.gz"),
        (["empty"], "there is no .nii or .nii.gz file in empty"),
        (["out"], "out/mine.nii.gz lies in out itself"),
        (["link.nii.gz"], "link.nii.gz lies in out itself"),
    ],
)
def test_images_that_cannot_be_meant_are_refused(tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    for name in ("scans/a.nii", "scans/a.nii.gz", "scans/notes.txt", "scans/b.hdr", "empty/.a.nii", "out/mine.nii.gz"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    Path("link.nii.gz").symlink_to("out/mine.nii.gz")
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        find_images([Path(name) for name in given], Path("out"))


def test_folders_are_taken_in_order(tmp_path):
    for name in ("b.nii", "a.nii.gz", "c.txt"):
        (tmp_path / name).touch()
    assert list(find_images([tmp_path], tmp_path / "out")) == ["a", "b"]


def test_images_whose_masks_would_have_one_name_are_refused(write_image, make_model, tmp_path):
    write_image(speckled(), name="a.nii")
    write_image(speckled(), name="a_very.nii")
    model = make_model(classes=["very bright", "bright"])
    with pytest.raises(ValueError, match="images 'a' and 'a_very' would both become a_very_bright.nii.gz"):
        predict_files(model, [tmp_path / "scans"], tmp_path / "out", each=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lost", ["network", "args", "classes", "preprocess", "patch", "overlap", "seed"])
def test_a_card_that_lacks_a_key_is_refused_by_name(make_model, lost):
    with pytest.raises(ValueError, match=f"m.safetensors is no model that can be used: .*: {lost}: Field required"):
        load_model(make_model(**{lost: None}))


def damaged(path, how):
    """Spoil a model's file; what is to be said."""
    weights, metadata = load_file(path), {METADATA: json.dumps(card())}
    match how:
        case "missing":
            path.unlink()
            return "No such file"
        case "text":
            path.write_text("no model")
            return "is no model that can be used"
        case "torn":
            path.write_bytes(path.read_bytes()[:-3])
            return "is no model that can be used"
        case "folder":
            path.unlink()
            path.mkdir()
            return f"is a folder; the model of a run's folder is {path}/model.safetensors"
        case "foreign":
            save_file(weights, path, {"format": "pt"})
            return "it does not say which network it belongs to"
        case "no JSON":
            save_file(weights, path, {METADATA: "{"})
            return "what it says of its network cannot be used: it: Invalid JSON"
        case "unknown network":
            save_file(weights, path, {METADATA: json.dumps(card(network="Ear"))})
            return "there is no 'Ear'"
        case "few rows":
            save_file(weights | {"head.bias": weights["head.bias"][:1]}, path, metadata)
            return "head.bias has 1 rows for 2 classes"
        case "shape":
            save_file(weights | {"net.weight": np.ones((1, 1, 3, 3, 3), np.float32)}, path, metadata)
            return r"net.weight is \(1, 1, 3, 3, 3\), not \(1, 1, 1, 1, 1\)"
        case "NaN":
            save_file(weights | {"head.bias": np.array([np.nan, 0], np.float32)}, path, metadata)
            return "head.bias holds NaN or infinite numbers"
    raise AssertionError(how)


@pytest.mark.parametrize(
    "how", ["missing", "text", "torn", "folder", "foreign", "no JSON", "unknown network", "few rows", "shape", "NaN"]
)
def test_a_file_that_is_no_model_is_refused_in_one_line(make_model, write_image, tmp_path, how):
    path, image = make_model(), write_image(speckled())
    with pytest.raises(ValueError, match=damaged(path, how)) as caught:
        predict_files(path, [image], tmp_path / "out")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_refused(make_model):
    with pytest.raises(ValueError, match="device 'cuda:77' is not to be had here"):
        load_model(make_model(), "cuda:77")


# Real models, real data -----------------------------------------------------------------------------------------------


def test_the_files_reach_the_very_dice_of_the_runs_own_evaluation(tmp_path):
    quick = ["sites.third=null", "train.sampling_rate=4", "arrivals.rounds_per_stage=1", "stream.cases_per_round=3"]
    edits = [word for edit in (*quick, "evaluate.surface=false") for word in ("--set", edit)]
    folder = tmp_path / "run"
    assert main(["run", SMOKE, "--engine", "local", *edits, "--out", str(folder)]) == 0
    run = load_run(folder / "simulated.yaml")
    shutil.copy(folder / "model.safetensors", tmp_path / "alone.safetensors")
    record = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    last = [row for row in record if row["event"] == "case" and row["stage"] == "second"]
    wanted = {(row["site"], row["case"], row["class"]): row["dice"] for row in last}
    found = {}
    for name, site in run.sites.items():
        cases = site_cases(name, site, run.seed)
        assert (
            predict_files(tmp_path / "alone.safetensors", [case.image for case in cases.test], tmp_path / name, each=True)[0]
            == 0
        )
        for case in cases.test:
            label = np.asarray(nib.load(case.label).dataobj)
            truth = np.stack([np.isin(label, values) for values in cases.labels.values()])
            masks = [nib.load(tmp_path / name / f"{case.name}_{word}.nii.gz").get_fdata() > 0 for word in cases.labels]
            for row in scores(np.stack(masks), truth, list(cases.labels), None):
                found[name, Keyed(folder / "sites" / name)(case.name), row["class"]] = row["dice"]
    assert found == wanted and len(wanted) == 4
    assert max(wanted.values()) > 0.1


def test_a_real_image_is_segmented_as_evaluation_sees_it(real_root, make_model, tmp_path):
    case = next(case for case in read_msd(real_root)[0] if case.name == "hippocampus_003")
    model = make_model(preprocess={"intensity": "percentile", "crop": False}, patch=[24, 24, 24])
    predictor = load_model(model)
    volume = next(iter(prepare([case], predictor.card.preprocess, tmp_path / "cache")))
    bright, very_bright = predict(predictor.model, volume, [0, 1], (24, 24, 24), Evaluate())
    assert predict_files(model, [case.image], tmp_path / "out") == (0, 1)
    found, source = nib.load(tmp_path / "out" / "hippocampus_003.nii.gz"), nib.load(case.image)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.where(very_bright, 2, bright))  # stored as RAS
    assert found.shape == source.shape and (found.affine == source.affine).all() and very_bright.any()
