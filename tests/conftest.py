"""What the tests share: a cache of their own, one thread, a tiny pretend hospital, and the real data where they are."""

import gc
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from clients.work import Site
from configs.load import build_run
from configs.schema import Phantoms
from simulations.phantoms import write_phantoms

REAL_ROOT = Path(__file__).parents[1].parent / "shared" / "data" / "Task04_Hippocampus"
SHAPE = (32, 28, 24)


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """Nothing is read from or left in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SITESTREAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        torch.set_num_threads(1)
        gc.freeze()  # Flower collects garbage at every conversion: .2 s each time with all that the tests have imported
        yield
        gc.unfreeze()


@pytest.fixture(scope="session")
def phantom_root(session_cache):
    """The MSD folder of a pretend hospital: 8 windowed CTs, every organ annotated."""
    return write_phantoms("tiny", Phantoms(cases=8, shape=SHAPE, spacing=(6, 6, 8), scanner="ct_window"))


@pytest.fixture(scope="session")
def real_root():
    """Task04_Hippocampus, where it lies beside the repository."""
    if not REAL_ROOT.is_dir():
        pytest.skip(f"the real data are not here ({REAL_ROOT})")
    return REAL_ROOT


@pytest.fixture
def make_run(phantom_root):
    """Builds the run of one tiny site; keyword arguments replace whole sections, `site` adds to the site."""

    def build(site=None, **sections):
        tree = {
            "name": "tiny",
            "sites": {"tiny": {"root": str(phantom_root), "annotates": ["liver", "spleen"], **(site or {})}},
            "model": {"network": "UNet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 0}},
            "train": {"patch": [16, 16, 16], "batch": 2, "sampling_rate": 2, "replay_steps": 3, "lr": 0.003},
            "stream": {"cases_per_round": 2},
            "memory": {"policy": "selective", "args": {"k": 2}, "budget": 3},
        }
        return build_run(tree | sections)

    return build


@pytest.fixture
def make_site(make_run, tmp_path):
    """A site over the tiny phantoms: 6 cases in its stream, 2 for tests."""

    def make(folder="site", site=None, **sections):
        run = make_run(site, **sections)
        return Site("tiny", run.sites["tiny"], run, tmp_path / folder)

    return make


@pytest.fixture
def site(make_site):
    return make_site()


@pytest.fixture
def msd_folder(tmp_path):
    """Writes {case: (image, label)} as an MSD folder; each array may come with an affine, (array, affine)."""

    def write(cases, labels=None, **beside):
        root = tmp_path / "msd"
        entries = []
        for name, (image, label) in cases.items():
            entry = {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for part, array in (("image", image), ("label", label)):
                array, affine = array if isinstance(array, tuple) else (array, np.eye(4))
                path = root / entry[part]
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, affine), path)
            entries.append(entry)
        root.mkdir(exist_ok=True)
        listing = {"labels": labels or {"0": "background", "1": "organ"}, "training": entries}
        for file, tree in {"dataset.json": listing, **{f"{key}.json": value for key, value in beside.items()}}.items():
            (root / file).write_text(json.dumps(tree))
        return root

    return write
