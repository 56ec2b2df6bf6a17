"""The Flower ClientApp of a site: the same under Ray and at a real hospital.

Its node config names the site (`site-name`), its folder (`site-folder`) and where its settings are: `site-file`, a YAML
file on the hospital's own disk, or, in a simulation, the entry that the run's config embeds. The run config's `config`
is the recipe.
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import logging
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.heap import keep_freed_memory
from clients.work import Site
from configs.load import load_run, load_site
from packing import pack_reply, unpack_order

for module in ("torch._dynamo", "monai.inferers"):
    import_module(module)  # else the first optimizer and the first evaluation do: 2 s in the middle of a site's first round

keep_freed_memory()

app = ClientApp()
LOG = logging.getLogger("sitestream")


@app.query()
@app.train()
@app.evaluate()
def answer(message: Message, context: Context) -> Message:
    """Unpack the order, do it, pack the reply. What goes wrong is raised and reaches the server as an error.

    A hospital's own words name its cases and paths, so from a site with a file of its own only the kind of error leaves.
    """
    order, weights = unpack_order(message.content)
    try:
        short = bool(context.node_config.get("short-of-memory"))  # a simulation's word: the last process was ended for it
        return Message(pack_reply(_site(context).answer(order, weights, short)), reply_to=message)
    except Exception as error:
        if not context.node_config.get("site-file"):
            raise
        LOG.exception("the order (%s, round %d) could not be done", order.task, order.round)
        raise RuntimeError(f"{type(error).__name__} at the site; its own log says more") from None


def _site(context: Context) -> Site:
    facts = context.node_config
    for key in ("site-name", "site-folder"):
        if key not in facts:
            raise ValueError(f"the node config lacks {key!r} (flower-supernode --node-config)")
    return _open(str(facts["site-name"]), str(facts["site-folder"]), str(facts.get("site-file", "")), _recipe(context))


def _recipe(context: Context) -> str:
    return str(context.run_config.get("config", "configs/quickstart.yaml"))


@lru_cache(maxsize=256)
def _open(name: str, folder: str, site_file: str, config: str) -> Site:
    run = load_run(Path(config))
    if not site_file and name not in run.sites:
        raise ValueError(f"site {name!r} has no site file, and {config} does not embed one")
    site = load_site(Path(site_file)) if site_file else run.sites[name]
    return Site(name, site, run, Path(folder))
