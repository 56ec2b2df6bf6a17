"""How much an update counts."""

from strategies.base import Update

LEAST = 1e-3
"""Uniqueness of a site all of whose samples others hold too: what it trained on still counts."""


def draws(update: Update) -> float:
    """By what the site trained on, replay included: the federated-averaging weight of a stream."""
    return float(update.draws)


def equal(update: Update) -> float:
    """Every site that trained counts alike."""
    return 1.0 if update.draws else 0.0


def uniqueness(update: Update) -> float:
    """By what the site trained on, discounted where it remembers what other sites remember too; never to nothing."""
    return update.draws * max(update.uniqueness, LEAST)
