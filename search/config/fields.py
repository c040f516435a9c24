"""Types of single keys of a study's file, and of what study.yaml records."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Discriminator, Field, Tag

from search.config.space import Choice, Range
from trainables.config import Value

MetricName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _./-]{0,99}$")]
GOALS: Mapping[str, Literal["max", "min"]] = {
    **{"accuracy": "max", "auroc": "max", "f1": "max", "average_precision": "max"},
    "loss": "min",
}
"""Metrics by which image classifiers can be compared, and whether larger or smaller values are better."""
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
"""What one parameter may be: a range, a choice, or a fixed value."""
