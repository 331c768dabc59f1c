"""The handshake tells fronts that may meet the vocoder from those that may not, and says where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from melcheck.diagnosis import handshake as handshakes
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.handshake import handshake
from melcheck.diagnosis.result import Diagnosis
from melcheck.probe_clips import PROBE_LENGTHS, probe, probes
from melcheck.profiles import profile
from melcheck.recipes import VOCOS, MelRecipe, log_mel

Front = Callable[[Tensor], Any]


def _front(**numbers: Any) -> Front:
    return lambda waveform: log_mel(waveform, MelRecipe(**numbers))


# The probes.


def test_a_probe_is_the_same_each_time() -> None:
    probe.cache_clear()
    first = probe(72_000).clone()
    probe.cache_clear()
    assert torch.equal(first, probe(72_000))


@pytest.mark.parametrize("samples", PROBE_LENGTHS)
def test_a_probe_has_loud_ends_silence_and_no_loud_tone(samples: int) -> None:
    clip = probe(samples)
    edge = 1_440  # 60 ms
    assert min(float(clip[:edge].std()), float(clip[-edge:].std())) > 0.05
    assert float(clip.abs().max()) <= 0.35
    silent = (clip == 0).float().unfold(0, 7_200, 1).mean(dim=1)
    assert float(silent.max()) == 1.0


@pytest.mark.parametrize("samples", PROBE_LENGTHS)
def test_a_probe_reaches_every_band_and_the_floor(samples: int) -> None:
    mel = log_mel(probe(samples))
    assert float(mel.amax(dim=1).min()) > -3
    assert float(mel.min()) == pytest.approx(VOCOS.log_floor, rel=0, abs=1e-5)


def test_the_lengths_part_the_ways_of_counting_frames() -> None:
    counts = {
        tuple(recipe.frames(samples) for samples in PROBE_LENGTHS)
        for recipe in (VOCOS, profile("zipvoice"), MelRecipe(padding="same"))
    }
    assert len(counts) == 3


# The handshake.


@pytest.mark.parametrize(
    "front",
    [
        pytest.param(log_mel, id="batch"),
        pytest.param(lambda waveform: log_mel(waveform[0]), id="no-batch"),
        pytest.param(lambda waveform: log_mel(waveform).numpy(), id="numpy"),
        pytest.param(lambda waveform: log_mel(-waveform), id="polarity"),
        pytest.param(lambda waveform: log_mel(waveform.double()), id="float64"),
        pytest.param(lambda waveform: log_mel(waveform).half(), id="float16"),
        pytest.param(lambda waveform: log_mel(waveform).bfloat16(), id="bfloat16"),
    ],
)
def test_the_same_front_is_identical(front: Front) -> None:
    found = handshake(front)
    assert found.verdict == "identical"
    assert found.compatible


def test_a_gain_does_not_hide_in_the_rounding_of_float16() -> None:
    found = handshake(lambda waveform: (log_mel(waveform) + 0.05).half())
    assert found.verdict == "incompatible"


@pytest.mark.parametrize("floor", [1e-5, 1e-9])
def test_another_floor_is_told_from_another_mel(floor: float) -> None:
    found = handshake(_front(floor=floor))
    assert found.verdict == "differs only at the floor"
    assert found.compatible
    assert found.diagnosis is not None
    assert found.diagnosis.codes == ("floor",)


def test_a_logarithm_without_a_floor_is_no_other_floor() -> None:
    linear = MelRecipe(log_base=None, floor_mode="add", floor=1e-38)
    found = handshake(lambda waveform: (log_mel(waveform, linear) - linear.floor).log())
    assert found.verdict == "incompatible"
    assert "nan: " in found.cause()[0]


@pytest.mark.parametrize(
    ("code", "place", "front"),
    [
        pytest.param("power", "everywhere", _front(power=2.0), id="power"),
        pytest.param("mel-scale", "everywhere", _front(mel_scale="slaney"), id="mel-scale"),
        pytest.param("pad-mode", "edges", _front(pad_mode="constant"), id="pad-mode"),
        pytest.param("padding", "length", _front(padding="same"), id="padding"),
        pytest.param("log-base", "everywhere", _front(log_base="10"), id="log10"),
        pytest.param(
            "profile:bigvgan-24k",
            "everywhere",
            lambda waveform: log_mel(waveform, profile("bigvgan-24k")),
            id="bigvgan",
        ),
    ],
)
def test_an_incompatible_front_is_located_and_named(code: str, place: str, front: Front) -> None:
    found = handshake(front)
    assert found.verdict == "incompatible"
    assert not found.compatible
    assert any(place in result.where for result in found.results)
    assert found.diagnosis is not None
    assert found.diagnosis.codes == (code,)


@pytest.mark.parametrize("axes", ["bands_first", "frames_first"])
@pytest.mark.parametrize(
    ("front", "layout"),
    [
        pytest.param(lambda w: log_mel(w).mT, "[batch, frames, n_mels]", id="frames-first"),
        pytest.param(log_mel, "[batch, n_mels, frames]", id="bands-first"),
    ],
)
def test_either_order_of_the_axes_is_adapted_and_shown(
    front: Front, layout: str, axes: Literal["bands_first", "frames_first"]
) -> None:
    found = handshake(front, expected=MelRecipe(axes=axes))
    assert (found.verdict, found.layout) == ("identical", layout)
    assert any("axes are swapped" in note for note in found.notes) is ("frames, n" in layout)


def test_bands_that_alone_differ_are_given_by_number() -> None:
    def front(waveform: Tensor) -> Tensor:
        mel = log_mel(waveform)
        mel[..., 40:45, :] += 0.5
        return mel

    assert all("bands 40-44" in result.where for result in handshake(front).results)


def test_another_number_of_bands_is_told_without_a_difference() -> None:
    lines = handshake(_front(n_mels=80)).message().splitlines()
    assert lines[1].endswith(
        "282 frames, 282 expected; differs in number of bands: 80, 100 expected"
    )


# How much is diagnosed.


@pytest.fixture
def diagnosed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the clips that are diagnosed from here on."""
    lengths: list[int] = []

    def counting(waveform: Tensor, *given: Any, **named: Any) -> Diagnosis:
        lengths.append(waveform.shape[-1])
        return diagnose(waveform, *given, **named)

    monkeypatch.setattr(handshakes, "diagnose", counting)
    return lengths


