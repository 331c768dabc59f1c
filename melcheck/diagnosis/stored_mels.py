"""Is a stored mel still the mel of its audio, and if not, what became of it?

`match_mels` finds which stored mel belongs to which clip, by name and by the folders above.
`compare_stored` compares it with the mel that the front end extracts now, and names swapped axes, a
shift, a part of the clip, NaN, a normalisation, different audio and, by
`melcheck.diagnosis.diagnose.diagnose`, a different recipe. Mels are `[n_mels, frames]` here.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from melcheck.clips import AUDIO_SUFFIXES, Clip
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.recipe_search.mel_values import (
    STORAGE_ROUNDINGS,
    magnitude_rounding,
    prepare,
    storage_of,
    storage_step,
)
from melcheck.mel_files import StoredMel
from melcheck.recipes import MelRecipe, log_mel

# Names that a preprocessing script puts around the stem of the audio: "mel-a.npy", "a.mel.npy",
# "ljspeech-mel-00001.npy" keeps its own.
_AFFIXES = re.compile(r"^(?:mel|spec)[-_.]|[-_.](?:mel|mels|spec|logmel)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Matches:
    """Which stored mels belong to which clips.

    Attributes:
        mels: The files of each clip, by the clip's name; no entry for a clip without.
        without_audio: Files that belong to none of the clips.
    """

    mels: dict[str, tuple[Path, ...]]
    without_audio: tuple[Path, ...]


def match_mels(files: Sequence[Path], clips: Iterable[Clip]) -> Matches:
    """Match the files of a cache with clips, by stem.

    A file matches the clip whose file has its stem, up to an audio suffix and `mel` in its name,
    and up to the normal form of Unicode. Where several clips or files share a stem, the folders
    above decide; a file that is as near to two clips belongs to neither.
    """
    by_stem: dict[str, list[Clip]] = {}
    for clip in clips:
        by_stem.setdefault(_normal(clip.path.stem), []).append(clip)
    mels: dict[str, tuple[Path, ...]] = {}
    without_audio = []
    nearness: dict[Path, int] = {}
    for file in files:
        candidates: list[Clip] = []
        for stem in _stems(file):
            candidates = by_stem.get(stem, [])
            if candidates:
                break
        scores = [_common_folders(file, clip.path) for clip in candidates]
        best = max(scores, default=-1)
        if scores.count(best) != 1:
            without_audio.append(file)
            continue
        nearness[file] = best
        name = candidates[scores.index(best)].name
        mels[name] = (*mels.get(name, ()), file)
    for name, found in mels.items():
        # speaker-1/a.npy and speaker-2/a.npy with a clip speaker-1/a.wav alone.
        nearest = max(nearness[file] for file in found)
        kept = tuple(file for file in found if nearness[file] == nearest)
        without_audio += [file for file in found if file not in kept]
        mels[name] = kept
    return Matches(mels, tuple(sorted(without_audio)))


def _normal(stem: str) -> str:
    return unicodedata.normalize("NFC", stem)


def _stems(file: Path) -> list[str]:
    """Return the stems of audio that a file may belong to, the most literal first."""
    stem = file.stem
    stems = [stem]
    if Path(stem).suffix.lower() in AUDIO_SUFFIXES:
        stem = Path(stem).stem
        stems.append(stem)
    stems.append(_AFFIXES.sub("", stem))
    return [_normal(each) for each in stems if each]


def _common_folders(file: Path, audio: Path) -> int:
    """Return how many folders above two files have the same names."""
    common = 0
    for one, other in zip(file.parts[-2::-1], audio.parts[-2::-1], strict=False):
        if _normal(one) != _normal(other):
            break
        common += 1
    return common


# Rounding of a different library or device; quiet cells are compared in magnitudes.
_SAME_NATS = 1e-3

# No mel of audio is louder; what claims to be is no number of float64 after `exp`.
_LOUDEST_NATS = 30.0

# float16 and bfloat16 resolve 0.004 and 0.06 nats at -16.
_SAME_FLOOR = 0.1

_SHIFTS_FRAMES = tuple(sorted(range(-16, 17), key=abs))
_FEWEST_FRAMES = 8

# Share of the common cells that must agree for a shift or a cut to be named. The edges of a cut
# clip, where padding begins, do not.
_AGREEING_SHARE = 0.95

# How a mel and that of its clip correlate, band by band. Measured on the twelve fixtures: other
# recipes of the same clip have 0.63 and more; two clips have less than 0.35, but for percussion
# and recordings that are mostly silence, up to 0.6.
_OTHER_AUDIO = 0.3
_SAME_AUDIO = 0.6

# A fit that explains all but this share of the variance is no coincidence.
_AFFINE_REST = 1e-4

_EXTRACT_AGAIN = "Delete it and extract again."


@dataclass(frozen=True, slots=True, eq=False)
class FreshMel:
    """What the front end extracts from a clip now.

    Attributes:
        waveform: The clip, `[samples]`.
        mel: `[n_mels, frames]`.
        recipe: The mel's recipe, up to what does not affect decoding; None if that is not known.
        frames_first: Whether the front end itself returns [frames, n_mels], as its caches then do.
    """

    waveform: Tensor
    mel: Tensor
    recipe: MelRecipe | None
    frames_first: bool = False


@dataclass(frozen=True, slots=True)
class StoredMelResult:
    """What became of one stored mel.

    Attributes:
        fresh: Whether it is the mel that the front end extracts now.
        code: "fresh", or a cause: one of `melcheck.diagnosis.causes`, "other-audio" or "unknown".
        text: The result in a sentence, with the fix where there is something to fix.
        note: Whether a fresh mel differs in a way that should be known.
    """

    fresh: bool
    code: str
    text: str
    note: bool = False

    def __str__(self) -> str:
        return self.text


def fresh_mel(
    waveform: Tensor, extract: Callable[[Tensor], Tensor] | None, expected: MelRecipe
) -> FreshMel:
    """Return the mel of a clip as a front end extracts it now.

    Args:
        waveform: `[samples]`.
        extract: `[batch, samples]` -> `[batch, n_mels, frames]`; None extracts by the recipe.
        expected: The recipe of the vocoder.

    Raises:
        ValueError: What the front end raises, or a clip too short for a mel.
    """
    reference = log_mel(waveform, expected)
    if extract is None:
        return FreshMel(waveform, reference, expected)
    mel = extract(waveform[None])[0].cpu()
    # The method of a `Frontend`, or any function.
    frames_first = bool(getattr(getattr(extract, "__self__", extract), "frames_first", False))
    recipe: MelRecipe | None = expected
    if reference.shape != mel.shape or not torch.equal(reference, mel):
        found = diagnose(waveform, mel, expected=expected)
        recipe = expected if found.kind in ("identical", "benign") else None
    return FreshMel(waveform, mel, recipe, frames_first)


def compare_stored(stored: StoredMel, clip: FreshMel) -> StoredMelResult:
    """Say whether a stored mel is the fresh one, and if not, what became of it."""
    fresh, mel = clip.mel, stored.mel
    causes: list[tuple[str, str]] = []
    if stored.broken:
        share = stored.broken / mel.numel()
        causes.append(("nan", f"{stored.broken} values ({share:.1%}) are NaN or infinite"))
        if stored.broken == mel.numel():
            return _stale(causes)
        mel = torch.where(torch.isfinite(mel), mel, mel[torch.isfinite(mel)].min())
    valid = torch.isfinite(stored.mel)
    upright = _upright(mel, fresh)
    if upright is not mel:
        rows, columns = mel.shape
        layout = f"[{rows}, {columns}] is [frames, n_mels]"
        if clip.frames_first:
            stored = dataclasses.replace(stored, mel=stored.mel.T.contiguous())
            found = compare_stored(stored, dataclasses.replace(clip, frames_first=False))
            text = f"{found.text}; {layout}, as the front end returns it"
            return dataclasses.replace(found, text=text, note=True) if found.fresh else found
        causes.append(("axes-transposed", layout))
        mel, valid = upright, valid.T
    shift = _alignment(mel, valid, fresh, stored.dtype)
    if shift is None:
        code, text = _other(stored, mel, clip)
        if code == "fresh" and not causes:
            return StoredMelResult(True, code, text, note=True)
        return _stale(causes, (code, text))
    if shift:
        side = "early" if shift > 0 else "late"
        causes.append(("frame-shift", f"{abs(shift)} frames {side}"))
    missing = fresh.shape[1] - mel.shape[1]
    if missing and abs(missing) != abs(shift):
        causes.append(("length", f"{mel.shape[1]} frames, {fresh.shape[1]} in the clip"))
    if causes:
        return _stale(causes)
    was, now = prepare(mel).floor, prepare(fresh).floor
    if was is not None and now is not None and abs(was - now) > _SAME_FLOOR:
        text = f"fresh but for its floor: {was:.3f}, now {now:.3f}"
        return StoredMelResult(True, "fresh", text, note=True)
    note = f", stored as {stored.dtype}" if stored.dtype != "float32" else ""
    return StoredMelResult(True, "fresh", f"fresh{note}")


def _stale(causes: list[tuple[str, str]], *other: tuple[str, str]) -> StoredMelResult:
    """Return the result of causes, each with its code before its text, and of others without."""
    texts = [*(f"{code}: {text}" for code, text in causes), *(text for _, text in other)]
    first = [*causes, *other][0][0]
    return StoredMelResult(False, first, f"{'; '.join(texts)}. {_EXTRACT_AGAIN}")


def _other(stored: StoredMel, mel: Tensor, clip: FreshMel) -> tuple[str, str]:
    """Return the code and the text of a mel that is no piece of the fresh one."""
    fresh = clip.mel
    follows = _follows(mel, fresh)
    correlation = f"it correlates with the clip's mel by {follows:.2f}"
    if follows >= _OTHER_AUDIO:
        if clip.recipe is not None:
            found = diagnose(clip.waveform, stored.mel, expected=clip.recipe)
            if found.kind in ("identical", "benign"):
                return "fresh", f"fresh but for differences that do not affect decoding: {found}"
            if found.kind == "fault" and found.codes:
                return found.codes[0], f"stale: {found}"
        normalised = _normalisation(mel, fresh)
        if normalised is not None:
            return "normalisation", normalised
    if follows >= _SAME_AUDIO:
        return (
            "unknown",
            f"stale: made by a different recipe, none of those known here ({correlation})",
        )
    return "other-audio", (
        f"other-audio: {correlation}, so it was made from a different file, or the clip has changed"
    )


def _normalisation(mel: Tensor, fresh: Tensor) -> str | None:
    """Return the statistics of a mel that is the fresh one, shifted and scaled; None otherwise."""
    if mel.shape != fresh.shape:
        return None
    one, other = mel.double().flatten(), fresh.double().flatten()
    slope = float(
        ((other - other.mean()) @ (one - one.mean())) / (other - other.mean()).square().sum()
    )
    rest = one - one.mean() - slope * (other - other.mean())
    if not slope > 0 or float(rest.square().sum()) > _AFFINE_REST * float(one.var() * len(one)):
        return None
    std = 1 / slope
    mean = round(float(other.mean()) - std * float(one.mean()), 4) + 0.0  # no -0
    return f"normalisation: it is (mel - {mean:.4g}) / {std:.4g}"


def _upright(mel: Tensor, fresh: Tensor) -> Tensor:
    """Return a mel with its bands first; the same object where they already are."""
    bands = fresh.shape[0]
    if mel.shape[0] != bands and mel.shape[1] == bands:
        return mel.T.contiguous()
    if mel.shape[0] == mel.shape[1] == bands:
        turned = mel.T.contiguous()
        if _typical_difference(turned, fresh) < _typical_difference(mel, fresh):
            return turned
    return mel


def _typical_difference(mel: Tensor, fresh: Tensor) -> float:
    if mel.shape[0] != fresh.shape[0]:
        return float("inf")
    frames = min(mel.shape[1], fresh.shape[1])
    return float((mel[:, :frames] - fresh[:, :frames]).abs().median())


def _alignment(mel: Tensor, valid: Tensor, fresh: Tensor, dtype: str) -> int | None:
    """Return by how many frames a mel is early, where it is the fresh one but for that.

    Without a shift and a cut every cell must agree, but for those that are not `valid`.
    """
    if mel.shape[0] != fresh.shape[0]:
        return None
    step = STORAGE_ROUNDINGS * storage_step(storage_of(mel)) if dtype != "float32" else 0.0
    for shift in _SHIFTS_FRAMES:
        begin, other = max(0, -shift), max(0, shift)
        frames = min(mel.shape[1] - begin, fresh.shape[1] - other)
        if frames < _FEWEST_FRAMES:
            continue
        here = mel[:, begin : begin + frames].double()
        there = fresh[:, other : other + frames].double()
        kept = valid[:, begin : begin + frames]
        # An error of the magnitude weighs more where the mel is low: magnitudes decide there.
        rounding = magnitude_rounding(float(_magnitude(there.max())))
        apart = (_magnitude(here) - _magnitude(there)).abs()
        close = (here - there).abs() <= _SAME_NATS + step * there.abs()
        agree = close | (apart <= rounding) | ~kept
        whole = not shift and mel.shape == fresh.shape
        share = float(agree.double().mean())
        if share == 1.0 or (not whole and share >= _AGREEING_SHARE):
            return shift
    return None


def _magnitude(mel: Tensor) -> Tensor:
    return mel.clamp(max=_LOUDEST_NATS).exp()


def _follows(mel: Tensor, fresh: Tensor) -> float:
    """Return how two mels correlate, each band less its mean: side by side, and stretched."""
    one, other = mel.double(), fresh.double()
    if float(one.min()) >= 0 and float(one.max()) > 0:
        one = one.clamp(min=float(one[one > 0].min())).log()
    stretched = torch.nn.functional.interpolate(
        one[None, None], size=other.shape, mode="bilinear", align_corners=False
    )[0, 0]
    pairs = [(stretched, other)]
    if one.shape[0] == other.shape[0]:
        frames = min(one.shape[1], other.shape[1])
        pairs.append((one[:, :frames], other[:, :frames]))
    return max(_correlation(*pair) for pair in pairs)


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = (each - each.mean(dim=1, keepdim=True) for each in (one, other))
    scale = float(one.norm() * other.norm())
    return float((one * other).sum()) / scale if scale else 0.0
