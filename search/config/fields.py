"""Types of single keys of a study's file and of study.yaml."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Discriminator, Field, Tag

from search.config.space import Choice, Range
from trainables.config import Value

Count = Annotated[int, Field(ge=1, le=10**9)]
Few = Annotated[int, Field(ge=1, le=1000)]
Index = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1000)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
OwnName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z][A-Za-z0-9_]*$")]
"""A class or function of a module in the folder of the study's file, or of an installed package, as module:Name."""
Architecture = Annotated[
    Annotated[Literal["cnn", "resnet50"], Tag("ours")] | Annotated[OwnName, Tag("own")],
    Discriminator(lambda value: "own" if ":" in str(value) else "ours"),
]
"""One of ours, or an architecture or training function of the user as module:Name."""
MetricName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _./-]{0,99}$")]
GOALS: Mapping[str, Literal["max", "min"]] = {
    **{"accuracy": "max", "auroc": "max", "f1": "max", "average_precision": "max"},
    "loss": "min",
}
"""Metric by which image classifiers can be compared -> whether larger or smaller values are better."""
PERTURBATIONS = (
    *("jpeg90", "jpeg75", "jpeg50", "jpeg30", "blur0.5", "blur1.0", "noise2", "noise5", "noise10"),
    *("scale0.75", "scale0.5", "crop0.875", "brightness0.8", "brightness1.2", "contrast0.8", "contrast1.2"),
    *("saturation0.8", "saturation1.2", "flip", "grey"),
)
"""Changes of the test images, in the order of the report; search/evaluation/perturbations.py makes them."""
Perturbation = Annotated[str, Field(pattern=rf"^({'|'.join(map(re.escape, PERTURBATIONS))})$")]
Temperature = Annotated[float, Field(ge=0.01, le=100)]
FrontCost = Literal["parameters", "multiply_accumulates", "seconds"]
Best = Annotated[float, Field(allow_inf_nan=False, validation_alias=AliasChoices("value", "accuracy"))]
"""Value of a winner, which an early version called `accuracy`."""


def _name_branch(value: Any) -> str:
    if not isinstance(value, dict):
        return "value"
    return "choice" if "choice" in value else "range"


SpecField = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choice, Tag("choice")] | Annotated[Value, Tag("value")],
    Discriminator(_name_branch),
]
"""Specification of one parameter: a range, a choice, or a fixed value."""
