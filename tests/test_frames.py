"""The film of a test case: which slices it shows, what is drawn on them, and what happens where there is no room."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from server.cases_section import cases
from server.digest import read_run
from server.frames import WIDE, _outline, film_of, frames_of
from server.slices import Slices
from tests.test_report import NORTH, record_rows, result_matrix, write_folder, write_slices


def case(deep: int = 40, marked: slice = slice(0), predicted: slice = slice(0)) -> Slices:
    """8 x 8 x `deep` voxels of which the label marks the left half of some axial slices, the prediction that of others."""
    label, prediction = np.zeros((2, 8, 8, deep), np.uint8)
    label[:4, :, marked] = prediction[:4, :, predicted] = 1
    image = np.linspace(0, 1, deep, dtype=np.float32) * np.ones((8, 8, 1), np.float32)
    return Slices(site="a", case="b", when="c", image_XYZ=image, label_XYZ=label, prediction_XYZ=prediction,
                  spacing=(1, 1, 1), classes=("organ",), dice=(0.5,))  # fmt: skip


def test_the_frames_surround_what_label_and_prediction_mark():
    assert frames_of(case(40, slice(10, 13), slice(14, 15))) == tuple(range(8, 17))  # 10 to 14 with two on each side
    assert frames_of(case(40, slice(0, 2))) == (0, 1, 2, 3)  # there is nothing below 0
    assert frames_of(case(5)) == (0, 1, 2, 3, 4)  # nothing is marked: all of them
    many = frames_of(case(100))
    assert len(many) == 24 and (many[0], many[-1]) == (0, 99) and set(np.diff(many)) == {4, 5}


def test_an_outline_is_the_edge_of_a_mask_and_of_the_picture():
    mask = np.zeros((9, 9), bool)
    mask[:, :7] = True
    expected = mask.copy()
    expected[2:7, 2:5] = False
    assert (_outline(mask) == expected).all()


def test_a_frame_shows_the_label_on_the_left_and_the_prediction_on_the_right():
    film = film_of(case(40, slice(10, 13), slice(11, 12)), {"organ": "#ff0000"})
    picture = imread(io.BytesIO(film.webp), format="webp").astype(int)
    assert picture.shape[:2] == (film.tall * 5 + film.tall * 2, 2 * WIDE) and film.slices == tuple(range(8, 15))

    def reddest(slice_: int, left: bool) -> int:
        frame = picture[film.slices.index(slice_) * film.tall :][4 : film.tall - 4]
        half = frame[:, 4 : WIDE - 4] if left else frame[:, WIDE + 4 : -4]  # colours run a little
        assert not (half[..., 0] - half[..., 2] > 60)[:, WIDE // 2 + 8 :].any()  # nothing is drawn beside the mask
        return int((half[..., 0] - half[..., 2]).max())

    assert reddest(10, left=True) > 60 > reddest(10, left=False)
    assert reddest(11, left=True) > 60 and reddest(11, left=False) > 60
    assert reddest(9, left=True) < 60


def test_a_slider_says_which_slices_it_goes_through_and_is_hidden_without_a_script(tmp_path: Path):
    document = cases(read_run(write_folder(tmp_path, record_rows(), result_matrix())))
    assert document.count('<div class="scroller" hidden>') == 4
    places = " ".join(str(z) for z in range(6 + 1, 24 + 2))  # the label is at 8 to 22 of 30, counted from 0
    assert f'data-slices="{places}" data-of="30"' in document and '<input type="range" min="0" max="18" value="9"' in document
    assert len(document) < 2_000_000


def test_planes_come_before_films_where_there_is_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_folder(tmp_path, record_rows(1), None, slices=False)
    for name in ("one", "two"):
        write_slices(folder, NORTH, name)
    run = read_run(folder)
    whole = cases(run)
    planes = len(whole[whole.index("<figure") : whole.index('<div class="scroller')])
    film = len(whole[whole.index('<div class="scroller') : whole.index("<p class=soft>")])
    monkeypatch.setattr("server.cases_section.SLICES_ROOM", 2 * planes + film + 2000)
    document = cases(run)
    assert (document.count("<figure>"), document.count('class="scroller"')) == (2, 1)
    monkeypatch.setattr("server.cases_section.SLICES_ROOM", planes + 2000)
    document = cases(run)
    assert "1 of 2 cases are shown." in document and 'class="scroller"' not in document
