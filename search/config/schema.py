"""The keys of a study's YAML file, as frozen dataclasses. The documentation's tables are made from their docstrings."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from search.config.data import DataConfig, Published
from search.config.fields import (
    PERTURBATIONS,
    Amount,
    Architecture,
    Count,
    Few,
    FrontCost,
    Label,
    OwnName,
    Perturbation,
    SpecField,
    Temperature,
)
from search.config.search import SearchConfig
from search.config.urls import JournalLocation, is_url
from trainables.config import Value
from trainables.names import shorten

MANIFEST, JOURNAL, LEASE, LEARNT = "study.yaml", "study.journal", "study.lock", "learnt.json"
"""Files of a study's folder: its manifest, its journal, its lease, and the trials of earlier studies."""
REQUESTS = "requests"
"""Folder in a study's folder: requests of `ask` and `stop`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResourceConfig:
    """The CPU cores and GPUs that each trial of an architecture gets."""

    cpus: Amount = 1.0
    """CPU cores; a trial uses as many threads."""
    gpus: Annotated[float, Field(ge=0, le=1)] = 0.0
    """GPUs; below 1, trials share a GPU and its memory. A training uses one GPU at most."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """How the winners are retrained and tested."""

    seeds: Few | dict[Label, Few] = 5
    """Number of retrainings of each winner, each with its own seed; or a number for each architecture. A recipe of
    `search.first` that is retrained as a baseline may have its own number."""
    max_train_images: Annotated[int, Field(ge=4)] | Literal["all"] | None = None
    """Images of the training split that retrainings use: `all`, a number, or null for those of the search. With other
    images than the search's, retrainings train all epochs of the schedule."""
    top_k: Few = 1
    """Winners of each architecture: its best distinct configurations by the validation metric."""
    baselines: bool | tuple[Label, ...] = False
    """Whether the recipes of `search.first` are also retrained and tested, for comparison with the winners; or a list
    of names, the names of their files without `.yaml`."""
    published: str | None = None
    """File of published results and limits of the data, relative to the file that names it, for the report."""
    front: bool = False
    """Whether the trials on the front of metric and cost are retrained and tested in addition to the winners."""
    front_cost: FrontCost = "parameters"
    """Cost of the front, per image: parameters of the model, multiply-accumulates of a prediction, or seconds of
    training."""
    also: dict[Label, str] | None = None
    """Further sources of the same two classes, as NAME: PATH of a folder or .zip: `CLASS/**` or `test/CLASS/**`.
    Each model is scored on them too, without training. A source may have only one of the classes."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["validation"] = 0.5
    """Probability above which a test image is called positive. `validation` chooses the one with the highest accuracy
    on validation, by a model that is trained without these images for this purpose."""
    temperature: Temperature | Literal["validation"] = 1.0
    """Number that divides logits before they become probabilities. `validation` chooses that of the lowest log loss on
    validation, by the threshold's model; for baselines and the front only if the threshold is `validation` too."""
    calibrate: Literal["all"] | tuple[Label, ...] = "all"
    """Architectures whose winners are also trained on train alone, if a temperature from validation or other images
    than the search's need that. It takes as long as a retraining. Other winners have no validation curve, and
    temperature 1 in place of one from validation."""
    perturbations: Literal["all"] | tuple[Perturbation, ...] = ()
    """Changes of the test images on which each model is scored too, without training: `all`, or a list of names."""

    def is_baseline(self, path: str) -> bool:
        """Return whether a recipe of `search.first` is also retrained."""
        return self.baselines if isinstance(self.baselines, bool) else Path(path).stem in self.baselines

    def list_perturbations(self) -> tuple[str, ...]:
        """Return the names of `perturbations`, each once, in the order of the report."""
        return tuple(name for name in PERTURBATIONS if self.perturbations == "all" or name in self.perturbations)


def pick_seeds(seeds: int | Mapping[str, int], architecture: str, recipe: str | None = None) -> int:
    """Return how often a winner of an architecture, or a recipe of it as a baseline, is retrained."""
    return seeds if isinstance(seeds, int) else seeds.get(recipe or "", seeds[shorten(architecture)])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """Weights & Biases, and TensorBoard."""

    mode: Literal["auto", "online", "offline", "off"] = "auto"
    """How W&B is used: auto is online if an API key is set, else offline."""
    project: str = "cifake-search"
    """Project in W&B."""
    tensorboard: bool = False
    """Whether to write TensorBoard's event files."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Where trials run."""

    address: str = "local"
    """`local` starts Ray on this machine; `auto` or HOST:PORT joins a running cluster."""
    cpus: Count | None = None
    """CPU cores that a local Ray uses; null uses all."""
    min_nodes: Count = 1
    """Nodes that can run a trial and must be up before the search starts."""
    max_nodes: Count | None = None
    """Most nodes that an autoscaler may reach; only nodes on which a trial fits count. null is the number of nodes that
    are up when the search starts."""
    wait_s: Amount = 300.0
    """Seconds to wait at the start until `min_nodes` nodes are up and a trial of each architecture fits on one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One configuration of an architecture, as a recipe file holds it."""

    architecture: Architecture
    """The architecture."""
    params: dict[str, Value] = dataclasses.field(default_factory=dict)
    """Parameters; those left out keep the defaults of trainables.config."""


@pydantic.with_config(pydantic.ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """A whole study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name of the study and of its folder: letters, digits, dot, dash and underscore, 100 at most."""
    results: str = "results"
    """Folder in which the study's folder is made, or s3://BUCKET/PREFIX. In the second case the study is stored in the
    bucket, and each machine has a working copy."""
    storage: str | None = None
    """URL of a PostgreSQL or MySQL database that holds the journal, without the password; null is a file in the study's
    folder."""
    trainable: OwnName | None = None
    """A training function of your own, as module:function; it takes the place of architectures, data and evaluation."""
    code: str | None = None
    """Folder of your own modules, which is that of this file; set when the study is loaded."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
    space: dict[str, dict[str, SpecField]] = dataclasses.field(default_factory=dict)
    """Values of each parameter, by architecture; `shared` applies to all. Parameters left out keep their defaults."""
    resources: dict[Label, ResourceConfig] = dataclasses.field(default_factory=dict)
    """CPU cores and GPUs of each trial, by architecture."""
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()
    recipes: tuple[Recipe, ...] = ()
    """Contents of the files of `search.first`; set when the study is loaded."""
    published: Published = dataclasses.field(default_factory=Published)
    """Content of the file of `evaluation.published`; set when the study is loaded."""

    @property
    def directory(self) -> Path:
        """The study's folder on this machine; with an object store, the working copy."""
        return Path(self.results) / self.name if self.url is None else Path(self.working_folder).expanduser()

    @property
    def url(self) -> str | None:
        """URL of the study in an object store, or None."""
        return f"{self.results.rstrip('/')}/{self.name}" if is_url(self.results) else None

    @property
    def location(self) -> str:
        """Where the user finds the study: its URL or its folder."""
        return self.url or str(self.directory)

    @property
    def working_folder(self) -> str:
        """Path of a node's part of the study; it may begin with `~`, the home on that node."""
        if self.url is None:
            return str(self.directory.resolve())
        return f"{self.data.cache}/studies/{hashlib.sha256(self.url.encode()).hexdigest()[:12]}/{self.name}"

    @property
    def journal(self) -> JournalLocation:
        """Where the study's journal is stored."""
        return self.storage or self.directory / JOURNAL

    def get_resources(self, architecture: str) -> ResourceConfig:
        """Return what one trial of an architecture is granted."""
        return self.resources.get(shorten(architecture), ResourceConfig())
