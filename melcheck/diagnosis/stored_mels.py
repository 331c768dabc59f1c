"""Is a stored mel still the mel of its audio, and if not, what became of it?

`match_mels` finds which stored mel belongs to which clip, by name and by the folders above, or by a
pattern of the user's. `compare_stored` compares it with the mel that the front end extracts now:
it names swapped axes, a shift, a part of the clip, NaN, a normalisation, a floor, different audio
and, by `melcheck.diagnosis.diagnose.diagnose`, a different recipe. Mels are `[n_mels, frames]`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from melcheck.clips import AUDIO_SUFFIXES, Clip
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.recipe_search.choice import SAME_MEL_NATS
from melcheck.diagnosis.recipe_search.mel_values import (
    STORAGE_ROUNDINGS,
    Prepared,
    magnitude_rounding,
    prepare,
    storage_step,
)
from melcheck.diagnosis.result import Diagnosis
from melcheck.mel_files import MEL_SUFFIXES, StoredMel
from melcheck.recipes import BENIGN_FLOORS, MelRecipe, log_mel

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
        # A row of a list may have an id of its own, by which a script names its mel.
        for stem in {_normal(clip.path.stem), _normal(clip.name.rpartition("/")[2])}:
            by_stem.setdefault(stem, []).append(clip)
    mels: dict[str, tuple[Path, ...]] = {}
    without_audio = []
    nearness: dict[Path, int] = {}
    for file in files:
        candidates: list[Clip] = []
        for stem in stems_of(file):
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


PATTERN_FIELDS = ("stem", "speaker", "name")
"""What a pattern may hold: the stem of the audio's file, the folder above it, the clip's name."""


def check_pattern(pattern: str) -> None:
    """Raise where a pattern cannot name the mel of a clip.

    Raises:
        ValueError: Unknown fields, none that differs between clips, or no suffix of a mel.
    """
    known = ", ".join(f"{{{name}}}" for name in PATTERN_FIELDS)
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f"{pattern!r} is no pattern ({error}). Write {known} in it.") from None
    fields = [name for _, name, _, _ in parts if name is not None]
    wrong = [name for name in fields if name not in PATTERN_FIELDS]
    if wrong or any(spec or conversion for _, _, spec, conversion in parts):
        raise ValueError(
            f"{pattern!r} must hold {known} alone, got {{{(wrong or fields)[0]}}}. The stem is "
            "that of the audio's file, the speaker the folder above it."
        )
    if not {"stem", "name"} & set(fields):
        raise ValueError(f"{pattern!r} must hold {{stem}} or {{name}}, or all clips have one mel.")
    if Path(pattern).suffix.lower() not in MEL_SUFFIXES:
        raise ValueError(f"{pattern!r} must end in one of {', '.join(MEL_SUFFIXES)}.")


def name_of_mel(pattern: str, clip: Clip) -> str:
    """Return the path, relative to the cache, that a pattern gives the mel of a clip.

    Example:
        >>> clip = Clip("emma/1", Path("data/emma/1.wav"), "user")
        >>> name_of_mel("{speaker}-mel-{stem}.npy", clip)
        'emma-mel-1.npy'
    """
    return pattern.format(stem=clip.path.stem, speaker=clip.path.parent.name, name=clip.name)


def match_by_pattern(
    folder: Path, files: Sequence[Path], clips: Iterable[Clip], pattern: str
) -> Matches:
    """Match the files of a cache with clips by a pattern such as "{speaker}-mel-{stem}.npy".

    Args:
        folder: Folder of the cache, to which the pattern is relative.
        files: The files in it.
        clips: The clips.
        pattern: As `check_pattern` takes it.
    """
    left = {_normal(file.relative_to(folder).as_posix()): file for file in files}
    mels: dict[str, tuple[Path, ...]] = {}
    for clip in clips:
        file = left.pop(_normal(name_of_mel(pattern, clip)), None)
        if file is not None:
            mels[clip.name] = (file,)
    return Matches(mels, tuple(sorted(left.values())))


def _normal(stem: str) -> str:
    return unicodedata.normalize("NFC", stem)


def stems_of(file: Path) -> list[str]:
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


LOUDEST_NATS = 30.0
"""No mel of audio is louder; what claims to be is no number of float64 after `exp`."""

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
_SAME_SCALE = 5e-3
_FEWEST_CELLS = 64

# What to do where the code that wrote the cache did it, and would do it again.
_SAME_CODE = "Extracting again with the same code would change nothing."
_FIXES = {
    "nan": f"Give the logarithm a floor, or find the first step that makes them. {_SAME_CODE}",
    "axes-transposed": "Store mel.transpose(-1, -2), or swap them where they are loaded. "
    f"{_SAME_CODE}",
    "frame-shift": "Extract from the audio as it is checked here: look for trimming, padding or a "
    f"codec's delay on one side alone. {_SAME_CODE}",
    "length": "Cut the mel and its audio at the same places: look for trimming or padding before "
    f"one of them. {_SAME_CODE}",
    "normalisation": "Undo it with these statistics before decoding, or name the front end that "
    f"normalises. {_SAME_CODE}",
}


def fix_of_stored(code: str) -> str:
    """Return what to do about stored mels of a code that extraction would not mend; "" for others.

    Example:
        >>> fix_of_stored("nan").startswith("Give the logarithm a floor")
        True
        >>> fix_of_stored("other-audio")
        ''
    """
    return _FIXES.get(code, "")


_OWNED = f"Name each mel by its audio, not by its position in a list. {_SAME_CODE}"
_EXTRACT_AGAIN = "Delete it and extract again."


@dataclass(frozen=True, slots=True, eq=False)
class FreshMel:
    """What the front end extracts from a clip now.

    Attributes:
        waveform: The clip, `[samples]`.
        mel: `[n_mels, frames]`.
        recipe: The mel's recipe, up to what does not affect decoding; None if that is not known.
        front_end: Name of the user's front end; "" where the vocoder's recipe extracted it.
        frames_first: Whether the front end itself returns [frames, n_mels], as its caches then do.
    """

    waveform: Tensor
    mel: Tensor
    recipe: MelRecipe | None
    front_end: str = ""
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
    waveform: Tensor,
    extract: Callable[[Tensor], Tensor] | None,
    expected: MelRecipe,
    *,
    front_end: str = "",
) -> FreshMel:
    """Return the mel of a clip as a front end extracts it now.

    Args:
        waveform: `[samples]`.
        extract: `[batch, samples]` -> `[batch, n_mels, frames]`; None extracts by the recipe.
        expected: The recipe of the vocoder.
        front_end: Name of the front end, for what is to be done.

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
    return FreshMel(waveform, mel, recipe, front_end, frames_first)


