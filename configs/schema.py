"""What a run is: `Run` (the recipe, the same everywhere) and `SiteFile` (what a hospital keeps on its own disk).

A simulation's YAML embeds its site files as `PretendSite`. The text under a field is its documentation.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Strict(BaseModel):
    """Typed, documented, checked on construction; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


# A site file: stays on the hospital's disk ---------------------------------------------------------------------------


class Selection(Strict):
    """Which cases of a folder are meant: those to which a JSON file beside dataset.json gives a value."""

    file: str = "partitions.json"
    """The JSON file, relative to the data root."""
    key: str
    """The entry in that file: {case: value}, or a list of cases."""
    value: int | str | None = None
    """The value wanted (for a list: none)."""


class Split(Strict):
    """How a site's cases fall into train, validation and test: always by subject, never by case."""

    subject: str | None = None
    """Arithmetic on `id`, the last number in the case's name, e.g. "(id + 1) // 2"; none: every case is its own subject."""
    test: float | Selection = 0.25
    """Share of the subjects, or a list of cases, held out for the results."""
    validation: float = Field(0.0, ge=0, lt=1)
    """Share of the remaining subjects held out for tuning."""

    @field_validator("test")
    @classmethod
    def _share(cls, test: float | Selection) -> float | Selection:
        if isinstance(test, float) and not 0 <= test < 1:
            raise ValueError("must be a share from 0 to below 1, or {file, key} of a list of cases")
        return test


class SiteFile(Strict):
    """One hospital's own settings. Nothing of this is in the server's config of a deployment."""

    source: str = "msd"
    """How the data are stored: a name in clients.data.SOURCES."""
    root: Path | None = None
    """The data folder; default: `data.root`."""
    cases: Selection | None = None
    """Which cases of the folder belong to this site; default: all."""
    split: Split | None = None
    """Train, validation and test by subject; default: `data.split`."""
    labels: dict[str, int | list[int]] | None = None
    """Class name -> value(s) in the label files; classes may overlap (liver: [1, 5], tumor: 5). Default: dataset.json's."""
    annotates: list[str] | None = None
    """The classes that this site's experts drew in every case; default: all in `labels`."""
    domains: Selection | None = None
    """{case: scanner, protocol or origin}, if the site declares it."""
    order: Literal["shuffled", "listed"] = "shuffled"
    """The order in which the training cases arrive: shuffled by the run's seed, or as dataset.json lists them."""
    arriving: list[int] | None = None
    """How many cases arrive in each round of presence; default: `stream.cases_per_round` in each."""
    max_cases: int | None = Field(None, ge=1)
    """Use at most so many training cases."""
    learns: bool = True
    """False: the site trains on nothing and only evaluates."""
    budget: int | None = Field(None, ge=1)
    """Samples this site's memory may keep; default: `memory.budget`."""
    device: str = "auto"
    """Where this site trains: auto, cpu, cuda, cuda:1 ..."""
    cpus: float = Field(1, gt=0)
    """CPU cores of this site's actor (ray)."""
    gpus: float = Field(0, ge=0)
    """GPUs of this site's actor (ray); .25 puts four sites on one."""


class Phantoms(Strict):
    """A pretend hospital's procedural abdomens, written as an MSD folder before the run."""

    cases: int = Field(12, ge=1)
    """How many volumes, test cases included."""
    shape: tuple[int, int, int] = (64, 56, 48)
    """Voxels along left-right, back-front, feet-head."""
    spacing: tuple[float, float, float] = (3.0, 3.0, 4.0)
    """Millimetres per voxel."""
    scanner: str = "ct"
    """The look of the images: a name in simulations.phantoms.SCANNERS."""
    seed: int = 0
    """Another seed, other patients."""


class PretendSite(SiteFile):
    """A site of a simulation: a site file, and how to make its data before the run."""

    phantoms: Phantoms | None = None
    """Write this site's data instead of reading `root`."""
    shift: str | None = None
    """The acquisition shift laid over the images: a name in simulations.shifts.SHIFTS."""


