"""Whatever stands in a YAML file, an overlay or a --set: a checked config, or a ConfigError that
says what is wrong.
"""

import math
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from util.config.fields import Key, keys_of
from util.config.keys import PROGRAMS, FinetuneConfig, PretrainConfig
from util.config.load import (
    find_overlay,
    load_config,
    load_yaml,
    merge,
    parse_override,
    save_config,
)
from util.errors import ConfigError

BASE = {"model_name": "vit_tiny", "dataset": {"transforms": []}, "train": {"epochs": 1}}
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=7000, deadline=None, suppress_health_check=list(HealthCheck))


def paths(section, prefix=""):
    """Every dotted key and section."""
    for name, spec in keys_of(section).items():
        yield prefix + name
        if not isinstance(spec, Key):
            yield from paths(spec, f"{prefix}{name}.")


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
    st.sampled_from(
        ["1e-3", "inf", "nan", "all", "12lead", "500 steps", "9" * 400, -1, 0, 1, "null"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=6,
)
EVERY_PATH = sorted({path for program in PROGRAMS.values() for path in paths(program)})
KNOWN = st.sampled_from(EVERY_PATH)
PROGRAM = st.sampled_from(list(PROGRAMS.values()))
ODD = st.sampled_from(
    [
        "train",
        "dataset.train",
        "a..b",
        ".",
        "train.",
        "-",
        " ",
        "base",
        "finetune",
        "model.encoder.x",
        "train.dist_eval",
        "dataset.train_csv",
        "dataset.train_transforms",
        "use_amp",
    ]
)
NAMES = st.one_of(KNOWN, st.text(max_size=12), ODD)


@st.composite
def configs(draw):
    """A mapping that is nearly right: known keys at their places with any value, and sometimes an
    unknown one.
    """
    config = dict(BASE)
    for _ in range(draw(st.integers(0, 4))):
        place, *inner = draw(NAMES).split(".")
        value = draw(VALUES)
        for name in reversed(inner):
            value = {name: value}
        config[place] = value
    return config


def accepted_or_explained(function):
    """The result, or None after a ConfigError of one readable line."""
    try:
        return function()
    except ConfigError as error:
        assert str(error).strip() and len(str(error).splitlines()) == 1, str(error)
        return None


def is_resolved(config, section):
    """All keys of the section are there, with values of their types."""
    for name, spec in keys_of(section).items():
        value = getattr(config, name)
        if not isinstance(spec, Key):
            is_resolved(value, spec)
            continue
        assert (
            value is None
            and None in spec.types
            or isinstance(value, tuple(t for t in spec.types if t))
        ), name
        if isinstance(value, float):
            assert math.isfinite(value)
        assert value is None or not spec.choices or value in spec.choices


def merge_case(folder, layers, program):
    """Files merged left to right; a resolved config feeds back to itself."""
    files = []
    for number, layer in enumerate(layers):
        files.append(folder / f"{number}.yaml")
        try:
            files[-1].write_text(yaml.safe_dump(layer), encoding="utf-8")
        except (yaml.YAMLError, UnicodeEncodeError):
            return
    resolved = accepted_or_explained(lambda: load_config(files, program=program))
    if resolved is not None:
        is_resolved(resolved, program)
        save_config(resolved, folder / "resolved.yaml")
        assert load_config([folder / "resolved.yaml"], program=program) == resolved


def override_case(name, value, program):
    """One --set over a good base."""
    resolved = accepted_or_explained(
        lambda: load_config([], [f"{name}={value}"], BASE, program=program)
    )
    if resolved is not None:
        is_resolved(resolved, program)


def text_case(folder, text):
    """Any bytes in a YAML file."""
    (folder / "x.yaml").write_bytes(text)
    found = accepted_or_explained(lambda: load_yaml(folder / "x.yaml"))
    if found is not None:
        assert isinstance(found, dict)
        accepted_or_explained(lambda: load_config([folder / "x.yaml"], program=FinetuneConfig))


PIECES = st.sampled_from(
    [
        "a",
        "train",
        ":",
        ": ",
        "- ",
        "\n",
        "  ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&x ",
        "*x",
        "!!python/object:os.x ",
        "!!",
        "<<: ",
        "|",
        ">",
        "'",
        '"',
        "#",
        "1",
        "1e5",
        "0x",
        "~",
        "? ",
        "---\n",
        "%YAML 1.1\n",
        "\t",
        "2001-99-99",
        "\\",
        "!!binary ",
        "!!set ",
        "!!timestamp ",
        "0o7",
        "1:60:60",
        "=",
        "é",
        "\0",
        "!!float ",
        "!!int ",
    ]
)
YAML_TEXT = st.lists(PIECES, max_size=14).map("".join).map(str.encode) | st.binary(max_size=40)


@QUICK
@given(layers=st.lists(configs(), min_size=1, max_size=3), program=PROGRAM)
def test_merge(tmp_path_factory, layers, program):
    merge_case(tmp_path_factory.getbasetemp(), layers, program)


@QUICK
@given(
    name=NAMES,
    value=VALUES.map(str) | YAML_TEXT.map(lambda text: text.decode(errors="replace")),
    program=PROGRAM,
)
def test_overrides(name, value, program):
    override_case(name, value, program)


@QUICK
@given(text=YAML_TEXT)
def test_yaml_text(tmp_path_factory, text):
    text_case(tmp_path_factory.getbasetemp(), text)


@pytest.mark.slow
@LONG
@given(layers=st.lists(configs(), min_size=1, max_size=3), program=PROGRAM)
def test_merge_long(tmp_path_factory, layers, program):
    merge_case(tmp_path_factory.getbasetemp(), layers, program)


@pytest.mark.slow
@LONG
@given(
    name=NAMES,
    value=VALUES.map(str) | YAML_TEXT.map(lambda text: text.decode(errors="replace")),
    program=PROGRAM,
)
def test_overrides_long(name, value, program):
    override_case(name, value, program)


@pytest.mark.slow
@LONG
@given(text=YAML_TEXT)
def test_yaml_text_long(tmp_path_factory, text):
    text_case(tmp_path_factory.getbasetemp(), text)


@pytest.mark.parametrize(
    "text",
    [
        "&a {model: *a}",
        "&a [*a]",
        "model: &a {x: *a}",
        "a: " + "[" * 500,
        "{" * 500,
        "- a\n- b",
        "5",
        "a: !!python/name:os.system",
        "a: !!python/object/apply:os.getcwd []",
        "x: " + "9" * 5000,
        "? [a]\n: 1",
        "\x00",
        "train: 1",
        "dataset: []",
        "model: {a: 2001-13-45}",
        "a: *nowhere",
        "train: {epochs: .nan}",
        "train: {lr: .inf}",
        "seed: 1.5",
        "seed: true",
    ],
)
def test_yaml_that_went_wrong_before_or_might(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    assert (
        accepted_or_explained(lambda: load_config([tmp_path / "x.yaml"], program=FinetuneConfig))
        is None
    )


def test_an_override_of_a_published_key_is_one_line_whatever_its_value():
    override_case("dataset.train_csv", "\r", FinetuneConfig)


def test_a_mapping_that_contains_itself(tmp_path):
    text = (
        "model_name: vit_tiny\ntrain: {epochs: 1}\ndataset: {transforms: []}\nmodel: &a {x: *a}\n"
    )
    for name in ("a", "b"):
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="contains itself"):
        load_config([tmp_path / "a", tmp_path / "b"], program=PretrainConfig)


def test_an_alias_used_often_is_no_bomb(tmp_path):
    lines = [
        "model_name: vit_tiny",
        "train: {epochs: 1}",
        "dataset: {transforms: []}",
        "model:",
        "  a0: &a0 [1, 1]",
    ]
    lines += [f"  a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    lines += ["  m0: &m0 {x: 1}"]
    lines += [f"  m{n}: &m{n} {{x: *m{n - 1}, y: *m{n - 1}}}" for n in range(1, 40)]
    (tmp_path / "x.yaml").write_text("\n".join(lines))
    config = load_config([tmp_path / "x.yaml"], program=FinetuneConfig)
    assert config.model["a0"] == [1, 1] and config.model["m1"] == {"x": {"x": 1}, "y": {"x": 1}}
    save_config(config, tmp_path / "config.yaml")
    assert (tmp_path / "config.yaml").stat().st_size < 20_000


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "", ".", "/"])
def test_names_of_files_that_cannot_be(name):
    with pytest.raises(ConfigError):
        load_config([find_overlay(name)], program=FinetuneConfig)


def test_an_override_without_a_value_or_a_name():
    for text in ("train.epochs", "=3", " =3", ""):
        with pytest.raises(ConfigError, match="write key=value"):
            parse_override(text)


def test_every_key_explains_itself():
    for path in EVERY_PATH:
        *sections, name = path.split(".")
        value = {name: object()}
        for section in reversed(sections):
            value = {section: value}
        with pytest.raises(ConfigError, match=re.escape(path)):
            load_config([], [], merge([BASE, value]), program=FinetuneConfig)
