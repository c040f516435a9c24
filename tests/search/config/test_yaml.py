import pytest

from search.config.load import load
from search.config.yaml import overlay, read_yaml, set_value, write_yaml
from trainables.errors import InputError


def read(tmp_path, text):
    path = tmp_path / "document.yaml"
    path.write_text(text)
    return read_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("-.5", -0.5),
        ("12", 12),
        ("true", True),
        ("on", "on"),
        ("yes", "yes"),
        ("none", "none"),
        ("null", None),
        ("", None),
        ("1_000", "1_000"),
        ("2020-01-01", "2020-01-01"),
    ],
)
def test_scalars_follow_yaml_1_2(tmp_path, text, value):
    read_value = read(tmp_path, f"key: {text}\n")["key"]
    assert read_value == value
    assert type(read_value) is type(value)


def test_a_repeated_key_is_refused(tmp_path):
    with pytest.raises(InputError, match="key 'a' is repeated"):
        read(tmp_path, "a: 1\na: 2\n")


@pytest.mark.parametrize("text", ["space: &s {cnn: *s}\n", "space: {cnn: &s [1, *s]}\n"])
def test_a_value_that_contains_itself_is_refused(tmp_path, text):
    (tmp_path / "study.yaml").write_text(text)
    for extends in ("", "extends: study.yaml\n"):
        (tmp_path / "above.yaml").write_text(extends + text)
        with pytest.raises(InputError, match="is not valid YAML: a value contains itself"):
            load(tmp_path / "above.yaml")
    with pytest.raises(InputError, match="the value is not valid YAML"):
        set_value({}, f"space={text.partition(' ')[2]}")


def test_an_alias_of_another_value_is_read(tmp_path):
    assert read(tmp_path, "a: &s {x: [1]}\nb: *s\n") == {"a": {"x": [1]}, "b": {"x": [1]}}


@pytest.mark.parametrize("text", ["- 1\n", "3\n", "", "a: [\n", "a: !!python/object:os.system {}\n"])
def test_what_is_no_plain_mapping_is_refused(tmp_path, text):
    with pytest.raises(InputError):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.yaml: no such file"):
        read_yaml(tmp_path / "nowhere.yaml")


def test_a_file_overrides_the_one_it_extends(tmp_path):
    (tmp_path / "base.yaml").write_text("a: {b: 1, c: 2}\nd: 3\n")
    assert read(tmp_path, "extends: base.yaml\na: {c: 4}\n") == {"a": {"b": 1, "c": 4}, "d": 3}


def test_a_range_or_choice_is_replaced_as_a_whole():
    below = {"filters": {"low": 1, "high": 2, "log": True}}
    assert overlay(below, {"filters": {"choice": [1]}}) == {"filters": {"choice": [1]}}
    assert overlay(below, {"filters": 3}) == {"filters": 3}


@pytest.mark.parametrize("override", ["a", "=1", "a..b=1", "a.b.c=1", "a=[1"])
def test_a_malformed_override_is_refused(override):
    with pytest.raises(InputError, match="--set"):
        set_value({"a": {"b": 3}}, override)


@pytest.mark.parametrize(
    "text", ["06550887", "12345678", "12e34567", "1e-3", "on", "null", "~", "0o7", ".inf", "3d4f0a1b"]
)
def test_a_text_that_looks_like_something_else_is_read_back_as_text(tmp_path, text):
    path = tmp_path / "x.yaml"
    write_yaml(path, {"id": text, "values": [1, 1e-5, 1e16, True, None]})
    assert read_yaml(path) == {"id": text, "values": [1, 1e-5, 1e16, True, None]}


def test_a_number_with_leading_zeros_is_no_octal_one(tmp_path):
    assert read(tmp_path, "a: 010\nb: 089\n") == {"a": 10, "b": 89}
