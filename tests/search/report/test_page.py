import base64
import dataclasses
import json
import re
import shutil
from collections import Counter
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from search.config.load import dump, load, parse
from search.evaluation import result as results
from search.evaluation.result import Mistake, Result
from search.record.trial import State, Trial
from search.report.cells import Table
from search.report.page import NUM_MISTAKES, write_page

SPACE = {
    "shared": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "optimizer": {"choice": ["adam", "sgd"]}},
    "cnn": {"filters": {"choice": [16, 32, 48]}, "dropout": {"low": 0.0, "high": 0.5}},
}
PUBLISHED = load(Path(__file__).parents[3] / "configs" / "cifake.yaml").published
CONFIG = dataclasses.replace(parse({"name": "mine", "space": SPACE}), published=PUBLISHED)
START = datetime(2026, 1, 1, 12)
TABLE = Table(
    title="On the test split, in percent",
    header=["Model", "Source", "Seeds", "Accuracy", "Precision", "Recall", "F1", "AUROC", "Parameters"],
    rows=[["cnn", "this study", "2", "97.10 ± 0.20", "97.00", "97.00", "97.00", "99.50", "287,585"]],
)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def make_trial(number, architecture, generator, *, state=None):
    rate = float(10 ** generator.uniform(-4, -1))
    params = {"learning_rate": rate, "optimizer": str(generator.choice(["adam", "sgd"]))}
    if architecture == "cnn":
        params |= {"filters": int(generator.choice([16, 32, 48])), "dropout": float(generator.uniform(0, 0.5))}
    best = 0.95 - 0.06 * abs(np.log10(rate) + 2.5) - 0.02 * generator.random()
    state = state or (State.PRUNED if best < 0.9 else State.COMPLETE)
    length = {State.COMPLETE: 9, State.PRUNED: int(generator.choice([1, 3])), State.FAIL: 0}[state]
    epochs = [
        {
            "epoch": epoch,
            "train_loss": 0.7 / epoch,
            "train_accuracy": 1 - 0.4 / epoch,
            "loss": 0.5 / epoch + 0.02 * generator.random(),
            "accuracy": float(best - 0.3 / epoch**2),
        }
        for epoch in range(1, length + 1)
    ]
    return Trial(
        number=number,
        architecture=architecture,
        params=params,
        epochs=epochs,
        state=state,
        reason="loss is nan in epoch 1" if state is State.FAIL else None,
        attributes={"seconds": 20.0 * length, "device": "NVIDIA H200"},
        started=START + timedelta(seconds=40 * number),
        ended=START + timedelta(seconds=40 * number + 20 * length + 3),
    )


def make_model(architecture, seed, trial):
    return results.TestedModel(
        label=f"{architecture}-seed{seed}",
        architecture=architecture,
        rank=1,
        seed=seed,
        trial=trial,
        parameters=287_585,
        threshold=0.5,
        metrics={"accuracy": 0.97, "auroc": 0.995},
        confusion=((970, 30), (25 + seed, 975 - seed)),
        cost={"macs": 4.2e7, "training_seconds": 612.0, "peak_memory_bytes": 1.4e9},
    )


