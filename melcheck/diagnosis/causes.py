"""The causes that forensics can name: a code, a title and the fix in one line for each.

A code is kebab-case and stable: tests and reports refer to it. `profile:<name>` stands for a whole
recipe of another project; `cause` accepts those too.

One likely cause of a bad waveform, by its name in `causes`, with what was measured.

What one look at a mel has found: a cause with its numbers, before it is put into words.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melcheck.recipes import MelRecipe


@dataclass(frozen=True, slots=True)
class Explanation:
    """One likely cause of a bad reconstruction.

    Attributes:
        code: Stable name, kebab-case.
        title: What is wrong, in a few words.
        evidence: What was measured.
        fix: What to do, in one line.
    """

    code: str
    title: str
    evidence: str
    fix: str

    def __str__(self) -> str:
        return f"{self.title} ({self.evidence}). {self.fix}"


def explanation(
    code: str, evidence: str, *, title: str | None = None, fix: str | None = None
) -> Explanation:
    """Return the cause of a code, with evidence.

    Args:
        code: As in `melcheck.diagnosis.causes`.
        evidence: What was measured.
        title: Where the cause's own is about a mel, or says less; None for the cause's own.
        fix: Likewise.

    Raises:
        KeyError: No cause has this code.
    """
    known = cause(code)
    return Explanation(code, title or known.title, evidence, fix or known.fix)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a mel shows.

    Attributes:
        code: As in `melcheck.diagnosis.causes`, or "" where it is no cause.
        text: Its numbers, or what was seen.
        benign: Whether no vocoder minds.
    """

    code: str
    text: str
    benign: bool = False


PROFILE_PREFIX = "profile:"
"""What the code of a named profile begins with."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What can be wrong with a mel.

    Attributes:
        code: Its stable name, kebab-case.
        title: What it is, in a few words.
        fix: What to do, in one line.
    """

    code: str
    title: str
    fix: str


def _table(*rows: tuple[str, str, str]) -> dict[str, Cause]:
    return {code: Cause(code, title, fix) for code, title, fix in rows}


