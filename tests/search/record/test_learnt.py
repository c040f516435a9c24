"""What a study learns from earlier ones: copied when it starts, the same after every resume."""

import dataclasses
import hashlib
import json
import math
import secrets
import shutil

import pytest

from search.config.load import parse
from search.config.yaml import read_yaml
from search.record.folder import create_folder, open_study
from search.record.learnt import load_learnt
from search.record.object_store import Store
from search.record.warm_start import learn
from search.study import Study
from trainables.errors import InputError

SPACE = {"cnn": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "filters": {"low": 8, "high": 64}}}


def configure(tmp_path, name, space=SPACE, learn_from=(), **search):
    fixed = {"architectures": ["cnn"], "num_trials": 12, "max_epochs": 3, "num_startup_trials": 8}
    places = [str(tmp_path / "results" / place) for place in learn_from]
    search = {**fixed, "learn_from": places, **search}
    return parse({"name": name, "results": str(tmp_path / "results"), "search": search, "space": space})


def search(config, packed, limit=None, said=None):
    """Search a closed form; stop, as if killed, after `limit` epochs. Return the study and whether it has ended."""
    with open_study(config, (said if said is not None else []).append, is_search=True, packed=packed) as opened:
        study, trained = Study(config, opened.journal, learnt=opened.learnt), 0
        while (trial := study.ask()) is not None:
            stop = False
            while not stop:
                if trained == limit:
                    return study, False
                accuracy = 0.9 - 0.1 * abs(math.log10(trial.params["learning_rate"]) + 2.5) - trial.number / 1e3
                metrics = {"epoch": len(trial.epochs) + 1, "accuracy": accuracy}
                stop = study.report(trial.number, metrics, "cpu")
                trained += 1
        return study, True


def list_points(study):
    return [(trial.params, trial.state, len(trial.epochs)) for trial in study.trials]


@pytest.fixture
def old(tmp_path, packed):
    """A study to learn from."""
    study, _ = search(configure(tmp_path, "old", scheduler="none"), packed)
    return study


@pytest.mark.parametrize("sampler", ["tpe", "tpe_tame", "gp", "gp_rungs", "optuna.samplers:CmaEsSampler"])
def test_what_was_learnt_replaces_random_trials_and_counts_for_nothing_else(tmp_path, packed, old, sampler):
    said = []
    config = configure(tmp_path, "new", learn_from=["old"], sampler=sampler, scheduler="none")
    new, _ = search(config, packed, said=said)
    plain, _ = search(configure(tmp_path, "plain", sampler=sampler, scheduler="none"), packed)
    assert len(new.trials) == 12
    assert new.num_epochs == plain.num_epochs == 36
    assert [trial.number for trial in new.trials] == list(range(12))
    assert new.trials[0].params != plain.trials[0].params
    known = new._candidates["cnn"].sampler._history.trials
    assert [trial.number for trial in known] == list(range(-12, 12))
    assert known[0].params == {name: old.trials[0].params[name] for name in SPACE["cnn"]}
    assert said == [f"{tmp_path}/results/old: the samplers learn from 12 trials; 0 are outside this study's space"]


@pytest.mark.parametrize("limit", [1, 4, 11])
@pytest.mark.usefixtures("old")
def test_a_killed_study_whose_earlier_study_is_gone_equals_one_that_is_not(tmp_path, packed, limit):
    straight, _ = search(configure(tmp_path, "straight", learn_from=["old"]), packed)
    killed, has_ended = search(configure(tmp_path, "killed", learn_from=["old"]), packed, limit)
    shutil.rmtree(tmp_path / "results" / "old")
    while not has_ended:
        killed, has_ended = search(configure(tmp_path, "killed", learn_from=["old"]), packed, limit)
    assert list_points(killed) == list_points(straight)


def test_points_outside_of_the_space_failed_trials_and_other_architectures_are_left_out(tmp_path, old):
    space = {"cnn": {**SPACE["cnn"], "filters": {"low": 8, "high": 30}, "dropout": 0.0}}
    inside = [trial for trial in old.trials if trial.params["filters"] <= 30]
    said = []
    found, _ = learn(configure(tmp_path, "new", space, ["old"]), said.append)
    assert 0 < len(inside) < 12
    assert [trial.number for trial in found] == [trial.number for trial in inside]
    assert f"learn from {len(inside)} trials; {12 - len(inside)} are outside" in said[0]
    space["cnn"]["dropout"] = 0.5
    assert learn(configure(tmp_path, "new", space, ["old"]), said.append)[0] == []
    assert learn(configure(tmp_path, "new", {}, ["old"], architectures=["resnet50"]), said.append)[0] == []


