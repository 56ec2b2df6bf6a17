"""What a run is: `Run` (the recipe, the same everywhere) and, in configs.site, `SiteFile` (what a hospital keeps on its disk).

A simulation's YAML embeds its site files as `PretendSite`. The text under a field is its documentation.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from configs.arrivals import Arrivals as Arrivals
from configs.checks import problems
from configs.export import Export as Export
from configs.faults import Faults as Faults
from configs.memory import Index, Memory, Sketch
from configs.site import Gpus, Includes, PretendSite, Split, Strict, is_site_name
from configs.site import Phantoms as Phantoms
from configs.site import Selection as Selection
from configs.site import SiteFile as SiteFile
from configs.strategy import Privacy as Privacy
from configs.strategy import Strategy, Wire


class Data(Strict):
    """Where the simulated sites' data are."""

    root: Path | None = None
    """The data folder of sites that name none; relative to where the command runs."""
    split: Split = Split()
    """Train, validation and test of sites that name no split."""
    follow_links: bool = False
    """Whether data folders may hold links to files outside them, at sites that do not say it themselves."""


class Preprocess(Strict):
    """Done once per case, cached on the site's disk."""

    spacing: tuple[float, float, float] | None = None
    """Resample to so many millimetres; none: as scanned."""
    intensity: Literal["zscore", "percentile", "ct"] = "zscore"
    """Zero mean and unit deviation; 1st to 99th percentile to 0..1; or `window` to 0..1."""
    window: tuple[float, float] = (-175.0, 250.0)
    """Hounsfield units for `ct`."""
    crop: bool = True
    """Cut away the border that is no brighter than the volume's darkest voxel."""


class Model(Strict):
    """The shared network."""

    network: str = "UNet"
    """A name in clients.model.NETWORKS."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the MONAI network, e.g. {channels: [16, 32, 64], strides: [2, 2]}."""
    weights: Path | None = None
    """Initial weights (safetensors); none: drawn by the first site from the run's seed."""


class Augment(Strict):
    """Probability, per patch, of each augmentation; done in the batch, on the device."""

    flip: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Mirror along left-right, back-front, feet-head; off by default: sides are anatomy (liver left, anterior behind)."""
    affine: float = Field(0.2, ge=0, le=1)
    """Small rotation, scale and shear."""
    intensity: float = Field(0.3, ge=0, le=1)
    """Gain, shift, gamma and noise."""
    gin: float = Field(0.0, ge=0, le=1)
    """Random-convolution intensities (GIN; Ouyang et al., 2021, arXiv:2111.12525)."""


class Train(Strict):
    """How a site trains."""

    patch: tuple[int, int, int] = (64, 64, 64)
    """Voxels of a training patch."""
    batch: int = Field(2, ge=1)
    """Patches per step, B."""
    sampling_rate: int = Field(4, ge=0)
    """S, draws per newly arrived case: insert B cases, then S steps of batch B."""
    replay_steps: int = Field(0, ge=0)
    """Steps in a round of a site whose stream is over."""
    lr: float = Field(1e-3, gt=0)
    """AdamW's learning rate."""
    weight_decay: float = Field(1e-5, ge=0)
    """AdamW's decay; none on head rows of classes that the site does not annotate."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of a step's gradient."""
    schedule: Literal["constant", "rewarmed"] = "constant"
    """Constant, or a linear warm-up at the start of each site's round."""
    warmup: int = Field(20, ge=1)
    """Steps of the warm-up."""
    optimizer: Literal["keep", "reset"] = "keep"
    """Whether a site's AdamW moments live on to its next round."""
    foreground: float = Field(0.67, ge=0, le=1)
    """Share of patches centred on a voxel of an annotated class, classes alike."""
    absent_weight: Literal["one", "zero"] = "one"
    """BCE and Dice weight of an annotated class that the case lacks; zero is the published code's rule."""
    augment: Augment = Augment()
    """How patches are varied."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on CUDA, float32 on a CPU."""
    compile: bool = False
    """torch.compile the network (pays on a GPU with many steps)."""


class Stream(Strict):
    """How a site's cases arrive."""

    cases_per_round: int | None = Field(None, ge=1)
    """New cases in a round; none: all that are left."""