def make_result(*, num_trials=30, seeds=2, images=2000):
    """Return what a study of two architectures with some failures might find."""
    generator = np.random.default_rng(0)
    trials = [make_trial(number, ("cnn", "resnet50")[number % 3 == 2], generator) for number in range(num_trials)]
    trials.append(make_trial(num_trials, "cnn", generator, state=State.FAIL))
    best = {}
    for trial in trials:
        if trial.epochs and (
            trial.architecture not in best or trial.get_peak() > trials[best[trial.architecture]].get_peak()
        ):
            best[trial.architecture] = trial.number
    models = [make_model(name, seed, number) for name, number in best.items() for seed in range(seeds)]
    labels = generator.integers(2, size=images, dtype=np.uint8)
    predictions = {
        tested.label: (1 / (1 + np.exp(-generator.normal(4.0 * labels - 2, 1.6)))).astype(np.float32)
        for tested in models
    }
    pictures = generator.integers(256, size=(20, 32, 32, 3), dtype=np.uint8)
    mistakes = [
        Mistake(image=image, truth=number % 2, probability=(0.99, 0.03)[number % 2])
        for number, image in enumerate(pictures)
    ]
    code = {"commit": "0" * 40, "dirty": True, "python": "3.11.7", "packages": {"torch": "2.14.1", "ray": "2.60.0"}}
    counts = {"train": {"FAKE": 48_922, "REAL": 50_000}, "test": {"FAKE": 4_966, "REAL": 5_008}}
    data = {"fingerprint": "f" * 64, "counts": counts, "leaked": 158, "duplicates": 920, "skipped": ["a.txt"]}
    opened = {"time": "2026-01-01T13:00:00+00:00", "commit": "0" * 40, "dirty": False}
    command = "python -m search.run configs/cifake.yaml"
    return Result(
        study="mine",
        config=CONFIG,
        manifest={
            "command": command,
            "config": dump(CONFIG),
            "data": data,
            "code": code,
            "evaluations": [{"opened": opened}, {"opened": None}],
        },
        models=models,
        trials=trials,
        labels=labels,
        predictions=predictions,
        mistakes={tested.label: mistakes for tested in models},
        notes=["Chosen on validation.", "Published figures are the best epoch on the test split."],
    )


QUOTE = "cnn: accuracy 97.10 ± 0.20 % (95 % interval 96.90 to 97.30, 2 seeds, sealed, 2,000 images)"


def write(result, path, **known):
    tables = {"results": [TABLE], "search": [dataclasses.replace(TABLE, title="Spent")]}
    return write_page(result, path / "report.html", **tables, **known)


class Outline(HTMLParser):
    """What of a page a reader meets without seeing it."""

    def __init__(self, path):
        super().__init__()
        self.headings, self.tags, self.identifiers, self.opens = [], Counter(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.tags[tag] += 1
        self.identifiers += [known["id"]] if "id" in known else []
        self.opens.append(tag)
        if tag == "img":
            assert known["alt"]
            assert known["src"].startswith("data:image/png;base64,")
        if tag == "th":
            assert known["scope"] in ("row", "col")
        if known.get("role") in ("img", "region"):
            assert known["aria-label"]

    def handle_data(self, data):
        if self.opens and self.opens[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)

    def handle_endtag(self, _):
        self.opens.append("")


SECTIONS = ["Result", "Training and errors", "Probabilities", "Most confident mistakes", "The search", "The data"]


def test_the_page_has_every_section_table_and_figure(tmp_path):
    outline = Outline(write(make_result(), tmp_path))
    assert [heading for heading in outline.headings if heading in SECTIONS] == SECTIONS
    assert outline.tags["table"] == outline.tags["caption"] == 2 + 4 + 1  # given, confusion matrices, data
    assert outline.tags["svg"] == 4 + 3  # curves, then ROC, reliability and coverage
    assert outline.tags["img"] == 2 * NUM_MISTAKES
    assert outline.tags["figure"] == outline.tags["figcaption"] + 4  # a matrix has a caption
    assert len(set(outline.identifiers)) == len(outline.identifiers)


def test_the_charts_are_optunas(tmp_path):
    identifiers = Outline(write(make_result(), tmp_path)).identifiers
    for name in ("cnn", "resnet50"):
        assert {f"{name}-history", f"{name}-importance", f"{name}-parallel", f"{name}-slice-learning_rate"} <= {
            *identifiers
        }
    assert {"timeline", "cnn-slice-filters", "plotly"} <= {*identifiers}


def test_the_page_is_small_and_the_same_every_time(tmp_path):
    content = write(make_result(), tmp_path).read_bytes()
    assert len(content) < 3e6
    assert write(make_result(), tmp_path).read_bytes() == content


def test_the_page_describes_the_data_and_how_the_models_were_made(tmp_path):
    text = write(make_result(), tmp_path).read_text()
    for told in (
        "158",
        "920",
        "50,000",
        "f" * 64,
        "configs/cifake.yaml",
        "with changes",
        "torch 2.14.1",
        "NVIDIA H200",
        "<p>Sampler: portfolio, which draws ",
    ):
        assert told in text
    assert "2026-01-01T13:00:00+00:00, commit 000000000000" in text


def test_no_text_becomes_markup(tmp_path):
    result = make_result()
    record = {**result.manifest, "command": HOSTILE, "config": {"name": HOSTILE}}
    path = write(dataclasses.replace(result, notes=[HOSTILE, HOSTILE], study=HOSTILE, manifest=record), tmp_path)
    assert Outline(path).tags == Outline(write(result, tmp_path / "plain")).tags


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("one architecture", {"models": lambda models: [tested for tested in models if tested.architecture == "cnn"]}),
        ("one seed", {"models": lambda models: [tested for tested in models if tested.seed == 0]}),
        ("no mistakes", {"mistakes": lambda mistakes: {label: [] for label in mistakes}}),
        (
            "no predictions",
            {"predictions": lambda _: {}, "labels": lambda labels: labels[:0], "mistakes": lambda _: {}},
        ),
        ("an empty manifest", {"manifest": lambda _: {}}),
        ("no counts", {"manifest": lambda manifest: manifest | {"data": {"counts": {}}}}),
    ],
)
def test_a_page_of_a_smaller_result_leaves_out_the_missing_parts(name, changes, tmp_path):
    result = make_result()
    less = dataclasses.replace(result, **{field: change(getattr(result, field)) for field, change in changes.items()})
    outline = Outline(write(less, tmp_path))
    assert outline.headings[:3] == ["Study mine", "Result", "Training and errors"]
    assert ("Probabilities" in outline.headings) is (name != "no predictions")
    assert ("Most confident mistakes" in outline.headings) is (name not in ("no predictions", "no mistakes"))
    assert outline.tags["svg"] == {"one architecture": 2 + 3, "no predictions": 4}.get(name, 4 + 3)


