"""A configuration is a value, wrong ones are refused by name, and nothing here imports torch."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from melcheck.config import MelCheckConfig, offset_of, seconds_or_all

_ROOT = Path(__file__).parents[2]


class _PathLike:
    """A path that is neither a string nor a `pathlib.Path`."""

    def __init__(self, inside: str | bytes) -> None:
        self._inside = inside

    def __fspath__(self) -> str | bytes:
        return self._inside


def test_defaults_are_three_seconds_at_the_rate_of_vocos() -> None:
    config = MelCheckConfig(Path("clip.wav"))
    assert (config.target_sr, config.target_duration, config.pad_short) == (24_000, 3.0, False)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: MelCheckConfig("clip.wav", 16_000, 2.0, True), id="positional"),
        pytest.param(
            lambda: MelCheckConfig(
                pad_short=True, target_duration=2.0, target_sr=16_000, audio_path="clip.wav"
            ),
            id="keyword",
        ),
        pytest.param(lambda: MelCheckConfig("clip.wav", 16_000, 2, True), id="whole-seconds"),
    ],
)
def test_configurations_of_equal_content_are_equal(make: Callable[[], MelCheckConfig]) -> None:
    expected = MelCheckConfig(Path("clip.wav"), 16_000, 2.0, pad_short=True)
    assert make() == expected


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"audio_path": "other.wav"}, id="path"),
        pytest.param({"target_sr": 22_050}, id="rate"),
        pytest.param({"target_duration": None}, id="duration"),
        pytest.param({"pad_short": True}, id="padding"),
    ],
)
def test_configurations_of_other_content_differ(change: dict[str, Any]) -> None:
    config = MelCheckConfig("clip.wav")
    assert dataclasses.replace(config, **change) != config


@pytest.mark.parametrize("field", ["audio_path", "target_sr", "target_duration", "pad_short"])
def test_no_field_can_be_changed(field: str) -> None:
    config = MelCheckConfig("clip.wav")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, None)


def test_equal_configurations_are_one_key() -> None:
    assert len({MelCheckConfig("clip.wav"), MelCheckConfig(Path("clip.wav"))}) == 1


def test_a_configuration_survives_being_sent_to_another_process() -> None:
    config = MelCheckConfig("clip.wav", 22_050, None)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("clips/a b.wav", id="string"),
        pytest.param(Path("clips/a b.wav"), id="path"),
        pytest.param(_PathLike("clips/a b.wav"), id="path-like"),
        pytest.param(_PathLike(b"clips/a b.wav"), id="path-like-of-bytes"),
    ],
)
def test_every_kind_of_path_is_kept_as_a_path(path: str | os.PathLike[str]) -> None:
    assert MelCheckConfig(path).audio_path == Path("clips/a b.wav")


def test_a_file_that_does_not_exist_is_no_error_yet(tmp_path: Path) -> None:
    assert MelCheckConfig(tmp_path / "nowhere.wav").audio_path.name == "nowhere.wav"


@pytest.mark.parametrize(
    ("rate", "duration", "samples"),
    [
        pytest.param(24_000, 3.0, 72_000, id="default"),
        pytest.param(24_000, 3, 72_000, id="whole-seconds"),
        pytest.param(22_050, 1.5, 33_075, id="exact"),
        # 0.7 has no exact binary form: in float64, 0.7 * 44100 is a little less than 30870.
        pytest.param(44_100, 0.7, 30_870, id="rounded"),
        pytest.param(8_000, 1 / 8_000, 1, id="one-sample"),
        pytest.param(1, 1.0, 1, id="one-hertz"),
        pytest.param(1, 366 * 86_400, 31_622_400, id="a-year"),
        pytest.param(24_000, None, None, id="whole-file"),
    ],
)
def test_target_samples_is_the_duration_in_samples(
    rate: int, duration: float | None, samples: int | None
) -> None:
    assert MelCheckConfig("clip.wav", rate, duration).target_samples == samples


def _wrong(
    name: str, arguments: dict[str, Any], error: type[Exception], *said: str
) -> Any:  # pytest does not export the type of a parameter set
    return pytest.param(arguments, error, said, id=name)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        _wrong("rate-bool", {"target_sr": True}, TypeError, "target_sr", "True (bool)", "24000"),
        _wrong("rate-float", {"target_sr": 24e3}, TypeError, "target_sr", "24000.0", "whole"),
        _wrong("rate-text", {"target_sr": "24k"}, TypeError, "target_sr", "'24k'", "24000"),
        _wrong("rate-none", {"target_sr": None}, TypeError, "target_sr", "None", "24000"),
        _wrong("rate-zero", {"target_sr": 0}, ValueError, "target_sr", "got 0", "24000"),
        _wrong("rate-negative", {"target_sr": -1}, ValueError, "target_sr", "got -1", "24000"),
        _wrong("duration-zero", {"target_duration": 0.0}, ValueError, "got 0.0", "whole file"),
        _wrong("duration-negative", {"target_duration": -3}, ValueError, "got -3", "whole file"),
        _wrong("duration-nan", {"target_duration": math.nan}, ValueError, "got nan", "whole file"),
        _wrong("duration-inf", {"target_duration": math.inf}, ValueError, "got inf", "whole file"),
        _wrong(
            "duration-above-a-year",
            {"target_duration": 31_622_401},
            ValueError,
            "at most 31,622,400 s (a year)",
            "got 31622401",
            "seconds",
        ),
        _wrong(
            "duration-below-a-sample",
            {"target_duration": 1e-5},
            ValueError,
            "at least one sample",
            "1e-05 s at 24000 Hz",
            "seconds",
        ),
        _wrong("duration-bool", {"target_duration": True}, TypeError, "True (bool)", "whole file"),
        _wrong("duration-text", {"target_duration": "3 s"}, TypeError, "'3 s' (str)", "seconds"),
        _wrong("path-empty", {"audio_path": ""}, ValueError, "audio_path", "got ''", "clip"),
        _wrong("path-blank", {"audio_path": " \n"}, ValueError, "audio_path", r"' \n'", "clip"),
        _wrong("path-nul", {"audio_path": "a\0b"}, ValueError, "audio_path", "NUL", r"'a\x00b'"),
        _wrong("path-bytes", {"audio_path": b"a.wav"}, TypeError, "b'a.wav' (bytes)", "string"),
        _wrong("path-none", {"audio_path": None}, TypeError, "None (NoneType)", "pathlib.Path"),
        _wrong("path-number", {"audio_path": 3}, TypeError, "3 (int)", "pathlib.Path"),
        _wrong("path-like-empty", {"audio_path": _PathLike("")}, ValueError, "got ''", "clip"),
        _wrong("pad-number", {"pad_short": 1}, TypeError, "pad_short", "got 1", "zero-pads"),
        _wrong(
            "pad-to-nothing",
            {"pad_short": True, "target_duration": None},
            ValueError,
            "pad_short",
            "got True",
            "give target_duration",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_fix(
    arguments: dict[str, Any], error: type[Exception], said: tuple[str, ...]
) -> None:
    with pytest.raises(error) as caught:
        MelCheckConfig(**{"audio_path": "clip.wav", **arguments})
    assert [part for part in said if part not in str(caught.value)] == []


@pytest.mark.parametrize("module", ["melcheck", "melcheck.config"])
def test_import_leaves_torch_alone(module: str) -> None:
    program = f"import sys, {module}; print(sorted({{'torch', 'numpy'}} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_duration_is_read_as_seconds_or_all() -> None:
    assert seconds_or_all("0.5") == 0.5
    assert seconds_or_all("all") is None


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "soon", ""])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be above 0|could not convert"):
        seconds_or_all(text)


def test_an_offset_is_read_as_a_place_or_seconds() -> None:
    assert [offset_of(text) for text in ("start", "middle", "2.5")] == [0.0, "middle", 2.5]


@pytest.mark.parametrize("offset", [-1.0, math.nan, math.inf, "end"])
def test_what_is_no_offset_is_refused(offset: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="offset must be"):
        MelCheckConfig("a.wav", offset=offset)
