"""What does a collated batch show before the first step of training?

`check_batch` looks at the mels alone: their type, axes, NaN, padding, range, floor, and whether two
items are one. With the waveforms it also extracts a short, loud piece of every item again, and so
sees mels that are stale, follow a different recipe, or belong to another item. Where all is well
that takes some milliseconds; only a fault that has to be named takes longer.

Nothing outside is changed: no random number is drawn, no graph is built, no tensor is written to or
moved from its device, and autocast does not apply.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from melcheck.diagnosis.causes import Explanation, cause, explanation
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.identify import contradiction, marks_of
from melcheck.diagnosis.recipe_search.mel_values import (
    STORAGE_ROUNDINGS,
    Prepared,
    as_tensor,
    prepare,
    storage_step,
)
from melcheck.diagnosis.stored_mels import LOUDEST_NATS, likeness, ranges
from melcheck.files import MAX_LISTED
from melcheck.recipes import BENIGN_FLOORS, DB_PER_NAT, FLOORS_IN_USE, VOCOS, MelRecipe, log_mel

# A value this near to a floor is at it, nats; float16 resolves 0.008 at -16.
_AT_FLOOR_NATS = 0.05

# What a logarithm may be kept finite with, however unwise.
_FLOORS = (*FLOORS_IN_USE, 1e-2, 1e-1)

# Frames of all items together whose range is looked at, and the fewest that have the range of
# speech: `identify` measured that on clips of a second and more.
_LOOKED_AT_FRAMES = 1024
_FEWEST_FRAMES = 64

# How much a band varies in time, as a share of the mel's range: 0.04 to 0.06 for white, pink and
# brown noise at any level, 0.09 and more for the fixtures of speech and music.
_STEADY_SHARE = 0.07

# Frames that are extracted again of each item, and how many of them are too few to judge.
_PIECE_FRAMES = 24
_FEWEST_PIECE_FRAMES = 4

# How far the magnitudes of two pieces may be apart, as a share of their sum, beside noise of -80 dB
# of full scale, which may be in one of them. A different clip, recipe or frame leaves 0.1 and more.
_SAME_SHARE = 0.05
_NOISE_MAGNITUDE = 0.01

# How a mel and the pieces of other items correlate, as in `stored_mels`.
_OTHER_AUDIO = 0.5

# What is searched for the audio of a mel, and for its recipe.
_MOST_SEARCHED = 4
_DIAGNOSED_SECONDS = 15.0

_PRECISIONS = {
    torch.float16: "float16, which resolves 0.008 nats at -16",
    torch.bfloat16: "bfloat16, which resolves 0.06 nats at -16: collate mels in float32",
    torch.float64: "float64, which a float32 model does not take: collate mels in float32",
}


@dataclass(frozen=True, slots=True)
class BatchCheck:
    """What a batch shows.

    Attributes:
        causes: What is wrong, the first cause first; none where nothing is.
        notes: What should be known, and does not affect training.
    """

    causes: tuple[Explanation, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.causes

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the causes, as in `melcheck.diagnosis.causes.CAUSES`."""
        return tuple(each.code for each in self.causes)

    @property
    def cause(self) -> str:
        """The first cause, in words; "" where nothing is wrong."""
        return self.causes[0].summary if self.causes else ""

    @property
    def fix(self) -> str:
        """What to do about the first cause; "" where nothing is wrong."""
        return self.causes[0].fix if self.causes else ""

    def __str__(self) -> str:
        verdict = f"failed: {self.cause}. {self.fix}" if self.causes else "passed"
        also = [f"also {each.summary}" for each in self.causes[1:]]
        return " | ".join([verdict, *also, *self.notes])


