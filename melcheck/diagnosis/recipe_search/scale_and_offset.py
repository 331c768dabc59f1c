"""What a slope and an offset between two log-mels mean: a table of exact constants.

Where candidate = slope * hypothesis + offset holds exactly, with the hypothesis in nats, three
things can have made it, in this order: a factor g on the waveform (power * ln g), the logarithm
(1 / ln 10, 20 / ln 10, ...) and a normalisation x -> (x - mean) / std, once or twice:

    slope  = logarithm / std
    offset = (logarithm * power * ln g - mean) / std

The explanation with the fewest causes is taken; a factor or a normalisation of no known project is
still named, with its numbers.
"""

from __future__ import annotations

import itertools
import math

from melcheck.diagnosis.causes import Finding
from melcheck.recipes import DB_PER_NAT, MelRecipe, window

_LN10 = math.log(10)

# How the logarithm was scaled, against the natural one.
_LOGARITHMS = (
    (1.0, "", "natural logarithm"),
    (1 / _LN10, "log-base", "log10"),
    (10 / _LN10, "decibels", "10 log10"),
    (DB_PER_NAT, "decibels", "20 log10"),
    (1 / math.log(2), "log-base", "log2"),
)

# (mean, std, in which logarithm, whose): Matcha-TTS, configs/data/ljspeech.yaml; GPT-SoVITS,
# module/mel_processing.py, [-12, 2] to [-1, 1]; ZipVoice, feat_scale; Whisper, whisper/audio.py.
_NORMALISATIONS = (
    (-5.536622, 2.116101, "Matcha-TTS, LJ Speech: mean -5.5366, std 2.1161"),
    (-5.0, 7.0, "[-12, 2] to [-1, 1]"),
    (0.0, 10.0, "feat_scale 0.1, as ZipVoice"),
    (-4.0, 4.0, "(x + 4) / 4, as Whisper"),
)

# Decibels that a range is divided by: 100 dB to [0, 1], to [-1, 1] or to [-4, 4], and so on.
_RANGES_DB = (10.0, 12.5, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 80.0, 90.0, 100.0, 120.0)

_LEFT_OUT = "the recipe's mean and standard deviation were not applied"

# Gains with a name: (factor on the waveform, code, what it is).
_GAINS = (
    (32_768.0, "int16-scale", "int16 samples, not divided by 32768"),
    (32_767.0, "int16-scale", "int16 samples, not divided by 32767"),
    (1 / 32_768.0, "int16-scale", "divided by 32768 twice"),
    (1 / 32_767.0, "int16-scale", "divided by 32767 twice"),
    (8_388_608.0, "int16-scale", "24-bit samples, not scaled to +-1"),
    (2_147_483_648.0, "int16-scale", "32-bit samples, not scaled to +-1"),
    (65_536.0, "int16-scale", "32-bit samples, divided by 32768"),
    (1 / 65_536.0, "int16-scale", "int16 samples, divided by 2^31"),
)


def explain_affine(
    slope: float,
    offset: float,
    *,
    recipe: MelRecipe,
    slope_tolerance: float,
    offset_tolerance: float,
    floor_moved: bool | None,
) -> tuple[Finding, ...]:
    """Explain candidate = slope * hypothesis + offset, relative to what a recipe expects.

    Args:
        slope: Slope of the candidate against the natural log-mel of `recipe`'s filters.
        offset: The same, in the candidate's unit.
        recipe: The hypothesis; its logarithm and normalisation are expected and cost nothing.
        slope_tolerance: Relative.
        offset_tolerance: In nats of the hypothesis.
        floor_moved: Whether the candidate's floor moved along with the offset, as one added after
            the logarithm would move it; None where no cell is at the floor.

    Returns:
        The causes, none where slope and offset are those of the recipe.
    """
    # Undo the recipe's own normalisation and logarithm: what is left is the deviation.
    expected_scale = recipe.log_units_per_nat
    slope_left = slope * recipe.std
    offset_left = offset * recipe.std + recipe.mean
    options: list[tuple[float, int, tuple[Finding, ...]]] = []
    scaled = _decibel_range(
        slope_left, offset_left, recipe, slope_tolerance, offset_tolerance / expected_scale
    )
    if scaled:
        options.append((1.5, 0, scaled))
    for logarithm, normalisation in itertools.product(
        _logarithms(expected_scale, recipe), _normalisations(recipe)
    ):
        scale, code, log_text = logarithm
        mean, std, norm_text = normalisation
        if abs(slope_left * std / scale - 1) > slope_tolerance:
            continue
        causes: list[Finding] = []
        if code:
            fix = _logarithm_fix(recipe, expected_scale / scale)
            causes.append(Finding(code, log_text, fix=fix))
        if norm_text:
            fix = _normalisation_fix(recipe) if norm_text == _LEFT_OUT else ""
            causes.append(Finding("normalisation", norm_text, fix=fix))
        shift_nats = (offset_left * std + mean) / scale
        gain = _gain(shift_nats, recipe, offset_tolerance)
        if gain is not None and floor_moved and not norm_text:
            # The floor moved with it, so this was added to the log-mel, not done to the waveform.
            gain = Finding("normalisation", f"{offset:+.4f} added after the logarithm")
        if gain is not None:
            causes.append(gain)
        cost = sum(2 if "unnamed" in cause.text else 1 for cause in causes)
        options.append((cost, len(options), tuple(causes)))
    if options:
        return min(options)[2]
    text = f"unnamed statistics: mean {-offset_left / slope_left:+.4f}, std {1 / slope_left:.4f}"
    return (Finding("normalisation", text),)


