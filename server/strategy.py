"""The strategy that a recipe names."""

from dataclasses import replace

from configs.schema import Run
from strategies import Strategy, make_strategy
from strategies.fits import why_not_private


def strategy_of(run: Run, secret: bytes = b"") -> Strategy:
    """The server's half of a run's strategy; without a secret, one with privacy can be looked at and merges nothing.

    Raises:
        ValueError: a choice is unknown, or the choices do not fit.
    """
    choices, privacy = run.strategy, run.strategy.privacy
    strategy = make_strategy(choices.merge, choices.weigh, choices.share, choices.merge_args, choices.objective)
    if privacy is None:
        return strategy
    if reason := why_not_private(strategy, choices.merge, choices.weigh, choices.share, choices.objective):
        raise ValueError(f"strategy.privacy: {reason}")
    from strategies.private import Private  # Flower takes a second to import

    facts = (privacy.noise, privacy.clip, privacy.sites, privacy.delta, secret)
    return replace(strategy, merge_rule=Private(strategy.merge_rule, *facts))
