"""Each fault of the audio is seen where a real clip is damaged by it, and in no clean clip."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchaudio
from torch import Tensor

from melcheck.audio import decode_audio
from melcheck.audit.audio_faults import AudioFaults, measure
from melcheck.clip_condition import mean_spectrum, spectrum_reach_hz, stretches
from melcheck.config import MelCheckConfig

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
# Two clips were made to hold silence: see fixtures/clips.yaml.
MADE_SILENT = {"cowbell-sparse": ("silence", "silence"), "kokoro-gap": ("silence",)}


def decoded(path: Path) -> tuple[Tensor, int]:
    found = decode_audio(MelCheckConfig(path, target_duration=None))
    return found.samples, found.sample_rate


SPEECH, RATE = decoded(AUDIO / "kokoro-kumo-en.wav")


def codes(samples: Tensor, rate: int = RATE) -> tuple[str, ...]:
    return tuple(each.code for each in measure([samples], rate).found())


@pytest.mark.parametrize("path", sorted(AUDIO.iterdir()), ids=lambda path: path.stem)
def test_clean_clips_have_no_fault(path: Path) -> None:
    assert codes(*decoded(path)) == MADE_SILENT.get(path.stem, ())


def silenced(begin: float, end: float) -> Callable[[Tensor], Tensor]:
    def damage(speech: Tensor) -> Tensor:
        speech = speech.clone()
        speech[:, round(begin * RATE) : round(end * RATE)] = 0.0
        return speech

    return damage


def wrapped(speech: Tensor) -> Tensor:
    integers = (1.4 * speech / speech.abs().max() * 32_768).round()
    return ((integers + 32_768) % 65_536 - 32_768) / 32_768


def narrow(speech: Tensor) -> Tensor:
    low = torchaudio.functional.resample(speech, RATE, RATE // 3)
    return torchaudio.functional.resample(low, RATE // 3, RATE)


def broken(speech: Tensor) -> Tensor:
    speech = speech.clone()
    speech[:, 1000], speech[:, 2000] = math.nan, -math.inf
    return speech


DAMAGES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "clipped": (lambda speech: (4 * speech).clamp(-1, 1), "clipping"),
    "clipped-and-quieter": (lambda speech: 0.3 * (4 * speech).clamp(-1, 1), "clipping"),
    "offset": (lambda speech: 0.5 * speech + 0.02, "dc-offset"),
    "wrapped": (wrapped, "int16-wrap"),
    "narrow": (narrow, "band-limited"),
    "quiet": (lambda speech: 0.005 * speech, "level"),
    "integers": (lambda speech: (32_768 * speech).round(), "int16-scale"),
    "silent-start": (silenced(0.0, 0.8), "silence"),
    "silent-middle": (silenced(1.0, 1.8), "silence"),
    "silent-end": (silenced(2.5, 9.0), "silence"),
    "silent": (torch.zeros_like, "silent-clip"),
    "broken": (broken, "non-finite"),
}


@pytest.mark.parametrize(("damage", "code"), DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_fault_is_seen(damage: Callable[[Tensor], Tensor], code: str, channels: int) -> None:
    assert codes(damage(SPEECH).expand(channels, -1)) == (code,)


def quieter(samples: Tensor, decibels: int) -> Tensor:
    """Samples of 16 bits, at another level."""
    return (10 ** (-decibels / 20) * samples * 32_768).round() / 32_768


@pytest.mark.parametrize("path", sorted(AUDIO.iterdir()), ids=lambda path: path.stem)
def test_a_quiet_clip_is_not_narrow(path: Path) -> None:
    samples, rate = decoded(path)
    narrow_at = [
        decibels
        for decibels in range(0, 72, 3)
        if "band-limited" in codes(quieter(samples, decibels), rate)
    ]
    assert not narrow_at


def hum(seconds: Tensor) -> Tensor:
    return 0.005 * torch.sin(2 * torch.pi * 50 * seconds)


@pytest.mark.parametrize(
    "added", [lambda seconds: torch.full_like(seconds, 0.009), hum], ids=["offset", "hum"]
)
@pytest.mark.parametrize("name", ["guitar-stereo.flac", "kokoro-short.flac"])
def test_what_lies_below_speech_makes_no_quiet_clip_narrow(
    name: str, added: Callable[[Tensor], Tensor]
) -> None:
    samples, rate = decoded(AUDIO / name)
    seconds = torch.arange(samples.shape[-1]) / rate
    for decibels in range(24, 66, 6):
        assert "band-limited" not in codes(quieter(samples, decibels) + added(seconds), rate)


@pytest.mark.parametrize(("decibels", "code"), [(15, "band-limited"), (60, "level")])
def test_a_narrow_clip_is_narrow_where_it_is_not_too_quiet_to_tell(
    decibels: int, code: str
) -> None:
    assert codes(quieter(narrow(SPEECH), decibels))[0] == code


def test_silence_is_measured_where_it_is() -> None:
    for where, damage, seconds in (
        ("start", silenced(0.0, 0.8), 0.8),
        ("middle", silenced(1.0, 1.8), 0.8),
        ("end", silenced(2.5, 9.0), SPEECH.shape[-1] / RATE - 2.5),
    ):
        found = measure([damage(SPEECH)], RATE).columns()
        assert found[f"silent_{where}_seconds"] == pytest.approx(seconds, abs=0.02)
        others = {"start", "middle", "end"} - {where}
        assert all(found[f"silent_{other}_seconds"] < 0.1 for other in others)


def test_broken_samples_are_counted() -> None:
    assert measure([broken(SPEECH)], RATE).broken_samples == 2


def test_levels_are_those_of_a_tone() -> None:
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)[None]
    found = measure([tone], RATE)
    assert found.peak_dbfs == pytest.approx(-6.02, abs=0.01)
    assert found.level_dbfs == pytest.approx(-9.03, abs=0.01)
    # A window of 2,048 samples spreads a tone over some bins.
    assert found.bandwidth_hz == pytest.approx(440, abs=200)
    assert found.found()[0].code == "band-limited"


@pytest.mark.parametrize("hz", [50, 100, 1000, 3000])
def test_a_smooth_peak_is_not_clipped(hz: int) -> None:
    tone = torch.sin(2 * torch.pi * hz * torch.arange(3 * RATE) / RATE)[None]
    sixteen_bits = (tone * 32_767).round() / 32_768
    assert "clipping" not in codes(sixteen_bits)


def test_what_is_clipped_is_not_wrapped() -> None:
    loud = (8 * SPEECH).clamp(-1, 1)
    assert measure([loud], RATE).wrapped_samples == 0


def test_jumps_of_what_was_driven_far_beyond_the_top_are_clipping() -> None:
    noise = torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    found = measure([(8 * noise).clamp(-1, 1)], RATE)
    assert found.wrapped_samples >= 2
    assert "int16-wrap" not in [each.code for each in found.found()]
    assert found.found()[0].code == "clipping"


@pytest.mark.parametrize("damage", [each for each, _ in DAMAGES.values()], ids=list(DAMAGES))
def test_blocks_give_what_the_whole_gives(damage: Callable[[Tensor], Tensor]) -> None:
    samples = damage(SPEECH).expand(2, -1)
    whole = measure([samples], RATE)
    # Ends of blocks lie in speech, in silence, and at its edges.
    blocks = measure(samples.split(8_000, dim=-1), RATE)
    for name, value in whole.columns().items():
        # A run that the end of a block cuts is two, the top is a block's own, frames lie elsewhere.
        loose = {"clipped_share": 0.05, "wrapped_samples": 0.05, "bandwidth_hz": 0.05}.get(
            name, 1e-6
        )
        assert getattr(blocks, name) == pytest.approx(value, rel=loose, abs=1e-9, nan_ok=True), name
    assert [each.code for each in blocks.found()] == [each.code for each in whole.found()]


def test_nothing_has_no_figures() -> None:
    found = measure([torch.zeros(1, 0)], RATE)
    assert isinstance(found, AudioFaults)
    assert math.isnan(found.bandwidth_hz)
    assert math.isnan(spectrum_reach_hz(mean_spectrum(torch.zeros(1, 5)), RATE))
    assert not any(map(len, stretches(torch.zeros(0, dtype=torch.bool))))
