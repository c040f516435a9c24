"""The report as one HTML file that opens anywhere, without network: a pure function of the result."""

import base64
import hashlib
import io
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from search.config.printable import escape_lines
from search.evaluation.result import Mistake, Result
from search.record.provenance import describe_commit
from search.record.trial import rank_trials
from search.report import charts, figures
from search.report.cells import Table, format_duration, format_metric
from search.report.coverage import trace_coverage
from search.report.history import build_study, explain_missing
from search.report.notes import describe_seeds
from search.report.robustness import show_robustness
from search.report.schedules import draw_schedules
from search.report.searches import describe_sampler
from search.report.summary import list_architectures
from trainables.durable import write_file

NUM_MISTAKES = 12
"""Number of pictures for each architecture."""
Rows = list[tuple[str, list[tuple[int, float]]]]
"""Rows of a confusion matrix: true class, and for each predicted class the count and its share of the true class."""


def write_page(
    result: Result,
    path: Path,
    *,
    results: Sequence[Table],
    search: Sequence[Table],
    overview: str | None = None,
    quotes: Sequence[str] = (),
) -> Path:
    """Write the report as one HTML file, which is replaced in one step, and return its path.

    Args:
        result: The result.
        path: File to write.
        results: Tables of the evaluation, the main one first.
        search: Tables of the search.
        overview: Figure of all accuracies, as an <svg> element.
        quotes: A sentence for each winner.
    """
    timeline = charts.build_timeline_chart(result.trials)
    front = charts.build_front_chart(result.config, result.trials)
    names = list_architectures(result.config, result.trials)
    drawn = {name: charts.build_charts(result.config, result.trials, name) for name in names}
    page = _load_template().render(
        result=result,
        style=_read("page.css"),
        script=_read("page.js"),
        results=results,
        search=search,
        overview=overview,
        quotes=quotes,
        curves=[*_draw_curves(result), *draw_schedules(result.choices, result.models, result.config.search.metric)],
        matrices=_list_matrices(result),
        robustness=show_robustness(result),
        qualities=_draw_qualities(result),
        mistakes=_list_mistakes(result),
        timeline=timeline,
        front=front,
        charts=drawn,
        missing={name: explain_missing(build_study(result.config, result.trials, name)) for name in names},
        plotly=charts.compress_plotly() if timeline or front or any(drawn.values()) else None,
        stopped={
            name: Counter(trial.state.value for trial in result.trials if trial.architecture == name) for name in drawn
        },
        size=result.config.data.size,
        data=result.manifest.get("data", {}),
        origin=_describe_origin(result),
        configuration=json.dumps(result.manifest.get("config", {}), indent=2),
    )
    return write_file(path, page.encode())


def _load_template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    environment.filters |= {"hash": _hash, "data": _escape_data, "sampler": describe_sampler}
    return environment.from_string(_read("page.html.jinja"))


def _list_mistakes(result: Result) -> dict[str, list[dict[str, str]]]:
    """Return the worst mistakes of each winner's first model, by its label."""
    return {
        models[0].label: [_describe(mistake, result.classes) for mistake in found[:NUM_MISTAKES]]
        for models in result.winners.values()
        if (found := result.mistakes.get(models[0].label))
    }


def _read(name: str) -> str:
    return resources.files("search.report").joinpath(name).read_text(encoding="utf-8")


def _draw_curves(result: Result) -> list[tuple[str, str]]:
    """Return captions and figures of the winners' trials; for a search without models, of its best trial."""
    drawn = []
    if result.config.trainable and (ranked := rank_trials(result.trials)):
        metric = result.config.search.metric
        caption = f"Trial {ranked[0].number}, the best: {metric} per epoch"
        figure = figures.draw_curve(ranked[0], metric)
        drawn.append((caption, figures.render_svg(figure, name="best", description=caption)))
    for architecture, models in result.winners.items():
        trial = result.trials[models[0].trial]
        value, epoch = trial.get_peak()
        best = f"best {trial.metric} {format_metric(value, trial.metric)} in {epoch}"
        for name in figures.list_panels(trial):
            caption = f"{architecture}, {name} per epoch"
            told = f"{caption}, on train and validation; {len(trial.epochs)} epochs, {best}"
            figure = figures.draw_curve(trial, name)
            drawn.append((caption, figures.render_svg(figure, name=caption, description=told)))
    return drawn


