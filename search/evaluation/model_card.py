"""The model card: what a trained model is, how good, and what it must not be used for, in Markdown.

Its sections follow Mitchell et al. 2019, Model Cards for Model Reporting (arXiv:1810.03993).
"""

from collections.abc import Mapping
from typing import Any

from search.config.printable import escape_markdown
from search.record.provenance import describe_commit

CARD = """# {retraining[label]}

Tells {positive} from {negative}: {retraining[architecture]} of {tested[parameters]:,} parameters.

## Use

```bash
python -m search predict {retraining[label]}.safetensors picture.jpg
python -m search export {retraining[label]}.safetensors --format onnx
```

An image is called {positive} if its probability of being {positive} is above {tested[threshold]!r}, both as float32.
{temperature}
## Limits

{limits}. Pictures of other sizes are scored after resizing
to {size}x{size}, which loses detail. Do not use the answer as evidence about a picture or about who made it.

## Training

Trial {retraining[trial]} of the study, rank {retraining[rank]} of its architecture on validation, retrained on
train and validation with seed {retraining[seed]} for {retraining[epochs]} of {retraining[max_epochs]} epochs on
{hardware}. Data: fingerprint
`{retraining[fingerprint]}`. Code: commit {commit}.

| parameter | value |
|---|---|
{parameters}

## Test

Once, on the sealed test split; {positive} is the positive class.

| metric | value |
|---|---|
{metrics}
"""


TEMPERATURE = "The probability is the sigmoid of the logit divided by the temperature {!r}.\n"
"""Line about a temperature that is not 1."""


def describe_limits(size: int) -> str:
    """Return the limits of every answer of a model for images of a size."""
    return f"The model knows only the kind of {size}x{size} images that it was trained on"


def build_card(record: Mapping[str, Any]) -> str:
    """Return the card of a model, given its record as a mapping."""
    negative, positive = map(escape_markdown, record["preprocessing"]["classes"])
    size = record["preprocessing"]["size"][0]
    hardware = record["hardware"]
    threads = f", {hardware['threads']} threads" if hardware["type"] == "cpu" else ""
    return CARD.format(
        retraining=record["retraining"],
        tested=record["tested"],
        limits=describe_limits(size),
        temperature="" if (value := record["tested"].get("temperature", 1.0)) == 1.0 else TEMPERATURE.format(value),
        negative=negative,
        positive=positive,
        size=size,
        hardware=f"{escape_markdown(hardware['name'])} ({hardware['type']}{threads})",
        commit=describe_commit(record["code"], digits=40),
        parameters=_list_rows(record["parameters"]),
        metrics=_list_rows({name: f"{value:.4f}" for name, value in record["tested"]["metrics"].items()}),
    )


def _list_rows(values: Mapping[str, Any]) -> str:
    return "\n".join(f"| {escape_markdown(name)} | {escape_markdown(value)} |" for name, value in values.items())