def _decibel_range(
    slope: float, offset: float, recipe: MelRecipe, slope_tolerance: float, tolerance_nats: float
) -> tuple[Finding, ...]:
    """Return the causes where whole decibels were subtracted and a usual range divided by.

    There is no gain then: a level that changed would leave a mean that is no whole number.
    """
    scale = DB_PER_NAT / recipe.power
    std = scale / slope
    usual = min(_RANGES_DB, key=lambda each: abs(std / each - 1))
    if abs(std / usual - 1) > slope_tolerance:
        return ()
    for shift_nats, normalised in ((0.0, ()), *_normalised_stfts(recipe)):
        mean = scale * shift_nats - offset * std
        if abs(mean - round(mean)) > scale * tolerance_nats + _ROUNDED_DB:
            continue
        found = list(normalised)
        factor = recipe.log_units_per_nat / scale
        if abs(factor - 1) > 1e-6:
            name = f"{20 / recipe.power:g} log10"
            found.append(Finding("decibels", name, fix=_logarithm_fix(recipe, factor)))
        text = f"mean {round(mean)} dB, std {usual:g} dB"
        fix = f"Multiply by {usual:g} and add {round(mean)} to have decibels again."
        return (*found, Finding("normalisation", text, fix=fix))
    return ()


def _normalised_stfts(recipe: MelRecipe) -> list[tuple[float, tuple[Finding, ...]]]:
    """Return what a normalised STFT adds, in nats, with its finding."""
    found: list[tuple[float, tuple[Finding, ...]]] = []
    for divisor, name in _stft_norms(recipe):
        shift = -recipe.power * math.log(divisor)
        text = f"STFT divided by {divisor:.4g} (normalized={name!r})"
        found.append((shift, (Finding("stft-normalized", text, shift_nats=shift),)))
    return found


_ROUNDED_DB = 5e-3


def _logarithms(expected_scale: float, recipe: MelRecipe) -> list[tuple[float, str, str]]:
    own = (expected_scale, "", "")
    others = [
        (scale, code or "log-base", text)
        for scale, code, text in _LOGARITHMS
        if abs(scale / expected_scale - 1) > 1e-6 and recipe.log_base is not None
    ]
    return [own, *others]


def _logarithm_fix(recipe: MelRecipe, factor: float) -> str:
    name = {"e": "torch.log", "10": "torch.log10"}[recipe.log_base or "e"]
    scaled = "" if recipe.log_scale == 1 else f"{recipe.log_scale:g} * "
    return f"Take {scaled}{name} of the mel, or multiply this mel by {factor:.4f}."


def _normalisation_fix(recipe: MelRecipe) -> str:
    sign = "+" if recipe.mean < 0 else "-"
    return f"Take (x {sign} {abs(recipe.mean):g}) / {recipe.std:g} of the log-mel."


def _normalisations(recipe: MelRecipe) -> list[tuple[float, float, str]]:
    found = [(0.0, 1.0, "")]
    if (recipe.mean, recipe.std) != (0.0, 1.0):
        # It undoes what the recipe does.
        found.append((-recipe.mean / recipe.std, 1 / recipe.std, _LEFT_OUT))
    for mean, std, text in _NORMALISATIONS:
        found.append((mean, std, text))
        # ((x - m) / s - m) / s = (x - m (1 + s)) / s^2
        found.append((mean * (1 + std), std * std, f"{text}; applied twice"))
    return found


def _gain(shift_nats: float, recipe: MelRecipe, tolerance: float) -> Finding | None:
    shift = shift_nats / recipe.power
    tolerance = tolerance / recipe.power
    if abs(shift) <= tolerance:
        return None
    for factor, code, text in _GAINS:
        if abs(shift - math.log(factor)) <= tolerance:
            return Finding(code, text, alternatives=("gain",), shift_nats=shift_nats)
    decibels = DB_PER_NAT * shift
    level = f"factor {math.exp(shift):.4g} on the waveform ({decibels:+.2f} dB)"
    if abs(shift - math.log(2)) <= tolerance:
        return Finding(
            "gain",
            f"{level}, or two channels added",
            alternatives=("stereo-sum",),
            shift_nats=shift_nats,
            gain=math.exp(shift),
        )
    for divisor, name in _stft_norms(recipe):
        if abs(shift + math.log(divisor)) <= tolerance:
            text = f"STFT divided by {divisor:.4g} (normalized={name!r}), or a {level}"
            return Finding("stft-normalized", text, alternatives=("gain",), shift_nats=shift_nats)
    return Finding("gain", level, shift_nats=shift_nats, gain=math.exp(shift))


def _stft_norms(recipe: MelRecipe) -> tuple[tuple[float, str], ...]:
    energy = float(window(recipe).square().sum())
    return ((math.sqrt(energy), "window"), (math.sqrt(recipe.n_fft), "frame_length"))
