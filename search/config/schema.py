"""What a study is: plain YAML in, frozen dataclasses out, checked once and wholly at this border.

The only file that knows pydantic. Everything else receives the dataclasses.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import Discriminator, Field, Tag

from search.config.places import JOURNAL, Place, check_database_url, check_store_url, is_url
from search.config.space import Choice, Range, check_space, contains, list_specs
from search.config.yaml import read_document, set_value
from trainables.config import Value, build_train_config, list_defaults
from trainables.errors import InputError

Count = Annotated[int, Field(ge=1, le=10**9)]
Few = Annotated[int, Field(ge=1, le=1000)]
Index = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1000)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Architecture = Literal["cnn", "resnet50"]
T = TypeVar("T")


def _name_branch(value: Any) -> str:
    if not isinstance(value, dict):
        return "value"
    return "choice" if "choice" in value else "range"


SpecField = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choice, Tag("choice")] | Annotated[Value, Tag("value")],
    Discriminator(_name_branch),
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which images, and which of them validate."""

    path: str = "sample"
    """Folder or .zip in the layout {train,test}/{REAL,FAKE}/*, or `sample` for the embedded one."""
    max_train_images: Annotated[int, Field(ge=4)] | None = None
    """How many images of the training split are used, validation included; None is all."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the used training images that validates."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do with a file that is no image."""
    cache: str = "~/.cache/cifake-search"
    """Folder of the packed images, shared by all studies on the machine."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """How many trials, how long, proposed and stopped by whom."""

    architectures: Annotated[tuple[Architecture, ...], Field(min_length=1)] = ("cnn", "resnet50")
    """Which architectures are searched; each has its own sampler history and its own rungs."""
    shares: dict[Architecture, Positive] | None = None
    """Weight of each architecture in what `divide` names; None is equal weights."""
    divide: Literal["trials", "epochs", "seconds"] = "trials"
    """What the shares divide: the number of trials, the epochs trained, or the seconds of training times the GPUs (or
    CPUs) granted."""
    min_trials: Count = 1
    """Trials that every architecture gets before the shares divide anything."""
    num_trials: Count = 20
    """Trials to start."""
    max_epochs: Count = 10
    """Epochs of a trial that nobody stops; the learning-rate schedule spans them."""
    max_hours: Positive | None = None
    """Wall-clock hours of searching after which the search ends."""
    max_total_epochs: Count | None = None
    """Epochs over all trials after which the search ends."""
    max_concurrent: Count | None = None
    """Trials at a time; None is what the resources hold."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """How often a trial, or a retraining, may lose its worker process and go on; one lost with its node is not
    counted."""
    trial_timeout_s: Positive | None = None
    """Seconds without an epoch, from when its worker is up, after which a trial is FAIL; None waits for ever."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Root of every random draw of the study."""
    sampler: Literal["tpe", "tpe_multivariate", "random", "gp", "qmc"] = "tpe"
    """Who proposes parameters; tpe, each of them by itself, beats its multivariate kind (LOG.md, 2026-11-25)."""
    num_startup_trials: Count = 10
    """Random trials of an architecture before a model proposes; gp counts, and looks at, only those that ran whole."""
    scheduler: Literal["asha", "hyperband", "median", "none"] = "asha"
    """Who stops trials."""
    grace_epochs: Count | None = None
    """First rung: no trial is stopped before it. None is max_epochs / reduction_factor, rounded up, and 1 under
    hyperband, some of whose brackets begin later: what the first of few epochs says misleads tpe (LOG.md,
    2026-11-24)."""
    reduction_factor: Annotated[float, Field(ge=1.01, lt=1000)] = 3.0
    """One trial in so many survives a rung, and the next rung is so many times higher."""
    patience_epochs: Count | None = None
    """Epochs without a better validation metric after which a trial is COMPLETE; None is never. A cosine or one-cycle
    schedule spans max_epochs: much of its gain comes at the end, which a trial that ends before does not see."""
    patience_delta: Amount = 0.0
    """How much better counts, in units of the metric."""
    first: tuple[str, ...] = ()
    """Recipe files (relative to the study's file) whose points are the first trials."""
    spare_first: bool = False
    """Whether the scheduler stops none of those, so that they have whole curves to compare with."""

    @property
    def first_rung(self) -> int:
        """Epoch before which no trial is stopped."""
        if self.grace_epochs is not None:
            return self.grace_epochs
        return 1 if self.scheduler == "hyperband" else math.ceil(self.max_epochs / self.reduction_factor)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResourceConfig:
    """What one trial of an architecture is granted."""

    cpus: Amount = 1.0
    """CPU cores, and so threads."""
    gpus: Annotated[float, Field(ge=0, le=1)] = 0.0
    """GPUs; a fraction shares one. A training uses no more than one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """How the winners are retrained and tested."""

    seeds: Few = 5
    """Retrainings of each winner."""
    top_k: Few = 1
    """Distinct configurations of each architecture, best on validation first."""
    baselines: bool = False
    """Whether the points of `search.first` that are not among those are retrained and tested beside them."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["validation"] = 0.5
    """A test image is called REAL above this probability; `validation` is where a training of the winner on train alone
    calls most validation images right."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """Weights & Biases, and TensorBoard."""

    mode: Literal["auto", "online", "offline", "off"] = "auto"
    """auto is online where a key is set, else offline."""
    project: str = "cifake-search"
    """W&B project."""
    tensorboard: bool = False
    """Whether to write TensorBoard's event files too."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Where trials run."""

    address: str = "local"
    """local starts Ray on this machine; auto or an address joins a running cluster."""
    cpus: Count | None = None
    """CPUs that a local Ray offers; None is all."""
    min_nodes: Count = 1
    """Nodes that a trial fits, fewer than which are not worth starting on."""
    max_nodes: Count | None = None
    """Nodes that a trial fits to which the cluster may grow; None is those that are up when the search starts."""
    wait_s: Amount = 300.0
    """Seconds to wait for so many nodes to come up that min_nodes are there and every trial fits one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One fixed point of the space."""

    architecture: Architecture
    params: dict[str, Value] = dataclasses.field(default_factory=dict)
    """What differs from the defaults of trainables.config."""


