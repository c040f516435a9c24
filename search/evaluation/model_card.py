"""The model card: what a trained model is, how good, and what it must not be used for, in Markdown.

Its sections follow Mitchell et al. 2019, Model Cards for Model Reporting (arXiv:1810.03993).
"""

from collections.abc import Mapping
from typing import Any

from search.config.printable import escape_markdown
from search.record.provenance import describe_commit

LIMITS = (
    "The model knows only the kind of 32x32 images that it was trained on; of CIFAKE, CIFAR-10 and Stable Diffusion 1.4"
)
"""Limits that every answer of a model comes with."""
CARD = """# {retraining[label]}

Tells photographs (REAL) from generated images (FAKE): {retraining[architecture]} of {tested[parameters]:,} parameters.

## Use

```bash
python -m search predict {retraining[label]}.safetensors picture.jpg
python -m search export {retraining[label]}.safetensors --format onnx
```

An image is called REAL if its probability of being REAL is above {tested[threshold]!r}, both as float32.

## Limits

{limits}. Pictures of other sizes are scored on a
32x32 reduction, which loses most traces of a generator; other generators were never seen. Do not use the answer as
evidence about a picture or about who made it.

## Training

Trial {retraining[trial]} of the study, rank {retraining[rank]} of its architecture on validation, retrained on
train and validation with seed {retraining[seed]} for {retraining[epochs]} of {retraining[max_epochs]} epochs on
{hardware}. Data: fingerprint
`{retraining[fingerprint]}`. Code: commit {commit}.

| parameter | value |
|---|---|
{parameters}

## Test

Once, on the sealed test split; REAL is the positive class.

| metric | value |
|---|---|
{metrics}
"""


def build_card(record: Mapping[str, Any]) -> str:
    """Return the card of a model, given its record as a mapping."""
    hardware = record["hardware"]
    threads = f", {hardware['threads']} threads" if hardware["type"] == "cpu" else ""
    return CARD.format(
        retraining=record["retraining"],
        tested=record["tested"],
        limits=LIMITS,
        hardware=f"{escape_markdown(hardware['name'])} ({hardware['type']}{threads})",
        commit=describe_commit(record["code"], digits=40),
        parameters=_list_rows(record["parameters"]),
        metrics=_list_rows({name: f"{value:.4f}" for name, value in record["tested"]["metrics"].items()}),
    )


def _list_rows(values: Mapping[str, Any]) -> str:
    return "\n".join(f"| {escape_markdown(name)} | {escape_markdown(value)} |" for name, value in values.items())
