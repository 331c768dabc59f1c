"""Does code decode mels as the checkpoint that it claims to be? Decode the same mels with both.

An ONNX export, a streaming or chunked decoder, half precision and a quantised model are all
compared with the reference's waveform of the same mel, alone, a second time, and in a batch. How
far two decodings may differ by rounding is the reference's own: `melcheck.vocoders.agreement`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from melcheck.diagnosis.causes import explanation
from melcheck.diagnosis.stage_handshake import (
    ClipResult,
    Pair,
    StageHandshake,
    changing,
    raised,
    stage_verdict,
)
from melcheck.diagnosis.waveform import SAME_SAMPLES
from melcheck.diagnosis.waveform_tests.direct import is_integer
from melcheck.probe_clips import probe
from melcheck.recipes import log_mel
from melcheck.user_code import name_of
from melcheck.vocoders.agreement import disagreement
from melcheck.vocoders.base import Vocoder, magnifies_rounding
from melcheck.vocoders.from_code import CallableVocoder, adapt_vocoder
from melcheck.vocoders.load import load_vocoder

_PROBE_SECONDS = (3.0, 25_400 / 24_000)

# The shorter item of a batch has this share of the longer one's frames.
_SHORTER_ITEM = 0.6

# Of a head that retrieves phases these look alike: the least difference gives another waveform, far
# around the frame that it is in.
_ALIKE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"weights": ("rounding", "seams"), "places": ("seams", "tail")}
)

# Nats by which the second item of a batch is louder; the third is silent.
_LOUDER_NATS = 2.0


def handshake_vocoder(
    vocoder: Vocoder | Callable[..., Any],
    *,
    reference: Vocoder | str = "official",
    waveforms: Mapping[str, Tensor] = MappingProxyType({}),
) -> StageHandshake:
    """Decode the mels of probes, and of waveforms, with a vocoder and with its reference.

    Args:
        vocoder: Makes a waveform of a mel; a `Vocoder`, or any callable, which is adapted.
        reference: The checkpoint that it claims to be, or its name for `load_vocoder`.
        waveforms: More clips by name, `[samples]` at the recipe's rate.

    Returns:
        The verdict.

    Raises:
        CallableError: It cannot be called.
        VocoderError: The reference cannot be loaded.
        ValueError: The two decode mels of different recipes.
    """
    if isinstance(reference, str):
        reference = load_vocoder(reference)
    if not hasattr(vocoder, "info"):
        vocoder = adapt_vocoder(vocoder, name=name_of(vocoder))
    tried: Any = vocoder
    recipe, name = reference.recipe, tried.info.name
    if tried.recipe != recipe:
        raise ValueError(
            f"reference must decode the mels of {name!r}, got {reference.info.name!r}, whose "
            f"recipe is a different one ({recipe.digest()} against {tried.recipe.digest()}). Name "
            "another reference, or give the vocoder its recipe."
        )
    rate = recipe.sample_rate
    clips = {
        f"probe of {seconds:.1f} s": probe(round(seconds * rate), sample_rate=rate)
        for seconds in _PROBE_SECONDS
    }
    clips |= waveforms
    mels = {
        clip: log_mel(waveform.reshape(1, -1).float(), recipe).to(reference.device)
        for clip, waveform in clips.items()
    }
    results = [_compared(clip, mel, tried, reference) for clip, mel in mels.items()]
    clip, mel = next(iter(mels.items()))
    results += _repeated(clip, mel, tried)
    results += _batched(clip, mel, tried, reference)
    found = stage_verdict("vocoder", name, reference.info.name, results)
    return _with_alternatives(found) if magnifies_rounding(reference) else found


def _compared(clip: str, mel: Tensor, tried: Vocoder, reference: Vocoder) -> ClipResult | Pair:
    wanted = reference.decode(mel).cpu()
    try:
        given = _decoded(tried, mel)
    except ValueError as error:
        return raised(clip, error)
    return _result(clip, mel, wanted, given, reference)


def _decoded(tried: Vocoder, mel: Tensor) -> Tensor:
    return tried.decode(mel.to(tried.device)).detach().cpu().float()


def _result(
    clip: str, mel: Tensor, wanted: Tensor, given: Tensor, reference: Vocoder
) -> ClipResult | Pair:
    """Compare one waveform, `[1, samples]`, with what it should be."""
    if not disagreement(reference, wanted, given, mel=mel):
        return ClipResult(clip)
    limited = wanted.clamp(-1, 1)
    if not disagreement(reference, limited, given):
        return ClipResult(clip, _LIMITED, harmless=True)
    if _is_in_16_bits(limited, given):
        return ClipResult(clip, _IN_16_BITS, harmless=True)
    return Pair(clip, wanted[0], given[0], sample_rate=reference.recipe.sample_rate)


_LIMITED = explanation(
    "clipping",
    "the reference goes beyond +-1 there",
    title="the waveform is cut off at full scale",
    fix="Nothing to do: a file of integers would do the same.",
)
_IN_16_BITS = explanation(
    "rounding", "each is an integer", title="the samples have 16 bits", fix="Nothing to do."
)


def _is_in_16_bits(wanted: Tensor, given: Tensor) -> bool:
    """Return whether a waveform is another one rounded or cut off to 16 bits."""
    if wanted.shape != given.shape or not bool(torch.isfinite(given).all()):
        return False
    return is_integer(given.double(), 16) and float((given - wanted).abs().max()) <= SAME_SAMPLES


def _repeated(clip: str, mel: Tensor, tried: Vocoder) -> list[ClipResult | Pair]:
    name = f"{clip}, a second time"
    try:
        pair = _decoded(tried, mel), _decoded(tried, mel)
    except ValueError:
        return []  # said of the clip itself
    unlike = changing(name, "vocoder", *pair)
    if unlike is not None and tried.device.type != "cpu" and not disagreement(tried, *pair):
        unlike = dataclasses.replace(unlike, harmless=True)  # atomic additions, in another order
    return [unlike or ClipResult(name)]


def _batched(clip: str, mel: Tensor, tried: Vocoder, reference: Vocoder) -> list[ClipResult | Pair]:
    """Compare the items of a batch with the same ones alone."""
    name = f"{clip}, in a batch"
    silence = torch.full_like(mel, reference.recipe.log_floor)
    try:
        alone = _decoded(tried, mel)
        if not bool(torch.isfinite(alone).all()):
            return []
        together = _decoded(tried, torch.cat([mel, mel + _LOUDER_NATS, silence]))
        apart = disagreement(reference, alone, together[:1], mel=mel)
        # What rounds alike but for the last bit may be a step apart in integers.
        if apart and not _is_in_16_bits(alone, together[:1]):
            return [ClipResult(name, explanation("batch", apart))]
        if not (isinstance(tried, CallableVocoder) and tried.decodes_lists):
            return [ClipResult(name)]
        frames = round(_SHORTER_ITEM * mel.shape[-1])
        shorter = mel[..., :frames]
        longer, item = tried.decode_list([mel[0], shorter[0]])
        results = [_result(f"{name}, the longer item", mel, alone, longer[None], reference)]
        name = f"{name}, the shorter item"
        found = _result(name, shorter, _decoded(tried, shorter), item[None], reference)
        padded = _decoded(tried, torch.cat([shorter, silence[..., frames:]], dim=-1))
        if not disagreement(reference, padded[:, : len(item)], item[None]):
            found = ClipResult(name, _PADDED_WITH_SILENCE, harmless=True)
        return [*results, found]
    except ValueError as error:
        return [raised(name, error)]


_PADDED_WITH_SILENCE = explanation(
    "tail",
    "it is what the mel gives with the log of the floor behind it",
    title="the end of the shorter items of a batch hears the silence that they are padded with",
    fix="Nothing to do.",
)


def _with_alternatives(found: StageHandshake) -> StageHandshake:
    """Say what looks the same where a head makes much of the least difference."""
    results = tuple(
        each
        if each.cause is None or each.harmless
        else dataclasses.replace(
            each,
            cause=dataclasses.replace(each.cause, alternatives=_ALIKE.get(each.cause.code, ())),
        )
        for each in found.results
    )
    return dataclasses.replace(found, results=results)