def test_a_trial_without_a_parameter_whose_condition_fails_is_learnt_from(tmp_path, packed):
    units = {"low": 8, "high": 64, "when": {"dense_layers": [1, 2]}}
    space = {"cnn": {**SPACE["cnn"], "dense_layers": {"choice": [0, 1, 2]}, "dense_units": units}}
    old, _ = search(configure(tmp_path, "old", space, scheduler="none"), packed)
    known, _ = learn(configure(tmp_path, "new", space, ["old"]), [].append)
    assert any("dense_units" not in trial.params for trial in old.trials)
    assert [trial.params for trial in known] == [trial.params for trial in old.trials]

    new, _ = search(configure(tmp_path, "new", space, ["old"], num_trials=3), packed)
    history = new._candidates["cnn"].sampler._history.trials[:12]
    assert [each.params for each in history] == [
        {name: trial.params[name] for name in space["cnn"] if name in trial.params} for trial in old.trials
    ]

    space["cnn"]["dense_units"] = {"low": 8, "high": 64, "when": {"dense_layers": [2]}}
    known, _ = learn(configure(tmp_path, "other", space, ["old"]), [].append)
    assert [t.number for t in known] == [t.number for t in old.trials if t.params["dense_layers"] != 1]
    space["cnn"]["dense_units"] = {"low": 8, "high": 64}
    known, _ = learn(configure(tmp_path, "other", space, ["old"]), [].append)
    assert [t.number for t in known] == [t.number for t in old.trials if t.params["dense_layers"] != 0]


@pytest.mark.usefixtures("old")
def test_the_record_names_the_journals_and_the_copy_by_their_hashes(tmp_path, packed):
    config = configure(tmp_path, "new", learn_from=["old"])
    search(config, packed, 0)
    journal = (tmp_path / "results" / "old" / "study.journal").read_bytes()
    record = read_yaml(config.directory / "study.yaml")["learnt"]
    copy = config.directory / "learnt.json"
    assert record["journals"] == {f"{tmp_path}/results/old": hashlib.sha256(journal).hexdigest()}
    assert {trial["attributes"]["learnt_from"] for trial in json.loads(copy.read_text())} == set(record["journals"])
    assert record["sha256"] == hashlib.sha256(copy.read_bytes()).hexdigest()
    assert [trial.number for trial in load_learnt(config.directory, {"learnt": record})] == list(range(12))
    trials = json.loads(copy.read_text())
    copy.write_text(json.dumps(trials[1:]))
    for _ in range(2):
        with pytest.raises(InputError, match="is not the file that the study started with: restore it"):
            search(config, packed)
        copy.unlink(missing_ok=True)


@pytest.mark.usefixtures("old")
def test_more_trials_than_can_be_read_again_are_refused_before_a_study_starts(tmp_path, packed):
    config = configure(tmp_path, "new", learn_from=["old"])
    trials, journals = learn(config, [].append)
    trials[0].attributes["traceback"] = "x" * 2**26
    with pytest.raises(InputError, match=r"search[.]learn_from: the 12 trials of .* 67,108,864: name fewer studies"):
        create_folder(config, packed, (trials, journals))
    assert not config.directory.exists()


@pytest.mark.parametrize("content", ["no JSON", "[" * 100_000])
def test_a_strangers_copy_that_cannot_be_read_is_one_sentence(tmp_path, content):
    (tmp_path / "learnt.json").write_text(content)
    known = {"sha256": hashlib.sha256(content.encode()).hexdigest(), "journals": {}}
    with pytest.raises(InputError, match=r"learnt\.json is damaged: restore it from a copy"):
        load_learnt(tmp_path, {"learnt": known})


@pytest.mark.usefixtures("old")
def test_what_a_study_learns_from_cannot_change(tmp_path, packed):
    search(configure(tmp_path, "new"), packed, 0)
    for accept in (True, False):
        with (
            pytest.raises(InputError, match=r"started with another search[.]learn_from: undo that, or use"),
            open_study(
                configure(tmp_path, "new", learn_from=["old"]),
                print,
                is_search=True,
                packed=packed,
                accept_changes=accept,
            ),
        ):
            pass


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("typo", "search.learn_from: there is no study in .*/results/typo: expected the folder results/NAME of one"),
        ("new", "search.learn_from: .*/results/new is this study itself: leave it out"),
        ("damaged", "search.learn_from: .*study.yaml"),
    ],
)
def test_a_study_that_cannot_be_learnt_from_is_one_sentence(tmp_path, packed, place, said):
    create_folder(configure(tmp_path, "damaged"), packed)
    (tmp_path / "results" / "damaged" / "study.yaml").write_text("{}")
    with (
        pytest.raises(InputError, match=said),
        open_study(configure(tmp_path, "new", learn_from=[place]), print, is_search=True, packed=packed),
    ):
        pass
    assert not (tmp_path / "results" / "new").exists()


@pytest.mark.usefixtures("old")
def test_an_object_store_has_what_was_learnt_before_the_study_begins(tmp_path, packed):
    config = configure(tmp_path, "new", learn_from=["old"])
    data = dataclasses.replace(config.data, cache=str(tmp_path / "cache"))
    config = dataclasses.replace(config, results=f"memory://{secrets.token_hex(8)}", data=data)
    straight, _ = search(config, packed, 0)
    assert Store(config.url).read("learnt.json") == (config.directory / "learnt.json").read_bytes()
    shutil.rmtree(config.directory)
    shutil.rmtree(tmp_path / "results" / "old")
    elsewhere, _ = search(config, packed, 1)
    assert elsewhere.trials[0].params == straight.trials[0].params
    assert len(elsewhere._candidates["cnn"].sampler._history.trials) == 13
