"""The page in a real Chromium, while another process writes the record."""

import csv
import io
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from search.commands.dashboard import POLICY, answer_to
from search.config.load import parse
from search.record.journal import Journal
from search.record.manifest import save_manifest
from search.record.metric import Metric
from search.record.trial import State
from search.report.publish import store_artifacts

ROOT = Path(__file__).parents[3]
SEARCHER = """
import sys, time
from pathlib import Path
from optuna.distributions import FloatDistribution
from search.record.journal import Journal
from search.record.trial import State
journal = Journal(Path(sys.argv[1]), "mine", note=print)
while True:
    number = len(journal.load())
    rate = 0.001 * (number + 1)
    ranges = {"learning_rate": FloatDistribution(1e-4, 1.0), "dropout": FloatDistribution(0.0, 1.0)}
    trial = journal.add_trial("cnn", {"learning_rate": rate, "dropout": number % 7 / 7}, ranges)
    for epoch in (1, 2):
        journal.add_epoch(trial, {"epoch": epoch, "accuracy": 0.5 + rate * epoch / 4}, device="cpu", elapsed_s=1.0)
        time.sleep(0.05)
    journal.end_trial(trial, State.COMPLETE, None, {"seconds": 1.0})
"""


@pytest.fixture
def folder(tmp_path, describe_record):
    """A study of one complete trial with an accuracy of 1, and a published picture."""
    folder = tmp_path / "mine"
    folder.mkdir()
    save_manifest(folder, describe_record(parse({"name": "mine"})))
    journal = Journal(folder / "study.journal", "mine", note=print)
    trial = journal.add_trial("cnn", {"filters": 48}, {})
    journal.add_epoch(trial, {"epoch": 1, "accuracy": 0.984375}, device="cpu", elapsed_s=1.0)
    journal.end_trial(trial, State.COMPLETE, None, {"seconds": 1.0})
    (tmp_path / "cnn_confusion.png").write_bytes(b"a picture")
    store_artifacts([tmp_path / "cnn_confusion.png"], folder / "artifacts", journal)
    return folder


@pytest.fixture
def address(folder, spawn):
    """Where a running dashboard answers."""
    return serve(folder, spawn)


def serve(folder, spawn):
    command = [sys.executable, "-m", "search", "dashboard", folder, "--port", "0"]
    line = spawn(command, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.readline()
    assert line.startswith("mine: http://127.0.0.1:")
    return line.split()[1].rstrip("/")


def ask(address, method="GET", body=None):
    request = urllib.request.Request(address, method=method, data=body)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def test_the_best_trial_of_a_study_with_goal_min_has_the_smallest_value(tmp_path, describe_record, spawn):
    folder = tmp_path / "mine"
    folder.mkdir()
    save_manifest(folder, describe_record(parse({"name": "mine", "search": {"metric": "loss"}})))
    journal = Journal(folder / "study.journal", "mine", note=print, metric=Metric("loss", -1))
    for loss in (0.5, 0.25, 0.75):
        trial = journal.add_trial("cnn", {"filters": 48}, {})
        journal.add_epoch(trial, {"epoch": 1, "loss": loss}, device="cpu", elapsed_s=1.0)
        journal.end_trial(trial, State.COMPLETE, None, {})
    address = serve(folder, spawn)
    (study,) = json.loads(ask(f"{address}/api/studies"))["study_summaries"]
    detail = json.loads(ask(f"{address}/api/studies/0?after=0"))
    assert study["directions"] == detail["directions"] == ["minimize"]
    assert detail["objective_names"] == ["loss"]
    assert [(trial["number"], trial["values"]) for trial in detail["best_trials"]] == [(1, [0.25])]


def test_the_page_shows_the_study_and_its_pictures(address):
    studies = json.loads(ask(f"{address}/api/studies"))["study_summaries"]
    assert [study["study_name"] for study in studies] == ["mine"]
    detail = json.loads(ask(f"{address}/api/studies/0?after=0"))
    assert detail["best_trials"][0]["values"] == [0.984375]
    (picture,) = detail["artifacts"]
    assert picture["filename"] == "cnn_confusion.png"
    assert ask(f"{address}/artifacts/0/{picture['artifact_id']}") == b"a picture"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/studies/0", None),
        ("POST", "/api/studies", b'{"study_name": "other", "directions": ["minimize"]}'),
        ("PUT", "/api/studies/0/note", b'{"version": 1, "body": "hello"}'),
        ("POST", "/api/studies/0/rename", b'{"study_name": "other"}'),
    ],
)
def test_the_page_changes_no_study(address, folder, method, path, body):
    before = (folder / "study.journal").read_bytes()
    with pytest.raises(urllib.error.HTTPError, match="403") as refusal:
        ask(address + path, method, body)
    refusal.value.close()
    assert (folder / "study.journal").read_bytes() == before