# The recipe: the same everywhere --------------------------------------------------------------------------------------


class Data(Strict):
    """Where the simulated sites' data are."""

    root: Path | None = None
    """The data folder of sites that name none; relative to where the command runs."""
    split: Split = Split()
    """Train, validation and test of sites that name no split."""


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
    args: dict[str, Any] = {}
    """Arguments of the MONAI network, e.g. {channels: [16, 32, 64], strides: [2, 2]}."""
    weights: Path | None = None
    """Initial weights (safetensors); none: drawn by the first site from the run's seed."""


class Augment(Strict):
    """Probability, per patch, of each augmentation; done in the batch, on the device."""

    flip: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mirror along left-right, back-front, feet-head."""
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
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on CUDA, float32 on a CPU."""
    compile: bool = False
    """torch.compile the network (pays on a GPU with many steps)."""


class Stream(Strict):
    """How a site's cases arrive."""

    cases_per_round: int | None = Field(None, ge=1)
    """New cases in a round; none: all that are left."""


class Memory(Strict):
    """What a site keeps."""

    policy: str = "selective"
    """A name in memory.POLICIES."""
    args: dict[str, Any] = {}
    """The policy's own settings, e.g. {k: 4}."""
    budget: int = Field(16, ge=1)
    """N, samples a site may keep."""
    uncertainty: Literal["loss", "entropy"] = "loss"
    """What `uncertainty` means: the weighted BCE (published code), or the mean binary entropy (label-free)."""
    fill_first: bool = False
    """Insert without training until the memory is full, as the published code does."""


class Strategy(Strict):
    """How updates become the next model: four choices, or a preset's name."""

    merge: str = "average"
    """A name in strategies.MERGES."""
    weigh: str = "draws"
    """A name in strategies.WEIGHS."""
    share: str = "all"
    """A name in strategies.SHARES."""
    objective: str = "plain"
    """A name in clients.objectives.OBJECTIVES."""


class Arrivals(Strict):
    """Which site is present in which round."""

    door: Literal["scripted", "open"] = "scripted"
    """As written here, or whoever has connected."""
    order: list[str] | None = None
    """Sites one after another; default: in the order of `sites`."""
    rounds_per_stage: int = Field(1, ge=1)
    """Rounds from one arrival to the next."""
    stay: bool = True
    """Sites stay until the end (cumulative), or leave when the next arrives."""
    overlap: int = Field(0, ge=0)
    """With `stay: false`: so many rounds together with the next site."""
    visits: dict[str, list[tuple[int, int | None]]] | None = None
    """Instead of `order`: {site: [[first, last], ...]}, rounds from 1, last none: to the end. A gap is a pause."""
    rounds: int | None = Field(None, ge=1)
    """Rounds in all; default: as `order` or `visits` need."""
    extra: list[str] = []
    """Clients that are no hospital: they name no stage and no column of R (the stream paradigm's client)."""

    @field_validator("order")
    @classmethod
    def _once(cls, order: list[str] | None) -> list[str] | None:
        twice = [name for i, name in enumerate(order or []) if name in (order or [])[:i]]
        if twice:
            raise ValueError(f"names {twice[0]!r} twice (a site that comes back is written with `visits`)")
        return order

    @field_validator("visits")
    @classmethod
    def _intervals(cls, visits: dict[str, list[tuple[int, int | None]]] | None) -> Any:
        for site, intervals in (visits or {}).items():
            end = 0
            for first, last in intervals:
                if first <= end or (last is not None and last < first):
                    raise ValueError(f"{site}: [{first}, {last}] must start after round {end} and not end before it starts")
                end = first if last is None else last
        return visits


