"""What a site keeps from round to round although the server may never hear of the round.

An update may be late, refused or too few to be merged. The site has then moved on and the server has not, so both are
kept: the new value with its round, and the one that the server has. The next order says which round was merged last.
"""

import numpy as np

from clients.model import Weights

NEW, MERGED, ROUND = "new|", "merged|", "round"


def kept(new: Weights, merged: Weights, round: int) -> Weights:
    """Both values as one set of tensors: that of this round, and the last one that the server is known to have."""
    both = {prefix + name: tensor for prefix, tensors in ((NEW, new), (MERGED, merged)) for name, tensor in tensors.items()}
    return {**both, ROUND: np.array(round, np.int64)}


def merged(kept: Weights, round: int) -> Weights:
    """The value that the server has, which last merged this round of the site's; nothing if it has none."""
    prefix = NEW if kept and int(kept[ROUND]) == round else MERGED
    return {name.removeprefix(prefix): tensor for name, tensor in kept.items() if name.startswith(prefix)}