def test_what_nothing_explains_is_diagnosed_twice_and_no_more(diagnosed: list[int]) -> None:
    colour = torch.linspace(-0.3, 0.3, 100).sin()[:, None]
    speech = probe(48_000)
    found = handshake(lambda waveform: log_mel(waveform) + colour, speech=[speech, speech])
    # The first clip of speech and the first probe.
    assert diagnosed == [48_000, PROBE_LENGTHS[0]]
    assert found.diagnosis is not None
    assert found.diagnosis.kind == "unknown"
    assert len(found.results) == 6
    assert all("everywhere" in result.where for result in found.results)


def test_a_fault_of_one_length_alone_is_still_found(diagnosed: list[int]) -> None:
    loud = MelRecipe(power=2.0)
    last = PROBE_LENGTHS[-1]
    found = handshake(lambda w: log_mel(w, loud if w.shape[-1] == last else VOCOS))
    assert diagnosed == list(PROBE_LENGTHS)
    assert found.diagnosis is not None
    assert found.diagnosis.codes == ("power",)


def test_what_explains_speech_is_the_answer_whatever_the_probes_would_say(
    diagnosed: list[int],
) -> None:
    speech = probe(48_000)
    recipes = {48_000: MelRecipe(power=2.0), PROBE_LENGTHS[0]: MelRecipe(norm="slaney")}
    found = handshake(lambda w: log_mel(w, recipes.get(w.shape[-1], VOCOS)), speech=[speech])
    assert diagnosed == [48_000]
    assert found.diagnosis is not None
    assert found.diagnosis.codes == ("power",)


def test_a_gain_of_speech_is_compared_with_that_of_a_probe(diagnosed: list[int]) -> None:
    found = handshake(lambda w: log_mel(2 * w), speech=[probe(48_000)])
    assert diagnosed == [48_000, PROBE_LENGTHS[0]]
    assert found.diagnosis is not None
    assert found.diagnosis.codes == ("gain",)


# What fails.


def test_an_exception_of_the_front_is_told_in_one_line_with_the_shape() -> None:
    def broken(waveform: Tensor) -> Tensor:
        raise RuntimeError(f"no room for {waveform.numel()}\nand a second line")

    found = handshake(broken)
    assert found.verdict == "failed"
    assert found.results[0].error == (
        "the front end raised RuntimeError on input [1, 71936]: no room for 71936"
    )


def test_a_front_that_ends_the_process_fails() -> None:
    def leaving(waveform: Tensor) -> Tensor:
        raise SystemExit(0)

    found = handshake(leaving)
    assert found.verdict == "failed"
    assert "raised SystemExit on input [1, 71936]: 0" in found.results[0].error