def check_batch(
    mels: Any,
    lengths: Any = None,
    waveforms: Any = None,
    *,
    recipe: MelRecipe = VOCOS,
    padding_masked: bool = False,
) -> BatchCheck:
    """Check a collated batch, before a model is trained on it.

    Args:
        mels: `[batch, n_mels, frames]`, or as `recipe.axes` says, on any device.
        lengths: Frames of each item, `[batch]`; None where items have no padding, or it is to be
            found: frames of one value at the end.
        waveforms: The audio of each item, `[batch, samples]` or `[batch, 1, samples]`, floating
            point within +-1 at `recipe.sample_rate`, padded at its end, or a list of them; None
            without.
        recipe: The recipe that the mels should follow.
        padding_masked: Whether loss and attention leave out what is beyond `lengths`: then its
            value is a note.

    Returns:
        The causes, with evidence and fix, and the notes. `str()` of it is the verdict in a line.

    Raises:
        TypeError: Something is no array.
        ValueError: `mels` are not of three dimensions, or lengths or waveforms are not those of
            the batch.

    Example:
        >>> noise = 0.1 * torch.randn(2, 72_000, generator=torch.Generator().manual_seed(0))
        >>> mels = log_mel(noise)
        >>> print(check_batch(mels, waveforms=noise))
        passed
        >>> check_batch(torch.nn.functional.pad(mels, (0, 20))).codes
        ('padded-frames',)
    """
    device = mels.device.type if isinstance(mels, Tensor) else "cpu"
    # Pieces are extracted on the CPU, wherever the mels are.
    plain = [torch.autocast(kind, enabled=False) for kind in dict.fromkeys((device, "cpu"))]
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for each in plain:
            stack.enter_context(each)
        return _checked(mels, lengths, waveforms, recipe, padding_masked)


def _checked(
    mels: Any, lengths: Any, waveforms: Any, recipe: MelRecipe, padding_masked: bool
) -> BatchCheck:
    given = _array(mels, "mels")
    if given.dim() != 3 or not given.numel():
        raise ValueError(
            f"mels must be [batch, n_mels, frames], got {list(given.shape)}. Collate the items, "
            "or add a batch dimension with unsqueeze(0)."
        )
    if not given.is_floating_point():
        kind = str(given.dtype).removeprefix("torch.")
        return BatchCheck((explanation("dtype", f"{kind}, expected float32"),))
    batch, causes, notes = _oriented(given, recipe)
    if batch is None:
        return BatchCheck(tuple(causes))
    if given.dtype in _PRECISIONS:
        notes.append(f"the mels are {_PRECISIONS[given.dtype]}")
    audio = None if waveforms is None else _audio(waveforms, len(batch))
    if recipe.axes == "frames_first":
        recipe = dataclasses.replace(recipe, axes="bands_first")
    batch = batch.float()
    storage = {torch.float16: "float16", torch.bfloat16: "bfloat16"}.get(given.dtype, "")
    look = _Look(batch, batch.amax(dim=1), batch.amin(dim=1), recipe, storage)
    counts = _counts(lengths, look, causes)
    if counts is None:
        return BatchCheck(tuple(causes), tuple(notes))
    broken = _broken(look)
    if broken is not None:
        causes.append(broken)
        return BatchCheck(tuple(causes), tuple(notes))
    _check_padding(look, counts, lengths is not None, padding_masked, causes, notes)
    _check_duplicates(look, counts, audio, causes, notes)
    proven = audio is not None and _check_audio(look, counts, audio, causes, notes)
    # What the mel alone shows is a guess beside what its audio proves.
    if proven or audio is None:
        _check_range(_values(look, counts), look, causes, notes, proven=proven)
    # A wrong recipe explains a padding that is wrong by the right one.
    causes.sort(key=lambda each: each.code == "padded-frames")
    return BatchCheck(tuple(causes), tuple(notes))


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """A batch, and what one pass over it gave.

    Attributes:
        mels: `[batch, n_mels, frames]`, float32.
        highest: Of each frame, `[batch, frames]`.
        lowest: The same.
        recipe: The expected recipe, bands first.
        storage: "float16", "bfloat16" or "" for neither.
    """

    mels: Tensor
    highest: Tensor
    lowest: Tensor
    recipe: MelRecipe
    storage: str


def _array(value: Any, name: str) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else as_tensor(value, name)