def compare_stored(
    stored: StoredMel, clip: FreshMel, *, owner: Callable[[Tensor], str] | None = None
) -> StoredMelResult:
    """Say whether a stored mel is the fresh one, and if not, what became of it.

    Args:
        stored: The mel of the cache.
        clip: Its clip, and the mel that is extracted now.
        owner: Names the clip that a mel `[n_mels, frames]` belongs to instead, "" for none known.
    """
    fresh, mel = clip.mel, stored.mel
    causes: list[tuple[str, str]] = []
    if not torch.isfinite(fresh).all():
        name = clip.front_end or "the vocoder's recipe"
        text = f"{name} makes them of this clip today: {_broken_cells(fresh, clip.recipe)}"
        return _stale([("nan", text)])
    valid = torch.isfinite(mel)
    if stored.broken:
        if stored.broken == mel.numel():
            causes.append(("nan", _broken_cells(mel, clip.recipe)))
            return _stale(causes)
        mel = torch.where(valid, mel, mel[valid].min())
    upright = _upright(mel, fresh)
    swapped = upright is not mel
    if stored.broken:
        cells = stored.mel.T if swapped else stored.mel
        causes.append(("nan", _broken_cells(cells, clip.recipe)))
    if swapped:
        rows, columns = mel.shape
        layout = f"[{rows}, {columns}] is [frames, n_mels]"
        if clip.frames_first:
            stored = dataclasses.replace(stored, mel=stored.mel.T.contiguous())
            turned = dataclasses.replace(clip, frames_first=False)
            found = compare_stored(stored, turned, owner=owner)
            text = f"{found.text}; {layout}, as the front end returns it"
            return dataclasses.replace(found, text=text, note=True) if found.fresh else found
        causes.append(("axes-transposed", layout))
        mel, valid = upright, valid.T
    was, now = prepare(mel), prepare(fresh)
    common = _common_floor(was, now, clip.recipe)
    step = STORAGE_ROUNDINGS * storage_step(was.storage) if stored.dtype != "float32" else 0.0
    shift = _alignment(*_at_floor(common, mel, fresh), valid=valid, step=step)
    if shift is None:
        code, text, fix = _other(stored, mel, clip, owner)
        if code == "fresh" and not causes:
            return StoredMelResult(True, code, text, note=True)
        return _stale(causes, (code, text, fix))
    if shift:
        side = "early" if shift > 0 else "late"
        frames = "1 frame" if abs(shift) == 1 else f"{abs(shift)} frames"
        causes.append(("frame-shift", f"{frames} {side}"))
    missing = fresh.shape[1] - mel.shape[1]
    if missing and abs(missing) != abs(shift):
        causes.append(("length", f"{mel.shape[1]} frames, {fresh.shape[1]} in the clip"))
    if causes:
        return _stale(causes)
    low, high = float(mel[valid].min()), float(fresh.min())
    if common is not None and abs(low - high) > _SAME_FLOOR:
        text = f"fresh but for its floor: {low:.3f}, now {high:.3f}"
        return StoredMelResult(True, "fresh", text, note=True)
    note = f", stored as {stored.dtype}" if stored.dtype != "float32" else ""
    return StoredMelResult(True, "fresh", f"fresh{note}")


