"""The report's section on test cases: three planes of each, and where there is room a slider through the axial slices."""

from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple

from server.digest import Digest
from server.frames import film_of
from server.home_section import withheld
from server.page import embed, number, section, swatch, text
from server.palette import class_colours
from server.slices import PLAIN, Slices, find_slices, read_slices, slice_figure

SLICES_ROOM = 1_800_000
"""Characters of embedded slices at most: the page stays under 3 MB."""
ABOUT = (
    "Each site's cases of the lowest Dice. Planes through the middle of the label; the patient's right is on the right. "
    "Beside a class: its Dice in the volume. The slider goes through the axial slices from below: on the left the label's "
    "outlines, on the right the prediction's."
)


class Card(NamedTuple):
    """A test case as HTML."""

    planes: str
    caption: str
    film: str

    def shown(self, film: bool) -> str:
        """The card, with its film if there is room for it."""
        return f"<div>{self.planes}{self.film if film else ''}{self.caption}</div>"


def cases(run: Digest) -> str:
    """The cases of which the sites kept slices, the first of every site before the second of any; nothing without any."""
    cards: list[Card] = []
    notes: list[str] = []
    room = SLICES_ROOM
    sites = list(run.sites) or list(run.matrix.sites)
    paths = find_slices(run.folder, [site for site in sites if "case_metrics" not in withheld(run, site)])
    for path in paths:
        try:
            card = _card(read_slices(path), class_colours(run))
        except ValueError as error:
            notes.append(f'<p class="soft">{text(error)}</p>')
            continue
        room -= len(card.shown(film=False))
        if room < 0:
            notes.append(f'<p class="soft">{len(cards)} of {len(paths)} cases are shown.</p>')
            break
        cards.append(card)
    if not cards and not notes:
        return ""
    shown = []
    for card in cards:  # films come after all planes: a case that cannot be seen at all is worse than one that holds still
        room -= len(card.film)
        shown.append(card.shown(film=room > 0))
    body = f'<p class="soft">{ABOUT}</p><div class="cases">{"".join(shown)}</div>{"".join(notes)}'
    return section("Test cases", body)


def _card(slices: Slices, tints: Mapping[str, str]) -> Card:
    """A test case: its three planes, its film, and the Dice of each class."""
    keys = [
        f'<span class="key">{swatch(tints.get(name, PLAIN))}{text(name)} {number(dice)}</span>'
        for name, dice in zip(slices.classes, slices.dice, strict=False)
    ]
    caption = f"<b>{text(slices.site)}</b>, case {text(slices.case)}, {text(slices.when)}<br>{' '.join(keys)}"
    alt = f"Test case {slices.case} of {slices.site}: image, label and prediction"
    return Card(embed(slice_figure(slices, tints), alt, pixels=True), f"<p class=soft>{caption}</p>", _scroller(slices, tints))


def _scroller(slices: Slices, tints: Mapping[str, str]) -> str:
    """A film and its slider, hidden until the page's script makes it move."""
    film = film_of(slices, tints)
    alt = f"Axial slices of test case {slices.case} of {slices.site}: label on the left, prediction on the right"
    source = f"data:image/webp;base64,{b64encode(film.webp).decode()}"
    places = " ".join(str(z + 1) for z in film.slices)
    slider = (
        f'<input type="range" min="0" max="{len(film.slices) - 1}" value="{len(film.slices) // 2}" '
        f'data-slices="{places}" data-of="{slices.image_XYZ.shape[2]}">'
    )
    screen = f'<div class="screen" style="aspect-ratio:{film.wide}/{film.tall}"><img src="{source}" alt="{text(alt)}"></div>'
    return f'<div class="scroller" hidden>{screen}<label>axial slice {slider}<output></output></label></div>'
