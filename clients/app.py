"""The Flower ClientApp of a site, all in one process, as under Ray; at a real hospital clients/door.py stands before it.

Its node config names the site (`site-name`), its folder (`site-folder`) and where its settings are: `site-file`, a YAML
file on the hospital's own disk, or, in a simulation, the entry that the run's config embeds. The run config's `config`
is the recipe.
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.lean import import_lean

# The compiler and the inferers: else the first optimizer and the first evaluation import them, 2 s in a site's first round.
import_lean("torch._dynamo", "monai.inferers")

from clients.heap import keep_freed_memory
from clients.work import Site
from configs.bundle import recipe_path
from configs.load import load_run, load_site
from configs.schema import Run
from packing import pack_reply, unpack_order

keep_freed_memory()

app = ClientApp()
LOG = logging.getLogger("sitestream")


@app.query()
@app.train()
@app.evaluate()
def answer(message: Message, context: Context) -> Message:
    """Unpack the order, do it, pack the reply. What goes wrong is raised and reaches the server as an error."""
    facts = context.node_config
    recipe = recipe_path(str(context.run_config.get("config", "configs/quickstart.yaml")))
    short = bool(facts.get("short-of-memory"))  # a simulation's word: the last process was ended for it
    return Message(done(message.content, lambda: _site(context, recipe), bool(facts.get("site-file")), short), reply_to=message)


def done(content: RecordDict, site: Callable[[], Site], discreet: bool, short: bool = False) -> RecordDict:
    """What a site gives for an order: the contents of two messages. `short`: see `Site.answer`.

    A hospital's own words name its cases and paths, so a `discreet` site, one with a file of its own, lets only the kind of an
    error leave; its context (`__context__`) is the error itself.
    """
    order, weights = unpack_order(content)
    LOG.info("%s, round %d of run %s", order.task, order.round, order.run)
    try:
        return pack_reply(site().answer(order, weights, short))
    except Exception as error:
        if not discreet:
            raise
        LOG.exception("the order (%s, round %d) could not be done", order.task, order.round)
        raise RuntimeError(f"{type(error).__name__} at the site; its own log says more") from None


def make_site(name: str, folder: Path, site_file: Path | None, run: Run) -> Site:
    """The site that a node config describes; raises ValueError if nobody says what its settings are."""
    if site_file is None and name not in run.sites:
        raise ValueError(f"site {name!r} has no site file, and the recipe does not embed one")
    return Site(name, load_site(site_file) if site_file else run.sites[name], run, folder)


def _site(context: Context, recipe: Path) -> Site:
    facts = context.node_config
    for key in ("site-name", "site-folder"):
        if key not in facts:
            raise ValueError(f"the node config lacks {key!r} (flower-supernode --node-config)")
    return _open(str(facts["site-name"]), str(facts["site-folder"]), str(facts.get("site-file", "")), str(recipe))


@lru_cache(maxsize=256)
def _open(name: str, folder: str, site_file: str, config: str) -> Site:
    return make_site(name, Path(folder), Path(site_file) if site_file else None, _recipe(config))


@lru_cache(maxsize=4)
def _recipe(config: str) -> Run:
    """Read once for all sites that a process serves: of a thousand sites the recipe is a long file."""
    return load_run(Path(config))
