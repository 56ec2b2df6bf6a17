"""What the federation does when something goes wrong, as a config says it."""

from typing import Literal

from pydantic import Field

from configs.site import Strict


class Faults(Strict):
    """What the run does when a site cannot do its round."""

    on_failure: Literal["continue", "stop"] = "continue"
    """continue: the round goes on without the site; stop: the run stops there, and `resume` begins that round anew."""
    quorum: float = Field(0.0, ge=0, le=1)
    """Share of the sites asked whose updates a merge needs: with fewer the model stays as it was (or the run stops)."""