CAUSES = _table(
    (
        "power",
        "the exponent of the magnitudes differs (energy against magnitude)",
        "Set power to the recipe's value.",
    ),
    ("log-base", "the logarithm has another base", "Take the recipe's logarithm."),
    ("decibels", "the logarithm is in decibels", "Take the recipe's logarithm."),
    ("no-log", "no logarithm was taken", "Take torch.log(mel.clip(min=floor))."),
    (
        "double-log",
        "the logarithm was taken twice",
        "Take it once; what the second one clipped is lost, so extract again.",
    ),
    (
        "mel-scale",
        "the bands lie on the other mel scale (Slaney against HTK)",
        "Set mel_scale to the recipe's value.",
    ),
    ("filter-norm", "the filters are normalised otherwise", "Set norm to the recipe's value."),
    (
        "padding",
        "frames begin elsewhere: other padding at the ends",
        "Set padding to the recipe's value.",
    ),
    ("hop-length", "another hop length", "Set hop_length to the recipe's value."),
    ("n-fft", "another length of the transform", "Set n_fft to the recipe's value."),
    ("win-length", "another length of the window", "Set win_length to the recipe's value."),
    ("window", "another window", "Set window to the recipe's value."),
    ("f-max", "the highest band ends elsewhere", "Set f_max to the recipe's value."),
    ("f-min", "the lowest band begins elsewhere", "Set f_min to the recipe's value."),
    (
        "filterbank-rate",
        "the filters are laid out for another sampling rate",
        "Set filterbank_rate to the recipe's value.",
    ),
    (
        "pad-mode",
        "the padding at the ends holds something else",
        "Set pad_mode to the recipe's value.",
    ),
    (
        "stft-normalized",
        "the STFT is divided by a property of its window",
        "Set normalized to the recipe's value.",
    ),
    (
        "pre-emphasis",
        "the waveform was pre-emphasised otherwise",
        "Set pre_emphasis to the recipe's value.",
    ),
    (
        "floor",
        "another floor under the logarithm",
        "Clip at the recipe's floor; some projects differ on purpose, then use their profile.",
    ),
    (
        "gain",
        "the waveform is louder or quieter by one factor",
        "Undo the level change before the mel, or leave loudness normalisation out.",
    ),
    (
        "int16-scale",
        "the samples are integers, not within +-1 (or were scaled down twice)",
        "Divide int16 samples by 32768, once.",
    ),
    (
        "stereo-sum",
        "the channels were added, not averaged",
        "Mix down with waveform.mean(dim=0).",
    ),
    (
        "normalisation",
        "the mel is normalised: shifted and scaled as a whole",
        "Undo the normalisation before decoding, with the statistics that were used.",
    ),
    (
        "sample-rate",
        "the waveform has another sampling rate than the recipe says",
        "Resample to the recipe's rate before the mel; trust the file's header, not a default.",
    ),
    (
        "frame-shift",
        "the mel is early or late against the audio",
        "Trim the decoder's delay (MP3: 528, 1105 or more samples), or align the frames.",
    ),
    (
        "axes-transposed",
        "bands and frames are swapped",
        "Swap them: mel.transpose(-1, -2).",
    ),
    ("frequency-flipped", "the bands are upside down", "Reverse the band axis: mel.flip(-2)."),
    ("time-flipped", "the frames run backwards", "Reverse the time axis: mel.flip(-1)."),
    ("dc-offset", "the waveform has a constant offset", "Subtract the waveform's mean."),
    (
        "clipping",
        "the waveform was clipped",
        "Lower the level before the step that clips.",
    ),
    ("clamped", "the mel was cut off at a largest value", "Remove the clamp on the mel."),
    (
        "band-limited",
        "the sound ends below the highest band",
        "Use a source of the full bandwidth; no code can bring the upper bands back.",
    ),
    (
        "aliasing",
        "the audio was resampled without an anti-alias filter",
        "Resample with torchaudio.functional.resample, never by slicing or repeating samples.",
    ),
    ("n-mels", "another number of bands", "Set n_mels to the recipe's value."),
    (
        "length",
        "the mel is longer or shorter than its audio",
        "Cut the mel and its audio at the same places; look for trimming before one of them.",
    ),
    (
        "int16-wrap",
        "loud samples wrapped around on their way to int16",
        "Clip to +-1 before the conversion, or lower the level.",
    ),
    (
        "channel-dropped",
        "one channel was taken where the mean is expected",
        "Mix down with waveform.mean(dim=0).",
    ),
    ("nan", "the mel holds NaN or infinite cells", "Find the first step that makes them."),
    (
        "altered",
        "most cells are right, and some are not: masked, gated, filtered or replaced",
        "Look for augmentation, a noise gate or an edit of single bands or frames.",
    ),
    (
        "padded-frames",
        "frames were padded with a value that is no silence (0 is loud in a log-mel)",
        "Pad with the log of the floor, and mask those frames.",
    ),
    (
        "magnitude-eps",
        "another constant is added to the energies under the root",
        "Set magnitude_eps to the recipe's value.",
    ),
    # Of waveforms, which no mel shows or which a mel does not tell apart.
    (
        "header-rate",
        "the file's header gives another rate than its samples have",
        "Write the rate of the samples into the header; players believe it.",
    ),
    (
        "saturated",
        "nearly every sample is at full scale: a square wave",
        "Give torchaudio.save float32 within +-1; since 2.9 it takes integers for floats.",
    ),
    (
        "polarity",
        "every sample has the other sign",
        "Harmless to the ear; find the sign, or leave it.",
    ),
    (
        "shifted",
        "the waveform is early or late",
        "Give extractor and head the same padding; cut the delay of a codec or filter.",
    ),
    (
        "seams",
        "there are seams on a grid",
        "Decode chunks with at least 30 frames of context on each side and cut it off.",
    ),
    (
        "tail",
        "only the end is wrong",
        "Pad the mels of a batch with the log of the floor, not with 0, or decode each one alone.",
    ),
    (
        "places",
        "only some places are wrong",
        "Listen there; sound that begins or ends abruptly is hard on a vocoder.",
    ),
    (
        "rounding",
        "the arithmetic has fewer bits: half precision, TF32, an export in 8 bits",
        "Run the vocoder in float32, with TF32 off, from weights of full precision.",
    ),
    (
        "weights",
        "the vocoder's weights, or the mel that they were trained for, differ",
        "Check which weights were loaded: strict=True, EMA or raw, the sha256, the recipe.",
    ),
    (
        "channels",
        "there are several channels where one is expected",
        "Mix down with waveform.mean(dim=0).",
    ),
    ("non-finite", "samples are NaN or infinite", "Run in float32; check the weights for NaN."),
    (
        "silent-clip",
        "there is no sound in the clip",
        "Use a clip with sound in it; channels in antiphase cancel when they are mixed down.",
    ),
    (
        "silent-output",
        "the waveform is silent",
        "The weights are not loaded, or the mel is far below the range they were trained on.",
    ),
    (
        "filtered",
        "the waveform went through a filter",
        "Leave equalisers, pre- or de-emphasis and reverberation out, or apply them to both.",
    ),
    (
        "curve",
        "every sample was bent by one curve: tanh, mu-law, a soft limiter",
        "Undo the companding, or leave the limiter out and lower the level instead.",
    ),
    (
        "noise",
        "noise was added, as much where there is no sound",
        "Leave the dither or the augmentation out.",
    ),
    # Of a round trip, where nothing more precise holds.
    (
        "vocoder",
        "the mel is sound and the vocoder does not reproduce it",
        "Check which weights were loaded, with which keys and precision, and for which mel.",
    ),
    (
        "clip",
        "this clip is hard to reconstruct from its mel",
        "Look at the difference map; check the clip's level, noise and clipping.",
    ),
    (
        "front-end",
        "the front end makes another mel than the vocoder's",
        "Give the front end the recipe of the vocoder, or take a vocoder of its recipe.",
    ),
    (
        "unknown",
        "no known cause explains the difference",
        "Compare the two stage by stage: the mel, the decoded waveform, the saved file.",
    ),
)
"""Every cause by its code, those that name a stage alone included; profiles are not among them."""