def _oriented(
    given: Tensor, recipe: MelRecipe
) -> tuple[Tensor | None, list[Explanation], list[str]]:
    """Return the mels with bands first, or None where neither axis has the recipe's bands."""
    bands_first = recipe.axes == "bands_first"
    expected, other = (1, 2) if bands_first else (2, 1)
    shape = list(given.shape)
    if given.shape[expected] == recipe.n_mels:
        return (given if bands_first else given.transpose(1, 2)), [], []
    if given.shape[other] == recipe.n_mels:
        order = "[batch, n_mels, frames]" if bands_first else "[batch, frames, n_mels]"
        swapped = given.transpose(1, 2) if bands_first else given
        return swapped, [explanation("axes-transposed", f"{shape}, expected {order}")], []
    told = f"{shape}, expected {recipe.n_mels} bands"
    return None, [explanation("n-mels", told, fix=cause("n-mels", recipe).fix)], []


def _audio(waveforms: Any, items: int) -> Tensor:
    if isinstance(waveforms, (list, tuple)):
        pieces = [_array(each, "waveforms").reshape(-1) for each in waveforms]
        waveforms = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
    audio = _array(waveforms, "waveforms")
    if audio.dim() == 3 and audio.shape[1] == 1:
        audio = audio[:, 0]
    if audio.dim() != 2 or len(audio) != items or not audio.is_floating_point():
        kind = f"{audio.dtype} {list(audio.shape)}".removeprefix("torch.")
        raise ValueError(
            f"waveforms must be [{items}, samples] of floating point within +-1, got {kind}. Pass "
            "the audio that the mels were extracted from, int16 divided by 32768."
        )
    return audio.float()


def _counts(lengths: Any, look: _Look, causes: list[Explanation]) -> list[int] | None:
    """Return the frames of each item; None where the lengths given cannot be those."""
    items, _, frames = look.mels.shape
    if lengths is None:
        return _found_lengths(look)
    numbers = _array(torch.as_tensor(lengths), "lengths").reshape(-1).tolist()
    if len(numbers) != items:
        raise ValueError(
            f"lengths must hold the frames of each of {items} items, got {len(numbers)} numbers."
        )
    if all(0 < number <= 1 for number in numbers) and max(numbers) == 1.0 and frames > 1:
        # Shares of the longest item, as SpeechBrain has them.
        return [round(number * frames) for number in numbers]
    counts = [int(number) for number in numbers]
    wrong = [index for index, count in enumerate(counts) if not 1 <= count <= frames]
    if not wrong:
        return counts
    index = wrong[0]
    told = f"item {index} has length {counts[index]:,} of {frames} frames"
    hop = look.recipe.hop_length
    fix = "Pass the number of frames of each mel, before padding."
    if abs(counts[index] / hop - frames) <= max(2.0, frames) and max(counts) > frames:
        fix = f"Pass frames: these are samples, and {look.recipe.hop_length} make a frame."
    causes.append(explanation("length", told, fix=fix))
    return None


def _found_lengths(look: _Look) -> list[int]:
    """Return where each item ends, before frames of one value above the floor, if it does."""
    constant = look.highest == look.lowest
    frames = constant.shape[1]
    last = look.highest[:, -1:]
    above = last > _highest_floor(look.recipe) + _slack(look)
    padding = constant & (look.highest == last) & above
    kept = torch.where(padding, 0, torch.arange(1, frames + 1, device=padding.device))
    found = kept.amax(dim=1).tolist()
    # An item of one value from beginning to end is no padding.
    return [int(count) if count else frames for count in found]


def _highest_floor(recipe: MelRecipe) -> float:
    """Return the highest value, in the mel's unit, that counts as silence."""
    if recipe.log_base is None:
        return BENIGN_FLOORS[1]
    return max(recipe.log_floor, recipe.normalised(recipe.logarithm(BENIGN_FLOORS[1])))


