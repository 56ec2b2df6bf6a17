"""Sites whose node is lost in the middle of an order: for a while they are expected back, and then they are asked again.

Flower tells of the loss once a node's heartbeats have been missing for a minute, and never delivers an order twice. A
hospital's supervisor starts its SuperNode again within seconds; the order that it had is done anew from the same snapshot, to
the same reply.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from wire import Failure, Reply


@dataclass
class Away:
    """Who is expected back, once per order.

    Args:
        patience_s: for how long.
        clock: seconds.
    """

    patience_s: float
    clock: Callable[[], float] = time.monotonic
    since: dict[str, float] = field(default_factory=dict)
    """{site: when it was lost}, of those expected back."""
    _before: set[str] = field(default_factory=set)

    def held(self, answer: Reply | Failure) -> Reply | Failure:
        """The answer itself; of a site's first loss only the news, for it may come back."""
        if isinstance(answer, Reply) or answer.again or answer.kind != "lost" or answer.site in self._before:
            return answer
        self._before.add(answer.site)
        self.since[answer.site] = self.clock()
        return replace(answer, again=True, reason=f"{answer.reason} It is expected back within {self.patience_s:g} s.")

    def given_up(self) -> list[str]:
        """Sites that have not come back in time; they are expected no more."""
        late = [site for site, since in self.since.items() if self.clock() - since > self.patience_s]
        for site in late:
            del self.since[site]
        return late
