"""The keys of a study about its data, and types for what is known of a data set."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

Size = Annotated[int, Field(ge=32, le=256)]
Classes = tuple[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=100)]]
CIFAKE: Classes = ("FAKE", "REAL")
"""Names of CIFAKE's classes in the order of their labels; files of early versions mean these."""


Counts = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """One published result on the test split of a data set."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    """Architecture and authors."""
    protocol: Literal["sealed", "untouched test", "peak on test", "not stated"]
    """How epoch and configuration were chosen: without the test split, which was used once (sealed) or for the final
    evaluation (untouched test); by the best epoch on the test split (peak on test); or unknown."""
    source: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Where it was published."""
    metrics: dict[Literal["accuracy", "precision", "recall", "f1", "auroc"], Annotated[float, Field(ge=0, le=1)]] = (
        dataclasses.field(default_factory=dict)
    )
    parameters: Annotated[int, Field(ge=1)] | None = None
    """Trainable parameters, if the description allows to count them."""
    confusion: tuple[Counts, Counts] | None = None
    """Counts of test images by label: rows true, columns predicted."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Results and limits that were published of the data: the content of the file that `evaluation.published` names."""

    models: Annotated[tuple[PublishedModel, ...], Field(max_length=100)] = ()
    """Published results, which the report shows below those of the study."""
    notes: Annotated[tuple[Annotated[str, Field(max_length=2000)], ...], Field(max_length=100)] = ()
    """Sentences for the report, such as the limits of the data."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The images, and which of them are used for validation."""

    path: str = "sample"
    """Folder or .zip of images of two classes: `{train,test}/CLASS/**`, with `val/` if there is one, or `CLASS/**`
    without a split; or `sample`, the small data set that is built in."""
    size: Size = 32
    """Height and width to which images are resized, in pixels."""
    positive: Annotated[str, Field(min_length=1, max_length=100)] = "REAL"
    """Class with label 1, to which precision, recall and the threshold refer."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the images that becomes the test split, chosen by a hash of the file; only for data without a
    split."""
    max_train_images: Annotated[int, Field(ge=4)] | None = None
    """Images of the training split to use, validation included; null uses all."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of the used training images that is for validation and not for training, if the data have no val/."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """Whether a file that is not an image stops the packing, or is skipped and listed."""
    cache: str = "~/.cache/cifake-search"
    """Folder of the packed images, which all studies on a machine share."""