class Evaluate(Strict):
    """How results are measured: full volumes, sliding window."""

    on: Literal["test", "validation"] = "test"
    """The cases that count."""
    overlap: float = Field(0.5, ge=0, lt=1)
    """Overlap of the windows, blended with Gaussian weights."""
    batch: int = Field(1, ge=1)
    """Windows at a time."""
    surface: bool = True
    """HD95 and NSD (1 mm) after the last stage."""
    slices: int = Field(1, ge=0)
    """Test cases per site whose slices are kept, in the site's folder, for a simulation's report."""


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


class Run(Strict):
    """One experiment."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The run's folder is runs/<name>."""
    seed: int = Field(0, ge=0)
    """Every random choice is derived from it."""
    paradigm: Literal["continual", "stream"] = "continual"
    """Sites train where they are, or one extra client sees all their cases in order with a single memory (as in the paper)."""
    classes: list[str] | None = None
    """The classes wanted; each must be annotated somewhere. Default: whatever the sites annotate."""
    data: Data = Data()
    sites: dict[str, PretendSite] = {}
    """The simulated hospitals; empty in a deployment."""
    preprocess: Preprocess = Preprocess()
    model: Model = Model()
    train: Train = Train()
    stream: Stream = Stream()
    memory: Memory = Memory()
    strategy: Strategy = Strategy()
    arrivals: Arrivals = Arrivals()
    evaluate: Evaluate = Evaluate()
    engine: Engine = Engine()
    keep: int = Field(2, ge=1)
    """Checkpoints and site snapshots kept."""

    @field_validator("sites")
    @classmethod
    def _names(cls, sites: dict[str, PretendSite]) -> dict[str, PretendSite]:
        for name in sites:
            if not name.replace("-", "").replace("_", "").isalnum() or not name[0].isalnum():
                raise ValueError(f"{name!r} is no site name: letters, digits, '-' and '_', a letter or digit first")
        return sites

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for problem in (*self._budget_problems(), *self._arrival_problems(), *self._class_problems()):
            raise ValueError(problem)
        return self

    def _budget_problems(self) -> list[str]:
        budgets = {"memory.budget": self.memory.budget}
        budgets |= {f"sites.{name}.budget": site.budget for name, site in self.sites.items() if site.budget}
        return [
            f"{where}: {budget} is smaller than the batch (train.batch: {self.train.batch}), so no batch could be drawn"
            for where, budget in budgets.items()
            if budget < self.train.batch
        ]

    def _arrival_problems(self) -> list[str]:
        arrivals = self.arrivals
        if arrivals.door == "open":
            return [] if arrivals.rounds else ["arrivals.rounds: an open door needs a number of rounds"]
        if arrivals.visits is not None and arrivals.order is not None:
            return ["arrivals: write `order` or `visits`, not both"]
        named = set(arrivals.visits or arrivals.order or self.sites)
        unknown = sorted(named - self.sites.keys())
        if unknown and self.sites:
            return [f"arrivals names the site {unknown[0]!r}, which `sites` does not have (it has {', '.join(self.sites)})"]
        never = [site for site in self.sites if site not in named or (arrivals.visits and not arrivals.visits[site])]
        return [f"sites.{site}: is never present (arrivals does not name it)" for site in never if site not in arrivals.extra]

    def _class_problems(self) -> list[str]:
        drawn = {name for site in self.sites.values() for name in (site.annotates or site.labels or ())}
        open_ended = any(not (site.annotates or site.labels) for site in self.sites.values())
        wanted = {*(self.classes or ()), *(name for site in self.sites.values() for name in site.labels or ())}
        missing = sorted(wanted - drawn)
        if missing and not open_ended:
            return [f"classes: {missing[0]!r} is annotated by nobody (sites annotate {', '.join(sorted(drawn))})"]
        return [
            f"sites.{name}.annotates: {unknown!r} is not in its labels ({', '.join(site.labels)})"
            for name, site in self.sites.items()
            if site.labels
            for unknown in site.annotates or ()
            if unknown not in site.labels
        ]