def test_few_trials_have_no_importance(tmp_path):
    identifiers = Outline(write(make_result(num_trials=3), tmp_path)).identifiers
    assert {"cnn-history", "resnet50-history", "cnn-parallel"} <= {*identifiers}
    assert not [name for name in identifiers if name.endswith("importance")]
    assert "Importance needs 10 trials with a value, 9 more than these 1." in (tmp_path / "report.html").read_text()


def test_a_study_whose_other_architecture_failed_says_so(tmp_path):
    result = make_result()
    trials = [
        dataclasses.replace(trial, epochs=[], state=State.FAIL) if trial.architecture == "resnet50" else trial
        for trial in result.trials
    ]
    models = [tested for tested in result.models if tested.architecture == "cnn"]
    path = write(dataclasses.replace(result, trials=trials, models=models), tmp_path)
    assert "None has a value to draw." in path.read_text()
    assert "resnet50-history" not in Outline(path).identifiers


class Browser:
    """A real Chromium without network, and what it asked for and complained of."""

    def __init__(self):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})

    def open(self, path, *, width=1280, scheme="light"):
        """Return the addresses that were asked for and the console's messages, once the page is drawn."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(path.as_uri())
        WebDriverWait(self.driver, 100).until(lambda _: self.ask("document.readyState") == "complete")
        if self.ask("document.getElementById('plotly') !== null"):
            WebDriverWait(self.driver, 100).until(lambda _: self.ask("'drawn' in document.documentElement.dataset"))
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return {request["request"]["url"] for request in sent}, self.driver.get_log("browser")

    def ask(self, expression):
        return self.driver.execute_script(f"return {expression}")

    def take_picture(self, path):
        """Return the whole page, written as PNG, as an array (H, W, 3)."""
        size = {name: self.ask(f"document.documentElement.scroll{name.title()}") for name in ("width", "height")}
        options = {"captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "scale": 1, **size}}
        picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)
        path.write_bytes(base64.b64decode(picture["data"]))
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def browser():
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    opened = Browser()
    yield opened
    opened.driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write(make_result(), tmp_path_factory.mktemp("page"))


def test_the_browser_of_these_tests_records_requests_and_errors(browser, tmp_path):
    path = tmp_path / "leaking.html"
    path.write_text('<!doctype html><script src="https://example.org/x.js"></script><script>missing()</script>')
    asked, told = browser.open(path)
    assert "https://example.org/x.js" in asked
    assert any("missing is not defined" in entry["message"] for entry in told)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_network_and_without_complaint(browser, page, tmp_path, scheme):
    asked, told = browser.open(page, scheme=scheme)
    assert {address for address in asked if not address.startswith(("data:", "blob:"))} == {page.as_uri()}
    assert told == []
    charts = browser.ask("document.querySelectorAll('.chart').length")
    assert browser.ask("document.querySelectorAll('.chart .main-svg:first-child').length") >= charts > 10
    assert browser.ask("document.querySelectorAll('.chart > p').length") == 0
    picture = browser.take_picture(tmp_path / f"{scheme}.png")
    assert picture.shape[0] > 3000
    assert bool(picture[0, 0].mean() > 200) is (scheme == "light")
    assert len(np.unique(picture.reshape(-1, 3) @ (65536, 256, 1))) > 500


@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_sentence_is_copied_or_else_selected(browser, tmp_path, is_allowed):
    browser.open(write(make_result(num_trials=3), tmp_path, quotes=[QUOTE], overview="<svg></svg>"))
    answer = "text => { document.title = text }" if is_allowed else "() => Promise.reject()"
    browser.driver.execute_script(f"navigator.clipboard.writeText = {answer}")
    assert browser.ask("document.querySelector('.quote button').hidden") is False
    browser.driver.execute_script("document.querySelector('.quote button').click()")
    WebDriverWait(browser.driver, 100).until(
        lambda _: browser.ask("document.title" if is_allowed else "getSelection().toString()") == QUOTE
    )


def test_text_can_be_read_on_either_paper(browser, page):
    for scheme in ("light", "dark"):
        browser.open(page, scheme=scheme)
        paper = browser.ask("getComputedStyle(document.body).backgroundColor")
        for chosen in ("body", ".notes", "figcaption", "figure svg text", ".chart .xtick text", ".chart .legendtext"):
            kind = "fill" if "text" in chosen else "color"
            ink = browser.ask(f"getComputedStyle(document.querySelector('{chosen}')).{kind}")
            assert contrast(ink, paper) >= 4.5, (scheme, chosen, ink, paper)


def contrast(first, second):
    """Contrast of two colours such as rgb(0, 0, 0). Source: WCAG 2.2, contrast ratio."""

    def get_luminance(colour):
        values = np.array([int(value) for value in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    low, high = sorted([get_luminance(first), get_luminance(second)])
    return (high + 0.05) / (low + 0.05)


def test_a_telephone_scrolls_down_only(browser, page, tmp_path):
    browser.open(page, width=360)
    assert browser.ask("document.documentElement.scrollWidth") == 360
    assert browser.take_picture(tmp_path / "phone.png").shape[1] == 360


def test_it_prints_in_black_on_white_with_its_charts(browser, page):
    browser.open(page, scheme="dark")
    printed = base64.b64decode(browser.driver.print_page())
    assert printed.startswith(b"%PDF")
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 15


def test_hostile_text_stays_text_in_the_browser(browser, tmp_path):
    result = make_result(num_trials=4)
    path = write(dataclasses.replace(result, study=HOSTILE, notes=[HOSTILE]), tmp_path)
    _, told = browser.open(path)
    assert told == []
    assert browser.ask("document.title") == f"Study {HOSTILE}"


LINK = '<a href="https://example.org">x</a>\u202e<b>&amp;'


def test_a_choice_that_is_hostile_is_no_link_in_a_chart(browser, tmp_path):
    space = {"resnet50": {"weights": {"choice": ["none", LINK]}, "learning_rate": {"low": 1e-4, "high": 1e-1}}}
    result = dataclasses.replace(make_result(), config=parse({"name": "mine", "space": space}))
    for number, trial in enumerate(result.trials):
        trial.params["weights"] = ("none", LINK)[number % 2]
        trial.architecture = "resnet50"
    path = write(result, tmp_path)
    assert "resnet50-slice-weights" in Outline(path).identifiers
    _, told = browser.open(path)
    assert told == []
    assert browser.ask("[...document.querySelectorAll('a')].filter((link) => !link.hash).length") == 0
    shown = browser.ask("[...document.querySelectorAll('.chart text')].map((text) => text.textContent).join('|')")
    assert '<a href="https' in shown
    assert "\u202e" not in browser.ask("document.documentElement.outerHTML")
    hover = browser.ask("JSON.stringify([...document.querySelectorAll('.chart')].map((chart) => chart.data))")
    assert "<a " not in hover
    assert "\u202e" not in hover