@pydantic.with_config(pydantic.ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """A whole study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Letters, digits, dot, dash and underscore; names the folder of the results."""
    results: str = "results"
    """Folder that holds the study's own, or s3://BUCKET/PREFIX: then the study lies in that object store, and what lies
    on a machine is a working copy. (`storage` is something else: the record in a database.)"""
    storage: str | None = None
    """URL of a PostgreSQL or MySQL database that keeps the record, without its password; None is a file in the
    study's folder."""
    data: DataConfig = DataConfig()
    search: SearchConfig = SearchConfig()
    space: dict[str, dict[str, SpecField]] = dataclasses.field(default_factory=dict)
    """Per architecture, and `shared` for all, what each parameter may be; the rest keeps its default."""
    resources: dict[Architecture, ResourceConfig] = dataclasses.field(default_factory=dict)
    """Per architecture."""
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()
    recipes: tuple[Recipe, ...] = ()
    """The points of `search.first`, read."""

    @property
    def directory(self) -> Path:
        """Where everything of the study lies, or its working copy on this machine."""
        return Path(self.results) / self.name if self.url is None else Path(self.working_folder).expanduser()

    @property
    def url(self) -> str | None:
        """Where the study lies in an object store, if it does."""
        return f"{self.results.rstrip('/')}/{self.name}" if is_url(self.results) else None

    @property
    def place(self) -> str:
        """Where the user finds the study."""
        return self.url or str(self.directory)

    @property
    def working_folder(self) -> str:
        """Where a node keeps its part of the study; `~` is the home of whoever is asked."""
        if self.url is None:
            return str(self.directory.resolve())
        return f"{self.data.cache}/studies/{hashlib.sha256(self.url.encode()).hexdigest()[:12]}/{self.name}"

    @property
    def journal(self) -> Place:
        """Where the record of the study lies."""
        return self.storage or self.directory / JOURNAL

    def get_resources(self, architecture: str) -> ResourceConfig:
        """Return what one trial of an architecture is granted."""
        # An architecture is a Literal in the configuration and any text in the record.
        return {str(name): granted for name, granted in self.resources.items()}.get(architecture, ResourceConfig())


def load(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study and check all of it.

    Args:
        path: YAML file; its `extends` names another one (relative to it) that it is laid over.
        overrides: Settings such as `search.num_trials=5`, applied last.

    Raises:
        InputError: If the file, a key, a value or a corner of the space is wrong; the message has the path.
    """
    document = read_document(path)
    for override in overrides:
        set_value(document, override)
    search = document.get("search")
    if isinstance(search, dict) and isinstance(search.get("first"), list):
        document["recipes"] = [read_document(path.parent / str(name)) for name in search["first"]]
    return parse(document)


def parse(document: Mapping[str, Any]) -> StudyConfig:
    """Check a study given as plain values, such as `dump` returns.

    Values are as strict as JSON's: "3" is no number and 1 no truth value.

    Raises:
        InputError: If a key, a value or a corner of the space is wrong; the message has the path.
    """
    try:
        study = pydantic.TypeAdapter(StudyConfig).validate_json(json.dumps(document), strict=True)
    except pydantic.ValidationError as error:
        raise InputError("; ".join(_describe_problems(error))) from None
    except (RecursionError, TypeError, ValueError) as error:
        raise InputError(f"a value is neither number, text, list nor mapping: {error}") from None
    _check_search(study.search)
    if is_url(study.results):
        check_store_url(study.results)
    if study.storage is not None:
        check_database_url(study.storage)
    check_space(study.space, study.search.architectures)
    for architecture, granted in study.resources.items():
        if granted.cpus + granted.gpus == 0:
            raise InputError(f"resources.{architecture}: expected cpus or gpus above 0")
    for recipe in study.recipes:
        _check_recipe(study, recipe)
    return study


def check(kind: type[T], value: Any, where: str) -> T:
    """Check plain values, such as a file's, against the dataclass or type that they were written from.

    Args:
        kind: The type; a mapping may have more keys than the dataclass has fields.
        value: The values, as strict as JSON's.
        where: The file, for the message.

    Raises:
        InputError: If they are not of the type; the message has the first place that is wrong.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except pydantic.ValidationError as error:
        raise InputError(f"{where} is damaged: {_describe_problems(error)[0][:300]}") from None
    except (RecursionError, TypeError, ValueError):
        raise InputError(f"{where} is damaged: a value is neither number, text, list nor mapping") from None


def dump(study: StudyConfig) -> dict[str, Any]:
    """Return a study as plain values, every default written out."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(study)))
    return plain


def _check_search(search: SearchConfig) -> None:
    if len(set(search.architectures)) < len(search.architectures):
        raise InputError(f"search.architectures = {list(search.architectures)}: expected distinct names")
    if search.shares is not None and set(search.shares) != set(search.architectures):
        raise InputError("search.shares: expected one weight for each of search.architectures")
    if search.first_rung > search.max_epochs:
        raise InputError(f"search.grace_epochs = {search.grace_epochs}: expected at most search.max_epochs")


def _check_recipe(study: StudyConfig, recipe: Recipe) -> None:
    """Check that a point to try first can be built and lies inside the space."""
    build_train_config(recipe.architecture, recipe.params, epochs=1, seed=0)
    if recipe.architecture not in study.search.architectures:
        return
    params = list_defaults(recipe.architecture) | recipe.params
    for name, spec in list_specs(study.space, recipe.architecture).items():
        if not contains(spec, params[name]):
            where = f"space.{recipe.architecture}.{name}"
            raise InputError(
                f"search.first: the {recipe.architecture} recipe has {name} = {params[name]!r}, outside {where}"
            )


def _describe_problems(error: pydantic.ValidationError) -> list[str]:
    """Return one sentence a wrong place, without the names of pydantic's union branches."""
    places: dict[str, Any] = {}
    for problem in error.errors():
        loc = problem["loc"]
        if loc[:1] == ("space",) and len(loc) > 3:
            loc = (*loc[:3], *loc[4:5]) if loc[3] != "value" else loc[:3]
        if loc[:2] == ("evaluation", "threshold"):
            loc = loc[:2]
        places.setdefault(".".join(map(str, loc)).removesuffix(".[key]"), problem)
    return [_describe(path, problem) for path, problem in places.items()]


def _describe(path: str, problem: Any) -> str:
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}: unknown key"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{path}: missing"
    if isinstance(problem["input"], float) and not math.isfinite(problem["input"]):
        return f"{path} = {problem['input']}: expected a finite number"
    if path == "evaluation.threshold":
        return f"{path} = {problem['input']!r}: expected a number above 0 and below 1, or validation"
    told = repr(problem["input"])[:200]
    if "value" in problem["loc"][3:4]:
        return f"{path} = {told}: expected a value, {{low: ..., high: ...}} or {{choice: [...]}}"
    return f"{path} = {told}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