# What a recipe says of a cause, so that a fix can name its numbers.
_ATTRIBUTES = {
    "power": ("power",),
    "mel-scale": ("mel_scale",),
    "filter-norm": ("norm",),
    "padding": ("padding",),
    "hop-length": ("hop_length",),
    "n-fft": ("n_fft",),
    "win-length": ("win_length",),
    "window": ("window", "periodic"),
    "f-max": ("f_max",),
    "f-min": ("f_min",),
    "filterbank-rate": ("filterbank_rate", "sample_rate"),
    "pad-mode": ("pad_mode",),
    "stft-normalized": ("normalized",),
    "pre-emphasis": ("pre_emphasis",),
    "magnitude-eps": ("magnitude_eps",),
    "n-mels": ("n_mels",),
}

# The same in the words of the libraries with which it goes wrong.
_HINTS: dict[tuple[str, object], str] = {
    ("power", 1.0): "torchaudio's default is 2. Halving the log does not undo it.",
    ("mel_scale", "htk"): "In librosa htk=True.",
    ("mel_scale", "slaney"): "torchaudio's default is htk.",
    ("norm", "slaney"): "torchaudio's default is None.",
    ("norm", None): "librosa's default is slaney.",
    ("padding", "center"): "That is center=True; the vocoder's head must agree.",
    ("padding", "same"): (
        "That is center=False after (n_fft - hop_length) / 2 samples of padding on each side; the "
        "vocoder's head must agree."
    ),
    ("padding", "none"): "That is center=False.",
    ("periodic", True): "That is the default of torch.hann_window.",
    ("filterbank_rate", None): "None is sample_rate, whose default in MelSpectrogram is 16000.",
}

INDISTINGUISHABLE = (
    frozenset({"gain", "stereo-sum"}),
    frozenset({"gain", "stft-normalized"}),
    frozenset({"gain", "int16-scale"}),
)
"""Causes that one mel can have in common, where constants coincide: they are listed together."""


def cause(code: str, expected: MelRecipe | None = None) -> Cause:
    """Return the cause of a code, that of a profile included.

    Args:
        code: The code.
        expected: The recipe whose numbers the fix is to name; None for no numbers.

    Raises:
        KeyError: No cause has this code.
    """
    if code.startswith(PROFILE_PREFIX):
        name = code.removeprefix(PROFILE_PREFIX)
        return Cause(
            code,
            f"the mel follows the recipe of {name}",
            f"Extract with the expected recipe, or decode with a vocoder trained on {name} mels; "
            "an equal rate, hop and number of bands do not make two mels compatible.",
        )
    if code not in CAUSES:
        raise KeyError(f"code must be one of {', '.join(CAUSES)} or profile:<name>, got {code!r}.")
    found = CAUSES[code]
    if expected is None or code not in _ATTRIBUTES:
        return found
    values = {name: getattr(expected, name) for name in _ATTRIBUTES[code]}
    numbers = ", ".join(f"{name}={_written(value)}" for name, value in values.items())
    hints = [_HINTS[item] for item in values.items() if item in _HINTS]
    return dataclasses.replace(found, fix=" ".join([f"Set {numbers}.", *hints]))


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


def alike(code: str, other: str) -> bool:
    """Return whether two codes are one, or can explain the same mel."""
    return code == other or any({code, other} <= group for group in INDISTINGUISHABLE)