def test_what_is_no_mel_is_told() -> None:
    found = handshake(lambda waveform: {"mel": waveform})
    assert found.verdict == "failed"
    assert "returned dict" in found.results[0].error


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        pytest.param(lambda w: (w, 24_000), "returned tuple of 2, no mel", id="tuple"),
        pytest.param(lambda w: None, "returned None, no mel", id="none"),
        pytest.param(lambda w: w, "no axis can be its bands", id="waveform"),
        pytest.param(lambda w: log_mel(w)[..., :1, :], "no mel: one band", id="one-band"),
        pytest.param(lambda w: log_mel(w).int(), "must be floating point, got int32", id="int"),
        pytest.param(lambda w: log_mel(torch.cat([w, w])), "for 1 waveforms", id="batch"),
    ],
)
def test_what_is_no_mel_is_told_at_once_with_what_to_return(
    diagnosed: list[int], returned: Front, said: str
) -> None:
    found = handshake(returned)
    assert (found.verdict, diagnosed) == ("failed", [])
    assert said in found.results[0].error
    assert "do this: Return " in found.message()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda mel: mel + torch.rand(()), "apart", id="gain"),
        pytest.param(lambda mel: torch.nn.functional.dropout(mel), "apart", id="dropout"),
        pytest.param(
            lambda mel: mel.index_fill(1, torch.randint(100, (1,)), torch.nan),
            "NaN in different places",
            id="nan",
        ),
        pytest.param(
            lambda mel: mel[..., : 50 + int(torch.randperm(40)[0])], "then [100, ", id="crop"
        ),
    ],
)
def test_a_front_that_is_not_deterministic_fails_as_such(
    diagnosed: list[int], change: Front, said: str
) -> None:
    torch.manual_seed(0)
    found = handshake(lambda waveform: change(log_mel(waveform)))
    assert (found.verdict, diagnosed) == ("failed", [])
    assert "not deterministic" in found.results[0].error
    assert said in found.results[0].error
    cause, fix = found.cause()
    assert "not deterministic" in cause
    assert "evaluation mode" in fix


def test_rounding_that_differs_from_call_to_call_is_no_other_mel() -> None:
    torch.manual_seed(0)
    found = handshake(lambda waveform: log_mel(waveform * (1 + 1e-5 * torch.rand(()))))
    assert found.verdict == "identical"


def test_what_cannot_be_called_is_no_front() -> None:
    with pytest.raises(TypeError, match="frontend must be callable, got str"):
        handshake("mytts.audio:mel")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("clip", "kind", "said"),
    [
        pytest.param(
            torch.stack([probe(24_000)] * 2),
            ValueError,
            r"speech 2: waveform must be \[samples\] or \[1, samples\], got \[2, 24000\]",
            id="stereo",
        ),
        pytest.param(
            probe(24_000)[:400],
            ValueError,
            "speech 2: .* at least 513 samples, got 400",
            id="short",
        ),
        pytest.param(
            torch.full((24_000,), torch.nan), ValueError, "speech 2: .* must be finite", id="nan"
        ),
        pytest.param(None, TypeError, "speech 2: .* got None", id="none"),
    ],
)
def test_speech_that_cannot_be_used_is_named(clip: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        handshake(log_mel, speech=[probe(24_000), clip])


def test_a_clip_that_is_no_list_of_clips_is_told_apart() -> None:
    with pytest.raises(ValueError, match="Pass a list of clips"):
        handshake(log_mel, speech=probe(24_000))  # type: ignore[arg-type]


def test_speech_may_be_numpy() -> None:
    found = handshake(log_mel, speech=[probe(24_000).numpy()[None]])
    assert (found.verdict, len(found.results)) == ("identical", 5)


def test_the_front_cannot_change_the_probe() -> None:
    def scribbling(waveform: Tensor) -> Tensor:
        mel = log_mel(waveform)
        waveform.zero_()
        return mel

    assert handshake(scribbling).verdict == "identical"
    assert float(probes()[0].waveform.abs().max()) > 0


@pytest.mark.parametrize(
    ("own", "expected"), [("hifigan-22k", "vocos"), ("vocos", "matcha-22k")], ids=["up", "down"]
)
def test_the_rate_of_our_probes_is_no_fault_of_the_front_ends(own: str, expected: str) -> None:
    found = handshake(lambda clip: log_mel(clip, profile(own)), expected=profile(expected))
    assert found.diagnosis is not None
    assert found.diagnosis.codes == (f"profile:{own}",)
    assert "samples taken for" not in found.message()
