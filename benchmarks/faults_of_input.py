"""Files that lie: a data folder, a config or a run's folder that somebody has tampered with, given to the command."""

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
from injecting import Seen, finished, interrupted, tiny

from configs.load import dump_run
from run_sim import main
from simulations.engines import ASKED_FILE

BOMB_MB = 512
SITE = "there"


def refused(place: Path, *arguments: str) -> Seen:
    """What the command says of a mistake: one line, exit code 2."""
    said = StringIO()
    with redirect_stderr(said), redirect_stdout(StringIO()):
        code = main(list(arguments))
    lines = [line for line in said.getvalue().replace(f"{place}/", "").splitlines() if line.strip()]
    words = lines[-1].removeprefix("run_sim: ") if lines else "nothing"
    return Seen(1, int(code == 2 and len(lines) == 1), "refused" if code == 2 else f"EXIT CODE {code}", "nothing", words)


def in_data(break_it: Callable[[Path], None]) -> Callable[[Path], Seen]:
    """A fault: the data folder of one site is tampered with, and `check` looks at it."""

    def injected(place: Path) -> Seen:
        root = Path(shutil.copytree(tiny().sites[SITE].root or "", place / "data"))
        break_it(root)
        tree = {"sites": {SITE: {"root": str(root), "annotates": ["liver", "spleen"]}}}
        (place / "run.yaml").write_text(json.dumps(tree))
        return refused(place, "check", str(place / "run.yaml"))

    return injected


def in_config(text: str) -> Callable[[Path], Seen]:
    """A fault: a config that somebody else wrote."""

    def injected(place: Path) -> Seen:
        (place / "run.yaml").write_text(text)
        return refused(place, "check", str(place / "run.yaml"))

    return injected


def config_changed(place: Path) -> Seen:
    run = tiny()
    (place / "run").mkdir()
    (place / "run" / ASKED_FILE).write_text(dump_run(run))
    interrupted(run, place / "run", 3)
    changed = run.model_copy(update={"train": run.train.model_copy(update={"lr": 0.01})})
    (place / "run" / ASKED_FILE).write_text(dump_run(changed))
    seen = refused(place, "resume", str(place / "run"))
    (place / "run" / ASKED_FILE).write_text(dump_run(run))
    finished(run, place / "run")  # with the recipe that it began with it goes on
    return seen


def _image(root: Path) -> Path:
    return min((root / "imagesTr").glob("*.nii.gz"))


def _label(root: Path) -> Path:
    return min((root / "labelsTr").glob("*.nii.gz"))


def link_out(root: Path) -> None:
    path, outside = _image(root), root.parent / "outside.nii.gz"
    shutil.move(path, outside)
    path.symlink_to(outside)


def lying_header(root: Path) -> None:
    path = _image(root)
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<8h", content, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)  # dim
    path.write_bytes(gzip.compress(bytes(content)))


def gzip_bomb(root: Path) -> None:
    path = _image(root)
    start = gzip.decompress(path.read_bytes())
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(BOMB_MB):
            file.write(bytes(2**20))


def no_image(root: Path) -> None:
    _image(root).write_bytes(b"<html>404</html>")


def stray_label(root: Path) -> None:
    path = _label(root)
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, 0] = 99
    nib.save(nib.Nifti1Image(voxels, image.affine), path)


YAML_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)
OF_INPUT: dict[str, Callable[[Path], Seen]] = {
    "a link out of the data folder": in_data(link_out),
    "a NIfTI header that lies": in_data(lying_header),
    f"a gzip bomb ({BOMB_MB} MB)": in_data(gzip_bomb),
    "a file that is no image": in_data(no_image),
    "a label value outside the map": in_data(stray_label),
    "a YAML bomb": in_config(YAML_BOMB),
    "a YAML tag that runs code": in_config("name: !!python/object/apply:os.system [id]\n"),
    "HTML in a site's name": in_config("sites: {'<script>alert(1)</script>': {root: x}}\n"),
    "a config changed under way": config_changed,
}
