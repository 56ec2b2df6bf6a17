"""Which test cases a site keeps for the eye: those that the model sees worst."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from clients.slices import Worst

VOLUME: Any = SimpleNamespace(image_XYZ=np.zeros((2, 2, 2), np.float16), spacing=(1.0, 1.0, 1.0))
MASK = np.ones((2, 2, 2, 2), bool)


def rows(*dice: float | None) -> list[dict[str, Any]]:
    return [{"class": f"c{i}", "dice": value} for i, value in enumerate(dice)]


def test_the_worst_are_kept_by_their_mean_over_measured_classes_and_of_equals_the_first(tmp_path):
    worst = Worst(2)
    told = {"fair": rows(0.4, 0.8), "bad": rows(0.2, None), "as bad": rows(0.1, 0.3), "nothing": rows(None, None)}
    for name, some in told.items():
        worst.add(name, VOLUME, MASK, MASK, some)
    assert [case.name for case in worst.cases] == ["bad", "as bad"]
    worst.write(tmp_path / "slices", 3)
    with np.load(tmp_path / "slices" / "bad.npz") as kept:
        assert (kept["dice"][0], np.isnan(kept["dice"][1]), str(kept["when"])) == (0.2, True, "after round 3")
        assert (kept["label_XYZ"] == 3).all()


def test_a_later_evaluation_leaves_only_its_own(tmp_path):
    for name in ("before", "now"):
        worst = Worst(1)
        worst.add(name, VOLUME, MASK, MASK, rows(0.5))
        worst.write(tmp_path, 1)
    assert [path.stem for path in tmp_path.iterdir()] == ["now"]


def test_fewer_cases_than_wanted_are_all_kept_even_those_without_a_class():
    worst = Worst(3)
    worst.add("nothing", VOLUME, MASK, MASK, rows(None))
    worst.add("perfect", VOLUME, MASK, MASK, rows(1.0))
    assert [case.name for case in worst.cases] == ["perfect", "nothing"]