def _stale(causes: list[tuple[str, str]], *other: tuple[str, str, str]) -> StoredMelResult:
    """Return the result of causes, each with its code before its text, and of others without."""
    texts = [*(f"{code}: {text}" for code, text in causes), *(text for _, text, _ in other)]
    codes = [*(code for code, _ in causes), *(code for code, _, _ in other)]
    fixes = dict.fromkeys([*(_FIXES[code] for code, _ in causes), *(fix for _, _, fix in other)])
    return StoredMelResult(False, codes[0], f"{'; '.join(texts)}. {' '.join(filter(None, fixes))}")


_LISTED_CELLS = 3


def _broken_cells(mel: Tensor, recipe: MelRecipe | None) -> str:
    """Return how many values of `[n_mels, frames]` are no numbers, of which kind, and where."""
    broken = ~torch.isfinite(mel)
    count = int(broken.sum())
    bands, frames = (torch.nonzero(broken.any(dim=axis))[:, 0].tolist() for axis in (1, 0))
    kind = "all -inf, the logarithm of 0: " if int(torch.isneginf(mel).sum()) == count else ""
    seconds = ""
    if recipe is not None:
        first, last = (frame / recipe.frames_per_second for frame in (frames[0], frames[-1]))
        seconds = f" ({first:.2f} s)" if first == last else f" ({first:.2f} to {last:.2f} s)"
    where = f"{kind}{ranges('frame', frames)}{seconds}, {ranges('band', bands)}"
    return f"{count} values ({count / mel.numel():.1%}) are NaN or infinite: {where}"


def ranges(name: str, numbers: list[int]) -> str:
    """Return sorted numbers as ranges in words.

    Example:
        >>> ranges("frame", [3]), ranges("band", [0, 1, 2, 7])
        ('frame 3', 'bands 0 to 2, 7')
    """
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    texts = [" to ".join(map(str, each)) for each in found[:_LISTED_CELLS]]
    more = f" and {len(found) - _LISTED_CELLS} more places" if len(found) > _LISTED_CELLS else ""
    return f"{name}{'s' if len(numbers) > 1 else ''} {', '.join(texts)}{more}"


def _common_floor(was: Prepared, now: Prepared, recipe: MelRecipe | None) -> float | None:
    """Return the higher floor of two mels where it does not affect decoding; None elsewhere.

    Of a front end without a known recipe natural logarithms are assumed.
    """
    floors = [prepared.floor for prepared in (was, now) if prepared.floor is not None]
    if not floors:
        return None
    highest = math.log(BENIGN_FLOORS[1])
    if recipe is not None and recipe.log_base is not None:
        highest = recipe.normalised(recipe.logarithm(BENIGN_FLOORS[1]))
    top = max(floors)
    return top if top <= highest + _SAME_FLOOR else None


def _at_floor(floor: float | None, *mels: Tensor) -> list[Tensor]:
    return [mel if floor is None else mel.clamp(min=floor) for mel in mels]