class Evaluate(Strict):
    """How results are measured: full volumes, sliding window."""

    on: Literal["test", "validation"] = "test"
    """The cases that count."""
    overlap: float = Field(0.5, ge=0, lt=1)
    """Overlap of the windows, blended with Gaussian weights."""
    batch: int | None = Field(None, ge=1)
    """Windows at a time; none: as many as `train.batch`."""
    surface: bool = True
    """HD95 and NSD (1 mm) after the last stage."""
    slices: int = Field(1, ge=0)
    """Test cases per site, those of the lowest Dice, whose slices are kept, in the site's folder, for a simulation's report."""
    probe: int | None = Field(None, ge=0, le=1000)
    """After the last stage each held-out site (`learns: false`) tunes a copy of the model on its own training cases for so many
    steps, evaluates it and throws it away; none or 0: no probe. More than 1000 no site does for a server that asks."""


class Engine(Strict):
    """What carries orders to the sites."""

    name: Literal["ray", "local"] = "ray"
    """Ray actors, or this very process."""
    actors: int | None = Field(None, ge=1)
    """Actors at most; default: as many as the machine has room for."""
    address: str | None = None
    """A Ray cluster's address; none: this machine."""
    deadline_s: float = Field(3600.0, gt=0)
    """Seconds a site may take over an order before its actor is replaced."""
    retries: int = Field(1, ge=0)
    """How often an order is given again after its actor died or was late."""
    watch_s: float = Field(60.0, gt=0)
    """Seconds without news after which the screen says what is being waited for."""
    cpus: float = Field(1, gt=0)
    """CPU cores of each site's actor (and threads of its training), unless the site says otherwise."""
    gpus: Gpus = 0.0
    """GPUs of each site's actor, unless the site says otherwise; .25 puts four sites on one; auto: a site has one to itself
    until it is known what it takes of its memory, then as many sites share one as fit. Without a GPU auto is none."""


class Run(Strict):
    """One experiment."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The run's folder is runs/<name>."""
    seed: int = Field(0, ge=0)
    """Every random choice is derived from it."""
    paradigm: Literal["continual", "stream", "specialised", "sequential", "joint.federated", "joint.pooled"] = "continual"
    """Sites train where they are as they come (continual), or one extra client sees all their cases in order with a single
    memory (stream, as in the paper). The bounds, from the same recipe: each site alone (specialised), no memory (sequential),
    all sites and cases from the start (joint.federated), all cases at one client (joint.pooled): simulations/paradigms.py."""
    classes: list[str] | None = None
    """Classes that must each be annotated by some site: a check, not a filter (what is trained is all that sites annotate)."""
    includes: Includes = Field(default_factory=dict)
    """{class: classes that lie inside it}, at every site whose own settings do not say otherwise."""
    data: Data = Data()
    """Where the simulated sites' data are."""
    sites: dict[str, PretendSite] = Field(default_factory=dict)
    """The simulated hospitals; empty in a deployment."""
    preprocess: Preprocess = Preprocess()
    """What is done once to every case."""
    model: Model = Model()
    """The shared network."""
    train: Train = Train()
    """How a site trains."""
    stream: Stream = Stream()
    """How a site's cases arrive."""
    memory: Memory = Memory()
    """What a site keeps."""
    sketch: Sketch = Sketch()
    """The feature by which the federation compares samples."""
    index: Index = Index()
    """The global uniqueness index."""
    strategy: Strategy = Strategy()
    """How updates become the next model: four choices, or a preset's name."""
    wire: Wire = Wire()
    """How updates travel."""
    arrivals: Arrivals = Arrivals()
    """Which site is present in which round."""
    evaluate: Evaluate = Evaluate()
    """How results are measured."""
    engine: Engine = Engine()
    """What carries orders to the sites."""
    faults: Faults = Faults()
    """What the run does when something goes wrong."""
    export: Export = Export()
    """Where the record goes besides: TensorBoard, MLflow."""
    keep: int = Field(2, ge=1)
    """Checkpoints and site snapshots kept."""

    @field_validator("sites")
    @classmethod
    def _names(cls, sites: dict[str, PretendSite]) -> dict[str, PretendSite]:
        for name in sites:
            if not is_site_name(name):
                raise ValueError(f"{name!r} is no site name: letters, digits, '-' and '_', a letter or digit first")
        return sites

    @model_validator(mode="after")
    def _sized(self) -> Self:
        """What a site does not say of size, overlaps and links is as the run has it: from here on every site says its own."""
        common: dict[str, Any] = {"cpus": self.engine.cpus, "gpus": self.engine.gpus}
        common |= {"includes": self.includes, "follow_links": self.data.follow_links}
        for name, site in self.sites.items():
            missing = {key: value for key, value in common.items() if key not in site.model_fields_set}
            self.sites[name] = site.model_copy(update=missing)
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for problem in problems(self):
            raise ValueError(problem)
        return self
