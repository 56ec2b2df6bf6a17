"""The sentence at the top of a study's report: who won, by how much, and whether that is more than noise."""

from collections.abc import Mapping, Sequence

from simulations.studies.noise import ALPHA, FEWEST
from simulations.studies.scales import scale, shown, shown_p
from simulations.studies.statistics import Difference, Outcome, differences, summaries


def verdict(outcomes: Sequence[Outcome], metric: str, reference: str) -> str:
    """One sentence about the variant that differs from `reference` most to the better, run by run.

    A winner is more than noise after Holm's correction over all variants, so that of studies without any difference about
    one in twenty names one. Bounds do not compete. Where some variants have runs enough and others have not, it is about the
    former, and the others are named. A winner was chosen because it looked best, so its lead is a little rosy; those that
    it cannot be told from are named too.

    Raises:
        ValueError: an unknown metric, no run of the reference, or two runs of one seed and order.
    """
    better = 1 if scale(metric).higher else -1
    against = {name: one for name, one in differences(outcomes, metric, reference).items() if one.pairs}
    if not against:
        return _alone(outcomes, metric, reference)
    judged, first = _judged(against), leader(against, metric)
    lead = judged[first]
    said = _said(first, lead, better * lead.mean, metric, reference)
    if lead.clear and better * lead.mean > 0:
        said += _rivals(differences(outcomes, metric, first), reference, first)
    if unsaid := [name for name in against if name not in judged]:
        said += f"; too few runs to say of {_listed(unsaid)}"
    return f"{said}."


def leader(against: Mapping[str, Difference], metric: str) -> str:
    """Who differs from the reference most to the better, of those with runs enough if there are any; all have a pair.

    One that is better beyond noise comes before one that looks better still.
    """
    better, judged = 1 if scale(metric).higher else -1, _judged(against)

    def merit(name: str) -> tuple[bool, float]:
        gain = better * judged[name].mean
        return judged[name].clear and gain > 0, gain

    return max(judged, key=merit)  # the first by name among equals


def _judged(against: Mapping[str, Difference]) -> Mapping[str, Difference]:
    return {name: one for name, one in against.items() if one.enough} or against


def _said(first: str, lead: Difference, gain: float, metric: str, reference: str) -> str:
    """The sentence's main part; `gain` is above 0 where `first` is better."""
    evidence = _evidence(lead, metric)
    if not lead.enough:
        so_far = "is level with" if gain == 0 else "is ahead of" if gain > 0 else "is behind"
        return f"Too few runs to say: {first} {so_far} {reference}, {evidence}; {FEWEST} seeds (or orders) are needed"
    if lead.low == lead.high == 0:
        return f"A tie: {first} and {reference} are level in every run, {evidence}"
    if lead.clear:
        won = f"{first} won over {reference}" if gain > 0 else f"{reference}, the reference, won over {first}, the next best"
        return f"{won}, {evidence}, which is more than noise{_tried(lead)}"
    doubt = "which may be noise"
    if lead.p_here <= ALPHA:
        doubt = f"which is more than noise in the {_count(lead.orders, 'order')} tried, and may be noise in others"
    looks = f"{first} looks better than {reference}, but not surely"
    ahead = looks if gain > 0 else f"{first} comes nearest to {reference}, the reference"
    return f"No winner: {ahead}, {evidence}, {doubt}"


def _tried(lead: Difference) -> str:
    """Of what a result speaks that was repeated over seeds only, or over orders only."""
    if lead.orders == 1:
        return " in the 1 order tried"
    return " with the 1 seed tried" if lead.seeds == 1 else ""


def _evidence(lead: Difference, metric: str) -> str:
    """What the sentence stands on."""
    unit = f" {scale(metric).unit}" if scale(metric).unit else ""
    runs = f"{_count(lead.pairs, 'pair')}: {_count(lead.seeds, 'seed')}, {_count(lead.orders, 'order')}"
    if lead.enough:
        low, high = shown(lead.low, metric, sign=True), shown(lead.high, metric, sign=True)
        runs = f"95 % {low} to {high}; Holm's p {shown_p(lead.p)}; {runs}"
    return f"{metric} {shown(lead.mean, metric, sign=True)}{unit} ({runs})"


def _rivals(against_first: Mapping[str, Difference], reference: str, first: str) -> str:
    """Whom the winner cannot be told from; those with too few runs are named elsewhere."""
    level = [name for name, one in against_first.items() if name != reference and one.enough and not one.clear]
    return f"; {first} cannot be told from {_listed(level)}" if level else ""


def _alone(outcomes: Sequence[Outcome], metric: str, reference: str) -> str:
    """Without any pair there is nothing to compare."""
    ours = summaries(outcomes, metric)[reference]
    what = f"{reference} has {metric} {shown(ours.mean, metric)} over {_count(ours.n, 'run')}"
    return f"Nothing to compare: {what}, and no other variant has a run of the same seed and order."


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