def _other(
    stored: StoredMel, mel: Tensor, clip: FreshMel, owner: Callable[[Tensor], str] | None
) -> tuple[str, str, str]:
    """Return the code, the text and the fix of a mel that is no piece of the fresh one."""
    fresh = clip.mel
    follows = likeness(mel, fresh)
    correlation = f"it correlates with the clip's mel by {follows:.2f}"
    if follows >= _OTHER_AUDIO:
        if clip.recipe is not None:
            found = diagnose(clip.waveform, stored.mel, expected=clip.recipe)
            if found.kind in ("identical", "benign"):
                told = f"fresh but for differences that do not affect decoding: {found}"
                return "fresh", told, ""
            if found.kind == "fault" and found.codes:
                told = "; ".join(each.summary for each in found.causes)
                return found.codes[0], f"stale: {told}", _fix_of(found, clip)
        affine = _affine(mel, fresh)
        if affine is not None:
            code, told = affine
            return code, told, _FIXES.get(code, _newer(clip))
    if follows >= _SAME_AUDIO:
        told = f"stale: made by a different recipe, none of those known here ({correlation})"
        return "unknown", told, _newer(clip)
    name = "" if owner is None else owner(mel)
    if name:
        told = f"other-audio: it is the mel of {name}, under the name of this clip"
        return "other-audio", told, _OWNED
    told = f"{correlation}, so it was made from a different file, or the clip has changed"
    return "other-audio", f"other-audio: {told}", _EXTRACT_AGAIN


def _fix_of(found: Diagnosis, clip: FreshMel) -> str:
    """Return what to do about a mel that `diagnose` explains."""
    first = found.causes[0]
    if first.code in _FIXES:
        return f"{first.fix} {_SAME_CODE}"
    return _newer(clip) if clip.front_end else f"{first.fix} Then extract again."


def _newer(clip: FreshMel) -> str:
    if not clip.front_end:
        return _EXTRACT_AGAIN
    return f"Extract again with {clip.front_end}, which makes a different mel today."


def _affine(mel: Tensor, fresh: Tensor) -> tuple[str, str] | None:
    """Return what became of a mel that is the fresh one, scaled, shifted, or clipped elsewhere.

    Cells at the floor of either say nothing about the scale, and are left out of the fit.
    """
    if mel.shape != fresh.shape:
        return None
    kept = prepare(mel).usable & prepare(fresh).usable if _whole(mel, fresh) else None
    if kept is None or int(kept.sum()) < _FEWEST_CELLS:
        return None
    one, other = mel[kept].double(), fresh[kept].double()
    slope = float(
        ((other - other.mean()) @ (one - one.mean())) / (other - other.mean()).square().sum()
    )
    rest = one - one.mean() - slope * (other - other.mean())
    if not slope > 0 or float(rest.square().sum()) > _AFFINE_REST * float(one.var() * len(one)):
        return None
    std = 1 / slope
    mean = round(float(other.mean()) - std * float(one.mean()), 4) + 0.0  # no -0
    if abs(slope - 1) < _SAME_SCALE and abs(mean) < _SAME_FLOOR:
        return "floor", (
            f"floor: the same mel above its floor, clipped at {float(mel.min()):.3f}, now at "
            f"{float(fresh.min()):.3f}"
        )
    return "normalisation", f"normalisation: it is (mel - {mean:.4g}) / {std:.4g}"


def _whole(mel: Tensor, fresh: Tensor) -> bool:
    """Return whether no frames of constant padding were cut off either mel."""
    return all(prepare(each).mel.shape == each.shape for each in (mel, fresh))


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


def _alignment(mel: Tensor, fresh: Tensor, *, valid: Tensor, step: float) -> int | None:
    """Return by how many frames a mel is early, where it is the fresh one but for that.

    Without a shift and a cut every cell must agree, but for those that are not `valid`. `step` is
    the relative error of storage.
    """
    if mel.shape[0] != fresh.shape[0]:
        return None
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
        close = (here - there).abs() <= SAME_MEL_NATS + step * there.abs()
        agree = close | (apart <= rounding) | ~kept
        whole = not shift and mel.shape == fresh.shape
        share = float(agree.double().mean())
        if share == 1.0 or (not whole and share >= _AGREEING_SHARE):
            return shift
    return None


def _magnitude(mel: Tensor) -> Tensor:
    return mel.clamp(max=LOUDEST_NATS).exp()


def likeness(mel: Tensor, fresh: Tensor) -> float:
    """Return how two mels correlate, each band less its mean: side by side, and stretched.

    Args:
        mel: `[n_mels, frames]`, in any unit.
        fresh: Likewise; its numbers of bands and frames may differ.
    """
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
