"""Procedural abdomens: which tissue is where in one pretend patient.

Organs are placed in coordinates of the body cavity (u to the right, v to the front, w to the head, each -1..1), so
they stay inside whatever the patient's build; smooth random fields warp these coordinates, and every organ has its own
size, place and tilt. No anatomist would be fooled, but an organ has neighbours of its own brightness.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

LABELS = {"liver": 1, "spleen": 2, "kidney": 3, "pancreas": 4, "aorta": 5, "liver_tumor": 6}
"""Class -> value in a complete label file; the whole liver is [1, 6]."""
TISSUES = (
    "air", "lung", "gas", "fat", "muscle", "bone", "marrow", "disc", "csf", "fluid", "bowel", "vein",
    "liver", "spleen", "kidney", "medulla", "pancreas", "aorta", "liver_tumor", "rim",
)  # fmt: skip
TUMOUR_SHARE = 0.7
"""Share of the patients who have liver lesions."""

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Space:
    """One patient's body: coordinates and build."""

    uvw: Field
    """[3, X, Y, Z] warped coordinates of the body cavity."""
    depth: Field
    """1 at the skin, 0 in the middle."""
    muscle: float
    """Depth at which fat turns into the muscular wall."""
    cavity: float
    """Depth at which the wall turns into the cavity."""
    rough: Field
    """Fine bumps of unit deviation, for the organs' surfaces."""


@dataclass(frozen=True)
class Canvas:
    """The patient while being drawn: later strokes cover earlier ones. A tissue that is a class is labelled too."""

    tissue: NDArray[np.uint8]
    label: NDArray[np.uint8]

    def paint(self, where: Mask, tissue: str) -> None:
        """Lay a tissue over whatever was there."""
        self.tint(where, tissue)
        self.label[where] = LABELS.get(tissue, 0)

    def tint(self, where: Mask, tissue: str) -> None:
        """Another tissue within the same organ: the label stays."""
        self.tissue[where] = TISSUES.index(tissue)


