"""Options as text: lists, sizes, input shapes, and the run.toml that repeats a run."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter import config
from converter.errors import UsageError

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
keys = st.from_regex(r"[a-z][a-z0-9-]*", fullmatch=True)


def test_a_run_is_a_line_for_each_option() -> None:
    values = {"model": "a b.onnx", "timesteps": (1, 2, 4), "percentile": 99.9, "verify": True}
    assert config.dumps(values, "repeats\nthe run") == (
        '# repeats\n# the run\nmodel = "a b.onnx"\ntimesteps = [1, 2, 4]\npercentile = 99.9\nverify = true\n'
    )


@given(st.dictionaries(keys, st.one_of(scalars, st.lists(scalars, max_size=3))))
def test_what_is_written_is_what_toml_reads(values: dict[str, config.Value]) -> None:
    assert tomllib.loads(config.dumps(values)) == values


def read(tmp_path: Path, text: str) -> dict[str, config.Value]:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return config.read(path, ("model", "calibrator", "seed"), lists=["calibrator"])


def test_a_file_gives_the_options_it_has(tmp_path: Path) -> None:
    assert read(tmp_path, 'seed = 3\ncalibrator = ["maximum"]') == {"seed": 3, "calibrator": ["maximum"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sede = 3", "unknown key 'sede'\nhint:  did you mean 'seed'?"),
        ("seed = ", "is not TOML"),
        ("seed = [1, 2]", "seed is a list, but is one value"),
        ("seed = 2026-01-01", "seed is not text, a number, true, false or a list of them"),
        ("[seed]\na = 1", "seed is not text, a number, true, false or a list of them"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert "run.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml' cannot be read: No such file"):
        config.read(tmp_path / "none.toml", ())


def test_values_are_read_from_text_and_from_lists() -> None:
    assert config.steps("1,2,4") == config.steps([1, 2, 4]) == (1, 2, 4)
    assert config.channels("0.5") == (0.5,)
    assert config.channels([4, 5.5, 6]) == (4.0, 5.5, 6.0)
    assert config.size("224") == config.size(224) == 224
    assert config.size("240x320") == config.size([240, 320]) == (240, 320)
    assert config.shape_of(config.input_shape("image=3,32,32")) == ("image", (3, 32, 32))
    assert config.shape_of("a=b=7") == ("a=b", (7,))


@pytest.mark.parametrize("text", ["", "1,,2", "one", "0", "1,-2", "1.5", []])
def test_steps_are_whole_numbers_from_1(text: object) -> None:
    with pytest.raises(ValueError, match=r"1,2,4|whole numbers|empty"):
        config.steps(text)


@pytest.mark.parametrize("text", ["", "x", "0", "1x2x3", "-4", "12.5"])
def test_a_size_is_one_side_or_two(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a side such as 224 nor"):
        config.size(text)


@pytest.mark.parametrize("text", ["image", "=3", "image=", "image=3,x", "image=0,3", "image=3,"])
def test_an_input_shape_names_the_input_and_its_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is not NAME=3,224,224"):
        config.input_shape(text)