def _slack(look: _Look) -> float:
    recipe = look.recipe
    unit = 1e-6 if recipe.log_base is None else _AT_FLOOR_NATS * recipe.units_per_nat
    return unit + STORAGE_ROUNDINGS * storage_step(look.storage) * abs(recipe.log_floor)


def _broken(look: _Look) -> Explanation | None:
    # A maximum or a minimum is NaN where one cell is.
    if torch.isfinite(look.highest).all() and torch.isfinite(look.lowest).all():
        return None
    broken = ~torch.isfinite(look.mels)
    items = broken.flatten(1).any(dim=1).nonzero()[:, 0].tolist()
    cells = broken[items[0]]
    bands, frames = (cells.any(dim=axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    count = int(broken.sum())
    kind = "-inf, the logarithm of 0" if int(torch.isneginf(look.mels).sum()) == count else "values"
    where = f"{ranges('frame', frames)}, {ranges('band', bands)} of item {items[0]}"
    others = f"; also in {_items(items[1:])}" if len(items) > 1 else ""
    fix = "Find the first step that makes them, such as a logarithm without a floor."
    return explanation("nan", f"{count} {kind}: {where}{others}", fix=fix)


def _items(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, numbers[:MAX_LISTED]))
    more = f" and {len(numbers) - MAX_LISTED} more" if len(numbers) > MAX_LISTED else ""
    return f"item{'s' if len(numbers) > 1 else ''} {listed}{more}"


# Padding and lengths.


def _check_padding(
    look: _Look,
    counts: list[int],
    given: bool,
    masked: bool,
    causes: list[Explanation],
    notes: list[str],
) -> None:
    frames = look.mels.shape[2]
    ends = torch.tensor(counts, device=look.mels.device)[:, None]
    beyond = torch.arange(frames, device=look.mels.device) >= ends
    if not beyond.any():
        return
    varied = (beyond & (look.highest != look.lowest)).any(dim=1)
    # Whatever the recipe, a mel's own lowest value is its silence.
    quiet = max(_highest_floor(look.recipe), float(look.lowest[~beyond].min()))
    loud = beyond & (look.highest > quiet + _slack(look))
    holds_audio = [index for index, each in enumerate((varied & loud.any(dim=1)).tolist()) if each]
    if holds_audio and given:
        index = holds_audio[0]
        text = f"frames after the length {counts[index]} of item {index} hold audio"
        others = f", as in {_items(holds_audio[1:])}" if holds_audio[1:] else ""
        fix = (
            "Pass the frames of each mel as its length; look for a hop or a rate of other settings."
        )
        causes.append(explanation("length", text + others, fix=fix))
        return
    value = float(look.highest[loud].max()) if loud.any() else None
    if value is None:
        return
    floor = look.recipe.log_floor
    above = ""
    if look.recipe.log_base is not None:
        nats = (look.recipe.to_nats(value) - look.recipe.to_nats(floor)) / look.recipe.power
        above = f", {nats * DB_PER_NAT:.0f} dB above the floor of {floor:.4g}"
    count = int(loud.sum())
    padded = [index for index, each in enumerate(loud.any(dim=1).tolist()) if each]
    text = f"{count} frames of {_items(padded)} hold {value:.4g}{above}"
    if masked and given:
        notes.append(f"{text}; they are masked")
        return
    fix = (
        f"Pad with the floor of the recipe, padding_value={floor:.4g}; or mask these frames in "
        "loss and attention, and pass padding_masked=True."
    )
    causes.append(explanation("padded-frames", text, fix=fix))


# One item twice.


def _check_duplicates(
    look: _Look,
    counts: list[int],
    audio: Tensor | None,
    causes: list[Explanation],
    notes: list[str],
) -> None:
    # Of each frame the loudest cell alone: two clips hardly share the sums of those.
    marks: dict[tuple[int, float, float], list[int]] = {}
    for index, count in enumerate(counts):
        piece = look.highest[index, :count].double()
        if float(piece.max()) > float(look.lowest[index, :count].min()):  # silence is like silence
            marks.setdefault((count, float(piece.sum()), float(piece.square().sum())), []).append(
                index
            )
    for first, *others in marks.values():
        frames = counts[first]
        same = [
            index
            for index in others
            if torch.equal(look.mels[first, :, :frames], look.mels[index, :, :frames])
        ]
        if not same:
            continue
        told = f"items {first} and {', '.join(map(str, same))} hold the same mel"
        if audio is not None and all(torch.equal(audio[first], audio[index]) for index in same):
            notes.append(f"{told}, and the same waveform")
            continue
        different = ", and different waveforms" if audio is not None else ""
        causes.append(explanation("duplicated", told + different))
        return


# What the values show.


def _values(look: _Look, counts: list[int]) -> list[Tensor]:
    """Return frames of each item, `[n_mels, frames]`, on the CPU."""
    each = max(1, _LOOKED_AT_FRAMES // len(counts))
    pieces = []
    for index, count in enumerate(counts):
        step = math.ceil(count / each)
        pieces.append(look.mels[index, :, :count:step][:, :each])
    return [piece.cpu() for piece in pieces]


def _is_steady(pieces: Sequence[Tensor]) -> bool:
    """Return whether all items are noise that does not change, which has a short range itself."""
    shares = []
    for piece in pieces:
        extent = float(piece.max() - piece.min())
        if piece.shape[1] > 1 and extent > 0:
            shares.append(float(piece.std(dim=1).mean()) / extent)
    return bool(shares) and max(shares) < _STEADY_SHARE


def _check_range(
    pieces: Sequence[Tensor],
    look: _Look,
    causes: list[Explanation],
    notes: list[str],
    *,
    proven: bool,
) -> None:
    """Name what range and floor show, where they contradict the recipe.

    Of mels that their audio proves only the floor is open: quiet cells were not compared.
    """
    recipe = look.recipe
    values = torch.cat([*pieces], dim=1)
    prepared = prepare(values)
    if float(values.max()) == float(values.min()):
        causes.append(explanation("silent-clip", f"every value is {float(values.max()):.4g}"))
        return
    told = contradiction(prepared, values, recipe)
    if not told:
        return
    lowest = prepared.floor if prepared.floor is not None else float(values.min())
    if _is_floor_alone(lowest, prepared, values, recipe):
        if lowest <= _highest_floor(recipe) + _slack(look):
            notes.append(f"floor {lowest:.4g}, {recipe.log_floor:.4g} expected: harmless")
        else:
            causes.append(explanation("floor", f"{lowest:.4g}, {recipe.log_floor:.4g} expected"))
        return
    if proven or values.shape[1] < _FEWEST_FRAMES:
        return
    plain = dataclasses.replace(recipe, mean=0.0, std=1.0)
    if plain != recipe and not contradiction(prepared, values, plain):
        fix = f"Normalise them: (mel - {recipe.mean:.6g}) / {recipe.std:.6g}."
        title = "the mel is not normalised, and the recipe's is"
        causes.append(explanation("normalisation", told, title=title, fix=fix))
        return
    marks = marks_of(prepared, values)
    found = next((clue for clue in marks.clues if clue.code), None)
    if (found is None or found.code == "normalisation") and _is_steady(pieces):
        return
    if found is not None and found.code == "floor":
        text = f"its lowest value {lowest:.4g} is the logarithm of no usual floor"
        moved = explanation("normalisation", text)
        causes.append(dataclasses.replace(moved, alternatives=("floor",)))
    elif found is not None:
        causes.append(explanation(found.code, found.text))
    else:
        title = "the values contradict the recipe"
        causes.append(explanation("unknown", told, title=title))


def _is_floor_alone(lowest: float, prepared: Prepared, values: Tensor, recipe: MelRecipe) -> bool:
    """Return whether a mel would be the recipe's if the recipe's floor were its lowest value."""
    if recipe.log_base is None:
        return False
    nats = recipe.to_nats(lowest)
    usual = any(abs(nats - math.log(each)) < _AT_FLOOR_NATS for each in _FLOORS)
    if prepared.floor is None and lowest > recipe.log_floor:
        return False
    if not usual and (prepared.floor is not None or nats < math.log(BENIGN_FLOORS[0])):
        return False
    return not contradiction(prepared, values, dataclasses.replace(recipe, floor=math.exp(nats)))


# What the audio shows.


def _check_audio(
    look: _Look, counts: list[int], audio: Tensor, causes: list[Explanation], notes: list[str]
) -> bool:
    """Compare a piece of each item with its waveform; return whether all are proven right."""
    recipe, samples = look.recipe, audio.shape[1]
    if samples < recipe.min_samples:
        raise ValueError(
            f"waveforms must have at least {recipe.min_samples} samples, got {samples}: shorter "
            "ones have no mel."
        )
    # A sum is NaN or infinite where a sample is.
    broken = (~torch.isfinite(audio.sum(dim=1))).nonzero()[:, 0].tolist()
    if broken:
        causes.append(explanation("non-finite", f"the waveforms of {_items(broken)}"))
        return False
    most = recipe.frames(samples)
    if max(counts) > most + 1:
        index = counts.index(max(counts))
        found = _diagnosed(index, look, counts[index], audio)
        text = f"{max(counts)} frames, where {samples:,} samples give {most}"
        fix = "Give mels and waveforms of the same clips, hop and rate, cut at the same places."
        causes += found or [explanation("length", text, fix=fix)]
        return False
    pieces = _pieces(look, counts, samples)
    fresh = _extracted([(audio[index], begin) for index, begin in pieces.items()], recipe)
    wrong = []
    for (index, begin), mel in zip(pieces.items(), fresh, strict=True):
        held = look.mels[index, :, begin : begin + _PIECE_FRAMES].cpu()
        if not _apart(held, mel, look) <= _SAME_SHARE:  # or NaN
            wrong.append(index)
    left_out = len(counts) - len(pieces)
    if left_out:
        notes.append(f"{left_out} items are too short to be compared with their waveforms")
    if wrong:
        causes += _why(wrong, look, counts, audio, pieces)
    return not wrong and bool(pieces)


def _pieces(look: _Look, counts: list[int], samples: int) -> dict[int, int]:
    """Return the first frame of a loud piece of each item that is long enough for one."""
    recipe = look.recipe
    # A frame is extracted from n_fft samples that begin `pad_samples` before it; no edge is met.
    first = math.ceil(recipe.pad_samples / recipe.hop_length)
    last = (samples - recipe.n_fft + recipe.pad_samples) // recipe.hop_length
    found = {}
    # Where an item ends that is padded with its floor, and whose length is not given.
    numbers = torch.arange(1, look.highest.shape[1] + 1, device=look.highest.device)
    heard = torch.where(look.highest != look.lowest, numbers, 0).amax(dim=1).tolist()
    for index, count in enumerate(counts):
        end = min(min(count, heard[index] or count) - 1 - first, last) - _PIECE_FRAMES + 1
        if end < first:
            continue
        loudest = int(look.highest[index, first : end + _PIECE_FRAMES].argmax())
        found[index] = min(max(first, first + loudest - _PIECE_FRAMES // 2), end)
    return found


def _extracted(pieces: Sequence[tuple[Tensor, int]], recipe: MelRecipe) -> list[Tensor]:
    """Return `[n_mels, frames]` of each waveform from a frame on, extracted on the CPU."""
    if not pieces:
        return []
    alone = dataclasses.replace(recipe, padding="none", tail="keep", dynamic_range=None)
    length = (_PIECE_FRAMES - 1) * recipe.hop_length + recipe.n_fft
    cut = []
    for waveform, begin in pieces:
        start = begin * recipe.hop_length - recipe.pad_samples
        cut.append(waveform[start : start + length])
    return list(log_mel(torch.stack(cut).cpu(), alone))


def _apart(held: Tensor, fresh: Tensor, look: _Look) -> float:
    """Return how far the magnitudes of two pieces are apart, as a share of their sum."""
    # The one sample before a piece, which a pre-emphasis needs, is not read.
    held, fresh = held[:, 1:], fresh[:, 1:]
    step = STORAGE_ROUNDINGS * storage_step(look.storage)
    if look.recipe.log_base is None:
        one, other, rounding = held, fresh, step * fresh
    else:
        one, other = (
            (look.recipe.to_nats(mel) / look.recipe.power).clamp(max=LOUDEST_NATS).exp()
            for mel in (held, fresh)
        )
        nats = held.abs() / look.recipe.units_per_nat / look.recipe.power
        rounding = step * nats * other
    error = ((one - other).abs() - rounding).clamp(min=0.0)
    return float(error.sum() / (other.sum() + _NOISE_MAGNITUDE * other.numel()))


def _why(
    wrong: list[int], look: _Look, counts: list[int], audio: Tensor, pieces: dict[int, int]
) -> list[Explanation]:
    """Name why mels are not those of their waveforms."""
    owned = {}
    for index in wrong[:_MOST_SEARCHED]:
        owner = _owner(index, look, audio, pieces[index])
        if owner is not None:
            owned[index] = owner
    which = _items(wrong)
    if owned:
        pairs = ", ".join(
            f"that of item {index} is of waveform {own}" for index, own in owned.items()
        )
        text = f"the mels of {which} are not those of their waveforms: {pairs}"
        return [explanation("other-audio", text, fix=_REORDER)]
    index = min(wrong, key=lambda each: counts[each])
    everywhere = f"{which} of {len(counts)}"
    found = _diagnosed(index, look, counts[index], audio)
    if found:
        some = len(wrong) < len(pieces)
        again = f"Extract {which} again: the mels of the other items follow the recipe."
        return [
            dataclasses.replace(
                each,
                evidence="; ".join(filter(None, (each.evidence, everywhere))),
                fix=again if some else each.fix,
            )
            for each in found
        ]
    begin = pieces[index]
    mel = look.mels[index, :, begin : begin + _PIECE_FRAMES].cpu()
    [fresh] = _extracted([(audio[index], begin)], look.recipe)
    follows = likeness(mel, fresh)
    text = f"{everywhere}; that of item {index} correlates with its waveform's by {follows:.2f}"
    if follows < _OTHER_AUDIO:
        return [explanation("other-audio", text)]
    return [explanation("unknown", text, title="the mels do not follow the recipe")]


def _diagnosed(index: int, look: _Look, count: int, audio: Tensor) -> list[Explanation]:
    """Return what became of an item, by its waveform; nothing where that is not clear."""
    recipe = look.recipe
    most = round(_DIAGNOSED_SECONDS * recipe.frames_per_second)
    mel = look.mels[index, :, : min(count, most)].cpu()
    heard = int(audio[index].abs().gt(0).nonzero()[-1:].sum()) + 1
    # Its end by the recipe; and that of the audio, where hop or rate are not the recipe's.
    for end in dict.fromkeys((min(mel.shape[1] * recipe.hop_length, audio.shape[1]), heard)):
        waveform = audio[index, :end].cpu()
        if end < recipe.min_samples or not float(waveform.abs().max()) > 0:
            continue
        found = diagnose(waveform, mel, expected=recipe)
        if found.kind == "fault" and found.codes and found.codes != ("length",):
            return list(found.causes)
    return []


_REORDER = "Sort, shuffle and pad mels and waveforms together, or collate them from one item."


def _owner(index: int, look: _Look, audio: Tensor, begin: int) -> int | None:
    """Return the one waveform whose mel an item holds."""
    held = look.mels[index, :, begin : begin + _PIECE_FRAMES].cpu()
    others = [other for other in range(len(audio)) if other != index]
    fresh = _extracted([(audio[other], begin) for other in others], look.recipe)
    found = [
        other
        for other, mel in zip(others, fresh, strict=True)
        if _apart(held, mel, look) <= _SAME_SHARE
    ]
    return found[0] if found else None