def draw_patient(shape: tuple[int, int, int], rng: Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Tissue map (indices into TISSUES) and label (LABELS), each [X, Y, Z] in RAS+."""
    space = _body(shape, rng)
    canvas = Canvas(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
    liver, inside = _liver(space, rng), space.depth < space.cavity
    _paint_wall(canvas, space, rng)
    _paint_lungs_and_bowel(canvas, space, rng, liver)
    _paint_spleen_and_stomach(canvas, space, rng, inside)
    canvas.paint(inside & (liver < 1), "liver")
    _paint_liver_inside(canvas, space, rng, liver)
    _paint_kidneys(canvas, space, rng)
    _paint_middle(canvas, space, rng)
    _paint_spine(canvas, space, rng)
    return canvas.tissue, canvas.label


# Shapes ---------------------------------------------------------------------------------------------------------------


def smooth_field(shape: tuple[int, ...], waves: int, rng: Generator) -> Field:
    """A random field of unit deviation: cosines of up to `waves` half-waves along each axis."""
    weights = rng.standard_normal((waves + 1,) * 3)
    weights[0, 0, 0] = 0
    bases = [np.cos(np.pi * np.outer((np.arange(n) + 0.5) / n, np.arange(waves + 1))) for n in shape]
    field = np.einsum("abc,xa,yb,zc->xyz", weights, *bases, optimize=True)
    return (field / max(float(field.std()), 1e-6)).astype(np.float32)


def ball(p: Field, centre: Vector, radii: Vector, rng: Generator) -> Field:
    """Distance from the middle of an ellipsoid of the patient's own place, size and tilt: 1 on its surface."""
    middle = np.asarray(centre) + rng.normal(0, 0.025, 3)
    size = np.asarray(radii) * np.exp(rng.normal(0, 0.09, 3))
    matrix = Rotation.from_rotvec(rng.normal(0, 0.14, 3)).as_matrix() / size[:, None]
    offset = (matrix @ middle).astype(np.float32)
    turned = np.einsum("ij,jxyz->ixyz", matrix.astype(np.float32), p) - offset[:, None, None, None]
    return np.sqrt(np.einsum("ixyz,ixyz->xyz", turned, turned))


def blend(parts: Sequence[Field], sharp: float = 7.0) -> Field:
    """Balls melted into one another (metaballs): 1 on the common surface."""
    melted: Field = -np.log(np.sum([np.exp(-sharp * part) for part in parts], axis=0)) / np.float32(sharp)
    return melted


def tube(p: Field, path_K3: NDArray[np.float64], radii_K: NDArray[np.float64]) -> Field:
    """Distance from a path of K points over its local radius: 1 on the surface of a tube."""
    fine, coarse = np.linspace(0, 1, 14), np.linspace(0, 1, len(path_K3))
    points = np.stack([np.interp(fine, coarse, axis) for axis in path_K3.T], 1).astype(np.float32)
    widths = np.interp(fine, coarse, radii_K).astype(np.float32)
    nearest = np.full(p.shape[1:], np.inf, np.float32)
    for point, width in zip(points, widths, strict=True):
        u, v, w = (p[axis] - point[axis] for axis in range(3))
        np.minimum(nearest, (u * u + v * v + w * w) / width**2, out=nearest)
    return np.sqrt(nearest)


# The patient ----------------------------------------------------------------------------------------------------------


def _body(shape: tuple[int, int, int], rng: Generator) -> Space:
    """Build (slim to stout), posture, and the warp that all organs share."""
    p = np.stack(np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij"))
    turn = Rotation.from_euler("zyx", rng.normal(0, (0.07, 0.05, 0.05))).as_matrix().astype(np.float32)
    p = np.einsum("ij,jxyz->ixyz", turn, p)
    p += 0.025 * np.stack([smooth_field(shape, 3, rng) for _ in range(3)])
    stout = rng.uniform(0, 1)
    width, height = 0.84 + 0.1 * stout + rng.normal(0, 0.02), 0.72 + 0.2 * stout + rng.normal(0, 0.02)
    power = rng.uniform(2.2, 2.8)
    x, y = np.abs(p[0] / width), np.abs((p[1] + 0.02) / height)
    depth = (x**power + y**power) ** np.float32(1 / power)
    muscle = 1 - (0.04 + 0.13 * stout * rng.uniform(0.6, 1.2))
    cavity = muscle - rng.uniform(0.07, 0.11)
    uvw = np.stack([p[0] / (width * cavity), (p[1] + 0.02) / (height * cavity), p[2] + rng.normal(0, 0.05)])
    uvw += 0.035 * np.stack([smooth_field(shape, 5, rng) for _ in range(3)])
    return Space(uvw.astype(np.float32), depth, muscle, cavity, smooth_field(shape, 9, rng))


def _liver(space: Space, rng: Generator) -> Field:
    """Right lobe, dome and a left lobe of varying length across the midline."""
    reach = rng.uniform(-0.12, 0.1)
    lobes = [
        ball(space.uvw, (0.52, 0.02, 0.16), (0.40, 0.66, 0.50), rng),
        ball(space.uvw, (0.42, 0.12, 0.42), (0.46, 0.58, 0.30), rng),
        ball(space.uvw, (0.02 - reach, 0.50, 0.36), (0.44, 0.30, 0.24), rng),
    ]
    return blend(lobes) + 0.02 * space.rough


def _paint_wall(canvas: Canvas, space: Space, rng: Generator) -> None:
    """Skin fat, muscle, ribs, and the fat between organs."""
    canvas.paint(space.depth < 1, "fat")
    canvas.paint(space.depth < space.muscle, "muscle")
    canvas.paint(space.depth < space.cavity, "fat")
    across = (space.depth - space.cavity) / (space.muscle - space.cavity)
    u, v, w = space.uvw
    phase = (w - 0.75 * v) / 0.36 + rng.uniform()  # ribs run down towards the front
    rib = (np.cos(2 * np.pi * phase) > 0.3) & (np.abs(across - 0.45) < 0.4) & (w > -0.2 - 0.4 * v) & (np.abs(u) > 0.28)
    canvas.paint(rib, "bone")


def _paint_lungs_and_bowel(canvas: Canvas, space: Space, rng: Generator, liver: Field) -> None:
    u, v, w = space.uvw
    inside = space.depth < space.cavity
    dome = rng.uniform(0.68, 0.82) - 0.36 * (u**2 + v**2) + 0.04 * u
    canvas.paint(inside & (w > dome - 0.09) & (liver > 1.0), "muscle")  # the diaphragm
    canvas.paint(inside & (w > dome) & (liver > 1.08), "lung")
    loops, filling = smooth_field(u.shape, 8, rng), smooth_field(u.shape, 6, rng)
    where = inside & (w < -0.02 + 0.15 * loops) & (v > -0.25) & (loops > -0.35)
    canvas.paint(where, "bowel")
    canvas.paint(where & (filling > 0.9) & (loops > 0), "fluid")
    canvas.paint(where & (filling < -1.1) & (loops > 0.2) & (v > 0), "gas")


def _paint_spleen_and_stomach(canvas: Canvas, space: Space, rng: Generator, inside: Mask) -> None:
    """A stomach with a bubble of gas at its front, and a crescent of a spleen behind it."""
    v = space.uvw[1]
    fundus = ball(space.uvw, (-0.42, 0.22, 0.30), (0.30, 0.36, 0.30), rng)
    stomach = blend([fundus, ball(space.uvw, (-0.16, 0.42, 0.02), (0.28, 0.22, 0.16), rng)])
    canvas.paint(inside & (stomach < 1), "bowel")
    canvas.paint(inside & (stomach < 0.86), "fluid" if rng.random() < 0.5 else "bowel")
    canvas.paint(inside & (stomach < 0.86) & (v > rng.uniform(0.3, 0.5)), "gas")
    spleen = ball(space.uvw, (-0.70, -0.36, 0.26), (0.26, 0.42, 0.36), rng) + 0.025 * space.rough
    hollow = ball(space.uvw, (-0.42, -0.20, 0.24), (0.24, 0.34, 0.36), rng)
    canvas.paint(inside & (spleen < 1.08) & (hollow > 0.92), "fat")
    canvas.paint(inside & (spleen < 1) & (hollow > 1), "spleen")


def _paint_liver_inside(canvas: Canvas, space: Space, rng: Generator, liver: Field) -> None:
    """Vessels (part of the liver), the gallbladder, and in most patients one to three lesions."""
    organ = canvas.label == LABELS["liver"]
    one, two = smooth_field(liver.shape, 6, rng), smooth_field(liver.shape, 6, rng)
    canvas.tint(organ & (liver < 0.9) & (np.hypot(one, two) < 0.2), "vein")
    canvas.paint(ball(space.uvw, (0.34, 0.40, -0.14), (0.11, 0.15, 0.17), rng) < 1, "fluid")
    places = np.argwhere(organ & (liver < 0.8))
    sick, count = rng.random() < TUMOUR_SHARE, int(rng.integers(1, 4))
    for _ in range(count if sick and len(places) else 0):
        centre = space.uvw[(slice(None), *rng.choice(places))]
        size = rng.uniform(0.10, 0.26) * np.exp(rng.normal(0, 0.15, 3))
        lesion = ball(space.uvw, tuple(centre), tuple(size), rng) + 0.13 * space.rough
        where = (canvas.label == LABELS["liver"]) & (lesion < 1)
        canvas.paint(where, "liver_tumor")
        canvas.tint(where & (lesion > 0.82), "rim")


def _paint_kidneys(canvas: Canvas, space: Space, rng: Generator) -> None:
    """Two beans in fat, the right one lower, with medulla and an open side towards the spine."""
    for side, height in ((1, -0.34), (-1, -0.16)):
        bean = ball(space.uvw, (side * 0.46, -0.56, height), (0.20, 0.25, 0.36), rng) + 0.02 * space.rough
        hilum = ball(space.uvw, (side * 0.27, -0.48, height), (0.13, 0.13, 0.16), rng)
        canvas.paint((bean < 1.2) & (space.depth < space.cavity), "fat")
        canvas.paint((bean < 1) & (hilum > 1) & (space.depth < space.cavity), "kidney")
        canvas.tint((bean < 0.6) & (hilum > 1), "medulla")
        canvas.tint((bean < 0.9) & (hilum > 0.85) & (hilum <= 1), "fluid")


def _paint_middle(canvas: Canvas, space: Space, rng: Generator) -> None:
    """The pancreas, arched over the great vessels, then the vessels themselves."""
    path = ((0.26, 0.04, -0.26), (0.20, 0.08, -0.08), (-0.02, 0.14, 0.02), (-0.28, 0.02, 0.06), (-0.52, -0.16, 0.14))
    own = rng.normal(path, 0.025) + np.array((0, 0, rng.uniform(-0.06, 0.06)))
    widths = rng.uniform(0.85, 1.2) * np.array((0.17, 0.15, 0.11, 0.12, 0.10))
    pancreas = tube(space.uvw, own, widths) + 0.08 * space.rough
    canvas.paint(pancreas < 1.15, "fat")
    canvas.paint(pancreas < 1, "pancreas")
    u, v, w = space.uvw
    sway = rng.normal(0, 0.025, 4).astype(np.float32)
    wide = rng.uniform(0.10, 0.13)
    vein = np.hypot((u - 0.15 - sway[0] * w) / 1.35, v + 0.36 - sway[1]) / (0.9 * wide)
    aorta = np.hypot(u + 0.11 + sway[2] * w, v + 0.38 + 0.06 * w + sway[3] * w * w) / (wide * (1 + 0.12 * w))
    canvas.paint(vein < 1, "vein")
    canvas.paint(aorta < 1, "aorta")


def _paint_spine(canvas: Canvas, space: Space, rng: Generator) -> None:
    """Vertebrae and discs, the canal, processes, and the muscles beside them."""
    u, v, w = space.uvw
    within, side = space.depth < space.muscle, np.abs(u)
    long = np.hypot((side - 0.24) / 0.22, (v + 0.98) / 0.16)
    psoas = np.hypot((side - 0.26) / (0.10 - 0.08 * np.minimum(w, 1)), (v + 0.72) / 0.14)
    canvas.paint(within & (np.minimum(long, psoas) < 1) & (canvas.label == 0), "muscle")
    body = np.hypot(u / 0.20, (v + 0.68) / 0.19)
    phase = np.mod(w / 0.33 + rng.uniform(), 1)
    canvas.paint(body < 1, "bone")
    canvas.tint((body < 0.82) & (phase > 0.1) & (phase < 0.68), "marrow")
    canvas.tint((body < 0.95) & (phase > 0.78), "disc")
    back = (np.hypot(u / 0.15, (v + 0.95) / 0.13) < 1) | ((side < 0.05) & (v < -0.9) & (phase < 0.6))
    wings = (np.abs(v + 0.98) < 0.05) & (side < 0.34) & (phase > 0.2) & (phase < 0.45)
    canvas.paint(within & (body >= 1) & (back | wings), "bone")
    canvas.paint(np.hypot(u / 0.085, (v + 0.94) / 0.075) < 1, "csf")
