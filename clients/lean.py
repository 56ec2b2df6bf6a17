"""MONAI and torch's compiler, without what they would bring along and nobody here asks them for.

`import monai` tries every optional package that it can find, plots, web requests and signal processing among them: half of its
time. Torch's optimizers load its compiler, and that loads what shards a model over machines. For the moment of these imports
such packages are as if they were not installed, which both allow for; afterwards they are there again for anybody else, but
not for the parts of MONAI that would use them. So this is for our own programs (run_sim.py, clients/app.py): who imports
SiteStream's modules in a program of their own gets the whole MONAI.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

UNUSED = ("matplotlib", "scipy.signal", "jsonschema", "tensorboard", "requests", "torch.distributed.fsdp")
"""Nothing that clients/ takes from MONAI or torch needs them; nibabel and scipy.ndimage it does need."""


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """As if these packages were not installed, but for those that are imported already."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]  # None is Python's own word for it
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def import_lean(*modules: str) -> None:
    """Import these without UNUSED."""
    with absent(*UNUSED):
        for module in modules:
            import_module(module)
