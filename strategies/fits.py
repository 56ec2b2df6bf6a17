"""Which choices make no sense together, and why."""

from strategies.strategy import Strategy


def why_not(merge: str, weigh: str, share: str, objective: str, strategy: Strategy) -> str | None:
    """Why these choices cannot be combined, in the user's words; None if they can."""
    rule, owned = strategy.merge_rule, strategy.share
    alone = rule.turns(["a", "b"]) != [["a", "b"]]
    if "body" in owned.home and (merge != "average" or strategy.half):
        idle = f"merge {merge}" if merge != "average" else f"objective {objective}"
        return f"share {share} leaves every site alone with its model: there is nothing for {idle} to do"
    if weigh == "uniqueness" and not getattr(rule, "weighs", True):
        return f"merge {merge} weighs no updates, so weigh uniqueness would change nothing"
    if strategy.half and rule.min_present > 1:
        return f"objective {objective} tells everybody what any site says beside its update: merge {merge} does not filter that"
    if owned.by_rows and not getattr(rule, "by_rows", True):
        return f"merge {merge} takes a site's update whole or not at all, share {share} takes it row by row"
    if "head" in owned.home and objective == "condist":
        return f"objective condist learns other sites' classes from the incoming head, and with share {share} no head comes in"
    if alone and objective == "scaffold":
        return f"objective scaffold mends the drift between sites that train side by side; with merge {merge} they never do"
    return None


def why_not_private(strategy: Strategy, merge: str, weigh: str, share: str, objective: str) -> str | None:
    """Why the updates of a strategy cannot be noised (strategies.private), in the user's words; None if they can."""
    alone = strategy.turns(["a", "b"]) != [["a", "b"]]
    if alone or strategy.min_present > 1:
        taken = "one site at a time" if alone else "several updates"
        return f"it hands the merge one noised mean, and merge {merge} takes {taken}; average, say, can do with it"
    if weigh != "equal":
        return f"weigh must be equal, not {weigh}: what a site weighs would tell of its cases, and how far it moves the mean"
    if strategy.share.by_rows:
        return f"share {share} averages a head row over fewer sites than the noise is made for: one would move it by too much"
    if strategy.half:
        return f"objective {objective} sends tensors of its own beside the update, which nobody clips and noises"
    return None
