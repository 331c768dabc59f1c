"""The bisection of the loop names the stage that was changed, and no other."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor

from melcheck.audio import DecodedAudio, decode_audio, load_audio
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.stages import (
    STAGE_TOLERANCES,
    Stages,
    StageTolerance,
    audio_stages,
    bisect_stages,
    loop_stages,
    mel_deviation,
    relative_deviation,
    vocoder_stages,
)
from melcheck.recipes import VOCOS
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder
from tests.parity.deviations import waveform_deviation
from tests.parity.variants import in_chunks
from tests.vocoders import untrained

pytestmark = pytest.mark.parity

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
STEREO = AUDIO / "guitar-stereo.flac"
CONFIG = MelCheckConfig(STEREO, target_duration=1.0)
ALL = ["load", "mix", "resample", "encode", "backbone", "head", "re-encode"]


@functools.cache
def embedded() -> VocosVocoder:
    loaded = load_vocoder("embedded")
    assert isinstance(loaded, VocosVocoder)
    return loaded


def run_stages(stages: Stages, given: Any) -> dict[str, Any]:
    kept = {}
    for name, stage in stages.items():
        given = kept[name] = stage(given)
    return kept


def bisect(candidate: Stages, given: Any = STEREO) -> Any:
    return bisect_stages(loop_stages(CONFIG, embedded()), candidate, given, recipe=VOCOS)


def test_the_audio_stages_are_what_is_loaded() -> None:
    kept = run_stages(audio_stages(CONFIG), STEREO)
    assert kept["load"].samples.shape[0] == 2
    assert kept["load"].sample_rate != CONFIG.target_sr
    assert torch.equal(kept["resample"].samples, load_audio(CONFIG).waveform)


@pytest.mark.parametrize(
    "make", [embedded, untrained.official, untrained.consistent], ids=lambda make: make.__name__
)
def test_backbone_and_head_are_the_halves_of_decoding(make: Callable[[], VocosVocoder]) -> None:
    vocoder = make()
    kept = run_stages(loop_stages(CONFIG, vocoder), STEREO)
    assert list(kept) == ALL
    assert torch.equal(kept["head"], vocoder.decode(kept["encode"]))
    assert torch.equal(kept["re-encode"], vocoder.encode(kept["head"]))


def test_a_vocoder_without_inner_stages_is_run_as_a_whole() -> None:
    vocoder = load_vocoder("griffin-lim")
    assert list(vocoder_stages(vocoder)) == ["encode", "decode", "re-encode"]


def test_a_loop_agrees_with_itself() -> None:
    found = bisect(loop_stages(CONFIG, embedded()))
    assert found.first is None
    assert all(stage.cumulative == stage.isolated == 0 for stage in found.stages)
    assert str(found) == f"no stage diverges: {', '.join(ALL)} agree"


def test_soundfile_decodes_a_lossless_file_to_the_same_bits() -> None:
    def load(path: Path) -> DecodedAudio:
        return decode_audio(dataclasses.replace(CONFIG, audio_path=path), with_soundfile=True)

    assert bisect({**loop_stages(CONFIG, embedded()), "load": load}).first is None


# One change for each stage.


def in_int16(audio: DecodedAudio) -> DecodedAudio:
    scaled = (audio.samples * 32767).round() / 32767
    return dataclasses.replace(audio, samples=scaled)


def left_only(audio: DecodedAudio) -> DecodedAudio:
    return dataclasses.replace(audio, samples=audio.samples[:1])


def another_filter(audio: DecodedAudio) -> DecodedAudio:
    samples = torchaudio.functional.resample(audio.samples, audio.sample_rate, 24_000, 16)
    return dataclasses.replace(audio, samples=samples[:, :24_000], sample_rate=24_000)


def rate_kept(audio: DecodedAudio) -> DecodedAudio:
    return dataclasses.replace(audio, samples=audio.samples[:, :24_000])


def short(audio: DecodedAudio) -> DecodedAudio:
    return dataclasses.replace(another_filter(audio), samples=torch.zeros(1, 300))


def untouched(stage: str) -> Callable[[Any], Any]:
    return loop_stages(CONFIG, embedded())[stage]


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "other scale of integers": ("load", lambda path: in_int16(untouched("load")(path))),
    "left channel": ("mix", left_only),
    "longer filter": ("resample", another_filter),
    "rate kept": ("resample", rate_kept),
    "too short": ("resample", short),
    "louder by 5 %": ("encode", lambda audio: untouched("encode")(1.05 * audio.samples)),
    "features in half": ("backbone", lambda mel: untouched("backbone")(mel).half().float()),
    "NaN": ("backbone", lambda mel: untouched("backbone")(mel) * float("nan")),
    "softer sound": ("head", lambda features: 0.9 * untouched("head")(features)),
    "one frame less": ("re-encode", lambda sound: untouched("re-encode")(sound)[..., :-1]),
    "bands transposed": ("re-encode", lambda sound: untouched("re-encode")(sound).mT),
}


@pytest.mark.parametrize(("stage", "change"), CHANGES.values(), ids=CHANGES)
def test_the_stage_that_was_changed_is_named(stage: str, change: Callable[[Any], Any]) -> None:
    found = bisect({**loop_stages(CONFIG, embedded()), stage: change})
    assert found.first is not None
    assert found.first.stage == stage
    assert found.first.isolated == found.first.cumulative
    assert str(found).startswith(f"first to diverge: {stage} deviates by ")


def test_what_follows_the_first_is_measured_on_the_references_input_too() -> None:
    change = CHANGES["softer sound"]
    found = bisect({**loop_stages(CONFIG, embedded()), change[0]: change[1]})
    last = found.stages[-1]
    assert last.stage == "re-encode"
    assert last.diverges
    assert last.isolated == 0


def test_a_stage_that_magnifies_what_came_in_is_told_from_one_that_errs() -> None:
    def doubled(given: Tensor) -> Tensor:
        return 1e6 * (given - 0.5)

    right: Stages = {"encode": lambda given: given, "head": doubled}
    tried: Stages = {"encode": lambda given: given + 1e-3, "head": doubled}
    found = bisect_stages(right, tried, torch.linspace(0, 1, 100)[None], recipe=VOCOS)
    tight = {**STAGE_TOLERANCES, "head": StageTolerance(1e-6, 1e-6)}
    assert found.first is None
    found = bisect_stages(
        right, tried, torch.linspace(0, 1, 100)[None], recipe=VOCOS, tolerances=tight
    )
    assert found.first is not None
    assert found.first.isolated == 0
    assert str(found).endswith("it magnifies the deviation of its input")


def test_a_stage_that_raises_is_named_with_its_reason() -> None:
    def refuse(_: Any) -> Any:
        raise RuntimeError("out of memory\nmore")

    found = bisect({**loop_stages(CONFIG, embedded()), "backbone": refuse})
    assert [stage.stage for stage in found.stages][-1] == "backbone"
    assert str(found).endswith("out of memory")


def test_a_vocoder_that_shows_no_halves_is_compared_at_its_waveform() -> None:
    found = bisect(loop_stages(CONFIG, in_chunks(embedded(), 40)))
    assert [stage.stage for stage in found.stages] == [*ALL[:4], "decode", "re-encode"]
    assert found.first is None


def test_a_broken_vocoder_that_shows_no_halves_is_seen_at_its_waveform() -> None:
    model = copy.deepcopy(embedded().model)
    model.head.out.bias.data += 0.05
    other = dataclasses.replace(embedded(), model=model)
    found = bisect(loop_stages(CONFIG, in_chunks(other, 40)))
    assert found.first is not None
    assert found.first.stage == "decode"


def test_loops_that_begin_at_different_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="candidate must have the stages of the reference"):
        bisect(vocoder_stages(embedded()))


def test_a_stage_without_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got none for \['polish'\]"):
        bisect_stages({"polish": str}, {"polish": str}, 1, recipe=VOCOS)


# The measures.


def test_mels_are_compared_where_either_is_off_the_floor() -> None:
    floor = VOCOS.log_floor
    first = torch.tensor([[floor, floor, -2.0, -3.0]])
    second = torch.tensor([[floor, floor + 1, -2.5, -3.0]])
    found = mel_deviation(first, second, log_floor=floor)
    assert found.max_nats == pytest.approx(1.0, abs=1e-6)
    assert found.mean_nats == pytest.approx(0.5, abs=1e-6)


def test_silence_agrees_with_silence() -> None:
    mel = torch.full((1, 100, 3), VOCOS.log_floor)
    assert mel_deviation(mel, mel.clone(), log_floor=VOCOS.log_floor).max_nats == 0
    sound = torch.zeros(1, 9)
    assert waveform_deviation(sound, sound.clone()).db == -float("inf")
    assert relative_deviation(sound, sound.clone()) == 0


def test_a_waveform_a_hundredth_off_is_40_db_down() -> None:
    sound = torch.ones(1, 100)
    found = waveform_deviation(sound, 1.01 * sound)
    assert found.db == pytest.approx(-40, abs=1e-3)
    assert found.max_abs == pytest.approx(0.01, abs=1e-6)


def test_a_sound_where_silence_should_be_is_beyond_all_tolerances() -> None:
    found = waveform_deviation(torch.zeros(1, 9), torch.full((1, 9), 1e-9))
    assert found.db == float("inf")
    assert relative_deviation(torch.zeros(1, 9), torch.full((1, 9), 1e-9)) == float("inf")


def test_other_shapes_are_beyond_all_tolerances() -> None:
    first, second = torch.zeros(1, 4), torch.zeros(1, 5)
    assert mel_deviation(first, second, log_floor=-16.0).max_nats == float("inf")
    assert waveform_deviation(first, second).max_abs == float("inf")
    assert relative_deviation(first, second) == float("inf")