def _list_matrices(result: Result) -> list[tuple[str, Rows]]:
    """Return titles and rows of the confusion matrices: ours summed over the seeds, then the published ones."""
    matrices = []
    for name, models in result.winners.items():
        sums = [[sum(tested.confusion[row][column] for tested in models) for column in (0, 1)] for row in (0, 1)]
        seeds = f"sum over {len(models)} seeds" if len(models) > 1 else "one seed"
        matrices.append((f"{name}, {seeds}", _build_rows(sums, result.classes)))
    for published in result.config.published.models:
        if published.confusion is not None:
            matrices.append((published.model, _build_rows(published.confusion, result.classes)))
    return matrices


def _build_rows(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Rows:
    return [
        (truth, [(count, count / max(sum(row), 1)) for count in row])
        for truth, row in zip(classes, counts, strict=True)
    ]


def _draw_qualities(result: Result) -> list[tuple[str, str]]:
    """Return captions and figures of ranking (ROC) and calibration (reliability)."""
    known = {
        name: [result.predictions[tested.label] for tested in models if tested.label in result.predictions]
        for name, models in result.winners.items()
    }
    if not any(known.values()):
        return []
    areas = ", ".join(
        f"{name} {statistics.fmean(tested.metrics['auroc'] for tested in models):.4f}"
        for name, models in result.winners.items()
    )
    told = f"Share of {result.classes[1]} images against the probability; calibrated: on the diagonal"
    roc = figures.draw_roc(result.labels, known, result.classes)
    reliability = figures.draw_reliability(result.labels, known, result.classes)
    return [
        (
            "ROC, a line per seed",
            figures.render_svg(roc, name="roc", description=f"ROC curves; area under them: {areas}"),
        ),
        (
            f"Reliability, a line per seed, {figures.NUM_BINS} bins",
            figures.render_svg(reliability, name="reliability", description=told),
        ),
        (
            "Coverage: how often the most confident answers are right, a line per seed",
            figures.render_svg(
                figures.draw_coverage(trace_coverage(result)),
                name="coverage",
                description="Accuracy on the most confident test images against their share of all",
            ),
        ),
    ]


def _describe(mistake: Mistake, classes: Sequence[str]) -> dict[str, str]:
    buffer = io.BytesIO()
    Image.fromarray(mistake.image).save(buffer, format="png", optimize=True)
    called = 1 - mistake.truth
    certainty = mistake.probability if called else 1 - mistake.probability
    return {
        "source": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "truth": classes[mistake.truth],
        "called": classes[called],
        "certainty": f"{certainty:.1%}",
    }


def _describe_origin(result: Result) -> list[tuple[str, str]]:
    """Return the origin of the result as terms with values; unknown ones are left out."""
    code, config = result.manifest.get("code", {}), result.config
    measured = [trial.attributes for trial in result.trials if "device" in trial.attributes]
    devices = Counter(", ".join(each[name] for name in ("device", "precision") if name in each) for each in measured)
    started = [trial.started for trial in result.trials if trial.started is not None]
    ended = [trial.ended for trial in result.trials if trial.ended is not None]
    seconds = sum(trial.attributes.get("seconds", 0.0) for trial in result.trials)
    packages = ", ".join(f"{name} {version}" for name, version in code.get("packages", {}).items())
    openings = [entry["opened"] for entry in result.manifest.get("evaluations", []) if entry.get("opened")]
    retrained = f"; {describe_seeds(result.choices.get('seeds', config.evaluation.seeds))} of each winner"
    thresholds = ", ".join(sorted({f"{tested.threshold:g}" for tested in result.models}))
    temperatures = ", ".join(sorted({f"{tested.temperature:g}" for tested in result.models}))
    known = {
        "Command": result.manifest.get("command"),
        "Commit": describe_commit(code),
        "Versions": f"Python {code['python']}, {packages}" if packages else None,
        "Hardware": ", ".join(f"{name} ({count} trials)" for name, count in devices.items()),
        "Searched": f"{min(started):%Y-%m-%d %H:%M} to {max(ended):%Y-%m-%d %H:%M}" if started and ended else None,
        "Training": f"{format_duration(seconds)} in all trials",
        "Seeds": f"{config.search.seed} for the search{'' if config.trainable else retrained}",
        "Threshold": None if config.trainable else f"{thresholds} on P({result.classes[1]})",
        "Temperature": None if temperatures in ("", "1") else temperatures,
        "Test split opened": "; ".join(f"{opened['time']}, commit {describe_commit(opened)}" for opened in openings),
    }
    return [(term, str(value)) for term, value in known.items() if value]


def _finalize(value: Any) -> Any:
    """Return a value as text of the page; Jinja escapes its HTML afterwards."""
    return escape_lines(value) if type(value) is str else value


def _hash(script: str) -> str:
    """Return the hash by which a Content-Security-Policy names a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _escape_data(text: str) -> Markup:
    """Return JSON in which no text can close the script element around it."""
    return Markup(text.replace("<", "\\u003c"))
