"""NIfTI files as they come from anywhere: what a header promises is judged before a voxel is read.

A header of 348 bytes can promise 10^13 voxels, and a few kilobytes of gzip unpack to gigabytes. Only the header and the
voxels are read: extensions are skipped, and little may follow the voxels.
"""

import zlib
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_VOXELS = 2**30
"""Of one volume, as stored or resampled: 1024 x 1024 x 1024. The largest whole-body CTs have half of it, and in float32,
image, label and a copy of each, it is 16 GB already."""
MOST_DEFLATED = 1032
"""Bytes that one byte of gzip can stand for at most: deflate's own limit."""
VOXEL_MM = (1e-3, 1e3)
"""Millimetres that a voxel's side may have."""
MAX_REST = 2**20
"""Bytes that may follow the voxels in a compressed file: it is read to its end, where its checksum is."""
MM_PER_UNIT = {1: 1e3, 2: 1.0, 3: 1e-3}
"""Of the header's `xyzt_units`: metres, millimetres, micrometres. A header that names none means millimetres."""
CONVERT = "a pair of .hdr and .img; convert it to .nii.gz"
FLATTEST = 1e-3
"""Volume of the three unit axes of a grid: 1 where they are at right angles, 0 where they lie in a plane."""


@dataclass(frozen=True)
class Volume3D:
    """A file whose header was found sound; its voxels are not read yet."""

    case: str
    path: Path
    shape: tuple[int, ...]
    """Voxels along the three axes as stored."""
    affine: NDArray[np.float64]
    """[4, 4] voxel to millimetres."""
    header: Any
    """nibabel's, of three axes, without extensions."""

    def read(self) -> NDArray[np.float32]:
        """[X, Y, Z] as stored, scaled as the header says. Raises ValueError naming case and file."""
        from nibabel.arrayproxy import ArrayProxy
        from nibabel.openers import ImageOpener

        try:
            with np.errstate(over="ignore", invalid="ignore"), ImageOpener(self.path) as file:
                voxels_XYZ = np.asarray(ArrayProxy(file, self.header, mmap=False), dtype=np.float32)
                if _compressed(self.path) and len(file.read(MAX_REST + 1)) > MAX_REST:
                    raise ValueError("it goes on after the voxels that its header promises")
            return voxels_XYZ
        except MemoryError:
            raise unreadable(self.case, self.path, f"no memory for its {prod(self.shape):,} voxels") from None
        except (OSError, EOFError, ValueError, TypeError, OverflowError, zlib.error) as error:
            raise unreadable(self.case, self.path, error) from None


def open_nifti(case: str, path: Path) -> Volume3D:
    """A case's image or label by its header.

    Raises:
        ValueError: it is no NIfTI file, or its header cannot be true; the message names case and file.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        header = _header(path)
        shape, affine = _shape(header), _affine_mm(header)
        _check_size(path, shape, header)
        if len(header.get_data_shape()) > 3:
            header.set_data_shape(shape)
        _check_grid(affine)
        header.get_slope_inter()  # raises where a scale is no number
        return Volume3D(case, path, shape, affine, header)
    except (OSError, EOFError, ValueError, TypeError, OverflowError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise unreadable(case, path, error) from None


def unreadable(case: str, path: object, why: object) -> ValueError:
    """The one line for a file of a case that cannot be read."""
    return ValueError(f"case {case!r}: {path} cannot be read ({' '.join(str(why).split()) or type(why).__name__})")


def _header(path: Path) -> Any:
    """The header alone, without the extensions that may follow it: their lengths may lie too."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.openers import ImageOpener

    if is_half(path):
        raise ValueError(CONVERT)
    if path.suffix.lower() not in (".nii", ".gz"):
        raise ValueError("not a .nii or .nii.gz file")
    with ImageOpener(path) as file:
        start = file.read(Nifti2Header.sizeof_hdr)
    second = start[:4] in [Nifti2Header.sizeof_hdr.to_bytes(4, order) for order in ("little", "big")]
    kind = Nifti2Header if second else Nifti1Header
    if len(start) < kind.sizeof_hdr:
        raise ValueError(f"it ends after {len(start)} bytes, before its header does")
    return kind.from_fileobj(BytesIO(start[: kind.sizeof_hdr] + bytes(4)))


def is_half(path: Path) -> bool:
    """Whether a file is called as one of the two that make a volume in the old way."""
    return path.name.lower().removesuffix(".gz").endswith((".hdr", ".img"))


def _shape(header: Any) -> tuple[int, ...]:
    """The three axes; many programs write a fourth and fifth of length 1."""
    shape = tuple(map(int, header.get_data_shape()))
    if len(shape) < 3 or any(side != 1 for side in shape[3:]):
        raise ValueError(f"it has {len(shape)} axes, not 3 ({' x '.join(map(str, shape))})")
    return shape[:3]


def _affine_mm(header: Any) -> NDArray[np.float64]:
    """[4, 4] voxel to millimetres, whatever the header's unit."""
    affine = np.array(header.get_best_affine(), np.float64)
    affine[:3] *= MM_PER_UNIT.get(int(header["xyzt_units"]) % 8, 1.0)  # beyond these three bits is the unit of time
    return affine


def _compressed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _check_size(path: Path, shape: tuple[int, ...], header: Any) -> None:
    """The voxels promised are not too many, are numbers, and can be in a file of this size."""
    if min(shape) < 1 or prod(shape) > MAX_VOXELS:
        raise ValueError(f"its header says {' x '.join(map(str, shape))} voxels; 1 to {MAX_VOXELS:,} can be")
    kind, start, size = header.get_data_dtype(), header.get_data_offset(), path.stat().st_size
    if kind.kind not in "iuf":
        raise ValueError(f"its voxels are {header.get_value_label('datatype')}, not plain numbers")
    if start < header.sizeof_hdr:
        raise ValueError(f"its header says that the voxels begin at byte {start}, inside the header")
    promised, most = start + prod(shape) * kind.itemsize, size
    if _compressed(path):
        most *= MOST_DEFLATED
    if promised > most:
        raise ValueError(f"its header promises {promised:,} bytes, and a file of {size:,} bytes holds {most:,} at most")


def _check_grid(affine: NDArray[np.float64]) -> None:
    """The grid lies somewhere in space, and its voxels are of a size that a scanner could make."""
    if not np.isfinite(affine).all():
        raise ValueError("its header says no finite position in space (affine)")
    side_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((side_mm >= VOXEL_MM[0]) & (side_mm <= VOXEL_MM[1])).all():
        sizes = " x ".join(f"{side:.3g}" for side in side_mm)
        raise ValueError(f"its header says voxels of {sizes} mm; {VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} can be")
    if abs(np.linalg.det(affine[:3, :3] / side_mm)) < FLATTEST:
        raise ValueError("its header says axes that lie in one plane (affine)")