def open_page(address, path, host=None):
    """Return status and headers of a page, asked for under a host name."""
    request = urllib.request.Request(address + path, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("LOCALHOST", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_only_requests_for_its_own_names_are_answered(address, host, status):
    """Another site's name can be made to lead to this machine, and its script then reads what we answer."""
    for path in ("/dashboard", "/api/studies", "/static/bundle.js"):
        assert open_page(address, path, host)[0] == status


def test_a_further_name_is_answered_to_where_it_is_allowed():
    def application(_, start_response):
        start_response("200 OK", [])
        return [b""]

    for names, status in ((["a.example"], "200 OK"), (["b.example", ""], "403 Forbidden")):
        heard = []
        environ = {"HTTP_HOST": "A.example:8080"}
        answer_to(names, application)(environ, lambda status, _, heard=heard: heard.append(status))
        assert heard == [status]


def test_a_table_that_is_downloaded_has_no_formula(folder, spawn):
    journal = Journal(folder / "study.journal", "mine", note=print)
    trial = journal.add_trial("cnn", {"filters": 16}, {})
    journal.end_trial(trial, State.FAIL, '=HYPERLINK("http://x")', {"@SUM(1)": 1.0})
    journal.close()
    with urllib.request.urlopen(f"{serve(folder, spawn)}/csv/0", timeout=60) as answer:
        content = answer.read()
    assert int(answer.headers["Content-Length"]) == len(content)
    header, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
    assert len(rows) == 2
    cells = [cell for row in (header, *rows) for cell in row]
    assert [cell for cell in cells if "HYPERLINK" in cell or "SUM" in cell]
    assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]


def test_an_artifact_is_stored_and_not_shown(address):
    (picture,) = json.loads(ask(f"{address}/api/studies/0?after=0"))["artifacts"]
    _, headers = open_page(address, f"/artifacts/0/{picture['artifact_id']}")
    assert headers["Content-Disposition"] == "attachment"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert open_page(address, "/dashboard")[1].get_all("Content-Security-Policy") == [POLICY]


def test_an_artifact_that_became_a_link_is_not_followed(address, folder, tmp_path):
    (picture,) = json.loads(ask(f"{address}/api/studies/0?after=0"))["artifacts"]
    path = folder / "artifacts" / picture["artifact_id"]
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    assert open_page(address, f"/artifacts/0/{picture['artifact_id']}")[0] in (404, 500)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no study in nowhere"),
        (["mine", "--host", "256.0.0.1", "--port", "0"], "cannot listen on 256.0.0.1:0"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, arguments, message):
    import typer
    from typer.testing import CliRunner

    from search.commands.dashboard import main

    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def browser():
    """A headless Chromium."""
    from selenium import webdriver

    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,2000"):
        options.add_argument(argument)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        yield browser


@pytest.mark.slow
def test_a_browser_shows_study_best_value_and_plots_while_the_search_continues(address, folder, browser, spawn):
    searcher = spawn([sys.executable, "-c", SEARCHER, folder / "study.journal"], cwd=ROOT)
    browser.get(f"{address}/dashboard")
    wait_for(browser, "mine", lambda: "mine" in read_text(browser))
    browser.get(f"{address}/dashboard/studies/0")
    wait_for(browser, "the best value", lambda: "0.984375" in read_text(browser))
    wait_for(browser, "plots", lambda: len(browser.find_elements("css selector", ".js-plotly-plot")) >= 2)
    wait_for(browser, "a point per trial", lambda: count_points(browser) >= 5)
    before = count_points(browser)
    wait_for(browser, "points of new trials", lambda: count_points(browser) > before)
    searcher.kill()
    searcher.wait()
    assert len(Journal(folder / "study.journal", "mine", note=print).load()) > 5


def read_text(browser):
    return browser.execute_script("return document.body.innerText")


def count_points(browser):
    """Return how many trials the plot of the history shows."""
    script = "return Math.max(0, ...[...document.querySelectorAll('.js-plotly-plot')].map(p => p.data[0].x.length))"
    return browser.execute_script(script)


def wait_for(browser, what, is_there):
    deadline = time.monotonic() + 100
    while not is_there():
        assert time.monotonic() < deadline, f"the page never showed {what}: {read_text(browser)[:2000]}"
        time.sleep(0.1)
