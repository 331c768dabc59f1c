"""The causes that a diagnosis can name: a code, a title and the fix in one line for each.

A code is kebab-case and stable: tests and reports refer to it. `profile:<name>` stands for a whole
recipe of another project; `cause` accepts those too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melcheck.profiles import PROFILES

if TYPE_CHECKING:
    from melcheck.recipes import MelRecipe


@dataclass(frozen=True, slots=True)
class Explanation:
    """One cause of a bad mel or waveform, in words.

    Attributes:
        code: Stable name, kebab-case.
        title: What is wrong, in a few words.
        evidence: What was measured: the attribute's value, the factor, the delay.
        fix: What to do, in one line.
        alternatives: Codes of causes that look the same.
        gain: Factor on the waveform, where it is one.
    """

    code: str
    title: str
    evidence: str
    fix: str
    alternatives: tuple[str, ...] = ()
    gain: float | None = None

    def __str__(self) -> str:
        return f"{self.title} ({self.evidence}). {self.fix}"

    @property
    def summary(self) -> str:
        """The code, the title and the evidence."""
        return f"{self.code}: {self.title}" + (f" ({self.evidence})" if self.evidence else "")


def explanation(
    code: str, evidence: str, *, title: str | None = None, fix: str | None = None
) -> Explanation:
    """Return the cause of a code, with evidence.

    Args:
        code: As in `CAUSES`.
        evidence: What was measured.
        title: Replaces the cause's own; None keeps that.
        fix: Replaces the cause's own; None keeps that.

    Raises:
        KeyError: No cause has this code.
    """
    known = cause(code)
    return Explanation(code, title or known.title, evidence, fix or known.fix)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a mel shows, before it is put into words.

    Attributes:
        code: As in `CAUSES`, or "" where it is no cause.
        text: What was measured or seen.
        benign: Whether it does not affect decoding.
        alternatives: Codes of causes that look the same.
        fix: What to do about just this, in one line; "" for the cause's own fix.
        shift_nats: What it adds before the logarithm is scaled, power * ln(factor).
        gain: Factor on the waveform, where it is one.
    """

    code: str
    text: str
    benign: bool = False
    alternatives: tuple[str, ...] = ()
    fix: str = ""
    shift_nats: float = 0.0
    gain: float | None = None

    def explained(self, expected: MelRecipe) -> Explanation:
        """Return it in words; the fix names the numbers of the expected recipe."""
        known = cause(self.code, expected)
        fix, text = self.fix or known.fix, self.text
        if self.benign:  # people may train that way on purpose
            fix = f"Nothing need be done. For the expected mel itself: {fix}"
        name = self.code.removeprefix(PROFILE_PREFIX)
        if name in PROFILES and name == text:
            numbers = profile_numbers(name, expected)
            text = "; ".join(
                f"{key}={_written(own)}, {_written(wanted)} expected"
                for key, (own, wanted) in numbers.items()
            )
        return Explanation(self.code, known.title, text, fix, self.alternatives, gain=self.gain)


PROFILE_PREFIX = "profile:"
"""What the code of a named profile begins with."""


def _table(*rows: tuple[str, str, str]) -> dict[str, Explanation]:
    return {code: Explanation(code, title, "", fix) for code, title, fix in rows}


# What a recipe decides: the code, what differs, and the attributes that the fix names.
_OF_A_RECIPE = (
    ("power", "the exponent of the magnitudes differs (energy against magnitude)", ("power",)),
    ("mel-scale", "the bands lie on the other mel scale (Slaney against HTK)", ("mel_scale",)),
    ("filter-norm", "the filters are normalised differently", ("norm",)),
    ("padding", "frames begin elsewhere: the padding at the ends differs", ("padding",)),
    ("hop-length", "the hop length differs", ("hop_length",)),
    ("n-fft", "the length of the transform differs", ("n_fft",)),
    ("win-length", "the length of the window differs", ("win_length",)),
    ("window", "the window differs", ("window", "periodic")),
    ("f-max", "the highest band ends elsewhere", ("f_max",)),
    ("f-min", "the lowest band begins elsewhere", ("f_min",)),
    (
        "filterbank-rate",
        "the filters are laid out for a different sampling rate",
        ("filterbank_rate", "sample_rate"),
    ),
    ("pad-mode", "the padding at the ends has different contents", ("pad_mode",)),
    ("stft-normalized", "the STFT is divided by a property of its window", ("normalized",)),
    ("pre-emphasis", "the pre-emphasis of the waveform differs", ("pre_emphasis",)),
    ("n-mels", "the number of bands differs", ("n_mels",)),
    (
        "magnitude-eps",
        "the constant that is added to the energies under the root differs",
        ("magnitude_eps",),
    ),
)

_ATTRIBUTES = {code: names for code, _, names in _OF_A_RECIPE}

# What else to know where an attribute should have this value.
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

CAUSES = _table(
    *(
        (code, title, f"Set {names[0]} to the recipe's value.")
        for code, title, names in _OF_A_RECIPE
    ),
    ("log-base", "the logarithm has a different base", "Take the recipe's logarithm."),
    ("decibels", "the logarithm is in decibels", "Take the recipe's logarithm."),
    (
        "kaldi-fbank",
        "the mel is Kaldi's filterbank, which recognisers are trained on and vocoders are not",
        "Extract the mel of the vocoder's recipe beside it, for what is to be decoded.",
    ),
    ("no-log", "no logarithm was taken", "Take torch.log(mel.clip(min=floor))."),
    (
        "double-log",
        "the logarithm was taken twice",
        "Take it once; what the second one clipped is lost, so extract again.",
    ),
    (
        "floor",
        "the floor under the logarithm differs",
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
    ("stereo-sum", "the channels were added, not averaged", "Mix down with waveform.mean(dim=0)."),
    (
        "normalisation",
        "the mel is normalised: shifted and scaled as a whole",
        "Undo the normalisation before decoding, with the statistics that were used.",
    ),
    (
        "sample-rate",
        "the waveform has a different sampling rate than the recipe",
        "Resample to the recipe's rate before the mel; trust the file's header, not a default.",
    ),
    (
        "frame-shift",
        "the mel is early or late against the audio",
        "Trim the decoder's delay (MP3: 528, 1105 or more samples), or align the frames.",
    ),
    ("axes-transposed", "bands and frames are swapped", "Swap them: mel.transpose(-1, -2)."),
    ("frequency-flipped", "the bands are upside down", "Reverse the band axis: mel.flip(-2)."),
    ("time-flipped", "the frames run backwards", "Reverse the time axis: mel.flip(-1)."),
    ("dc-offset", "the waveform has a constant offset", "Subtract the waveform's mean."),
    ("clipping", "the waveform was clipped", "Lower the level before the step that clips."),
    ("clamped", "the mel was cut off at a largest value", "Remove the clamp on the mel."),
    (
        "band-limited",
        "the audio has no energy in the highest bands",
        "Use a source of the full bandwidth; no code can bring the upper bands back.",
    ),
    (
        "aliasing",
        "the audio was resampled without an anti-alias filter",
        "Resample with torchaudio.functional.resample, never by slicing or repeating samples.",
    ),
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
    ("nan", "the mel holds NaN or infinite values", "Find the first step that makes them."),
    (
        "altered",
        "most time-frequency bins are right, but some were masked, gated, filtered or replaced",
        "Look for augmentation, a noise gate or an edit of single bands or frames.",
    ),
    (
        "padded-frames",
        "frames were padded with a value that is not silence (0 is loud in a log-mel)",
        "Pad with the log of the floor, and mask those frames.",
    ),
    # Causes that a batch, or a stored mel, shows beside others.
    (
        "dtype",
        "the mels are not floating point",
        "Collate mels as float32; integers cannot hold a logarithm.",
    ),
    (
        "duplicated",
        "one mel stands in several items of the batch",
        "Look for a buffer that is written again, an index that does not advance, or a worker that "
        "returns its last item.",
    ),
    (
        "other-audio",
        "the mel was made from different audio",
        "Extract the mels again from these waveforms; look for a stale cache, or a list of mels "
        "that is not in the order of the audio.",
    ),
    # Causes of a bad waveform that a mel does not show, or does not tell apart.
    (
        "header-rate",
        "the rate in the file's header is not the rate of its samples",
        "Write the rate of the samples into the header; players rely on it.",
    ),
    (
        "saturated",
        "nearly every sample is at full scale: a square wave",
        "Give torchaudio.save float32 within +-1; since 2.9 it takes integers for floats.",
    ),
    (
        "polarity",
        "every sample has the opposite sign",
        "Inaudible by itself; find the step that inverts the sign, or leave it.",
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
        "Listen there; abrupt onsets and ends are hard to reconstruct for a vocoder.",
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
        "the clip is silent",
        "Use a clip that is not silent; channels in antiphase cancel when they are mixed down.",
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
        "every sample went through one non-linear curve: tanh, mu-law, a soft limiter",
        "Undo the companding, or leave the limiter out and lower the level instead.",
    ),
    (
        "noise",
        "noise was added, as loud in silence as elsewhere",
        "Leave the dither or the augmentation out.",
    ),
    (
        "resampler",
        "a different resampler or decoder: nothing but the highest frequencies differs",
        "Nothing to do: it does not affect the mel beyond its topmost bands.",
    ),
    (
        "not-repeatable",
        "the same input gives a different result the second time",
        "Leave out dither, dropout and random crops, and put a module into evaluation mode.",
    ),
    (
        "batch",
        "what a mel is decoded to depends on what else is in the batch",
        "Pad with the log of the floor and mask it, and compute no statistics over a batch.",
    ),
    ("raises", "the code raises an error", "Call it with that input and see."),
    # Causes of a bad round trip, where nothing more precise was found.
    (
        "vocoder",
        "the mel is correct, but the vocoder does not reproduce it",
        "Check which weights were loaded, with which keys and precision, and for which mel.",
    ),
    (
        "level",
        "the clip is loud, and only its level makes it miss",
        "The SNR of a log-mel counts its mean as signal, and that is nearer to 0 in a loud clip. "
        "Accept the miss, or set a threshold of your own.",
    ),
    (
        "silence",
        "the clip holds digital silence, which a vocoder fills with faint noise",
        "Cut the silence, or check another part of the clip; else accept the miss.",
    ),
    (
        "short",
        "the clip is so short that its ends decide",
        "Check a longer clip, or accept the miss.",
    ),
    (
        "codec",
        "the clip went through a lossy codec, which leaves holes in its spectrum",
        "Use the recording before the codec, or accept the miss.",
    ),
    (
        "noisy-clip",
        "the clip is noise, in which no phase is to be found",
        "Look at the difference map; use a cleaner recording, or accept the miss.",
    ),
    (
        "clip",
        "this clip is hard to reconstruct from its mel",
        "Listen to the reconstruction and look at the difference map; then accept the miss, set a "
        "threshold of your own, or leave the clip out.",
    ),
    (
        "front-end",
        "the front end extracts a different mel than the vocoder was trained on",
        "Give the front end the recipe of the vocoder, or use a vocoder of its recipe.",
    ),
    (
        "unknown",
        "no known cause explains the difference",
        "Compare the two stage by stage: the mel, the decoded waveform, the saved file.",
    ),
)
"""Every cause by its code, those that name a stage alone included; profiles are not among them."""


def cause(code: str, expected: MelRecipe | None = None) -> Explanation:
    """Return the cause of a code, that of a profile included, without evidence.

    Args:
        code: The code.
        expected: The recipe whose numbers the fix is to name; None for no numbers.

    Raises:
        KeyError: No cause has this code.
    """
    if code.startswith(PROFILE_PREFIX):
        name = code.removeprefix(PROFILE_PREFIX)
        return Explanation(
            code, f"the mel follows the recipe of {name}", "", _profile_fix(name, expected)
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


def profile_numbers(name: str, expected: MelRecipe) -> dict[str, tuple[object, object]]:
    """Return the numbers of a profile that differ from a recipe: its own, and the recipe's."""
    own = dataclasses.asdict(PROFILES[name].recipe)
    wanted = dataclasses.asdict(expected)
    return {key: (own[key], wanted[key]) for key in own if own[key] != wanted[key]}


def _profile_fix(name: str, expected: MelRecipe | None) -> str:
    vocoder = f"decode with a vocoder trained on {name} mels"
    if expected is None or name not in PROFILES:
        return f"Extract with the expected recipe, or {vocoder}."
    numbers = profile_numbers(name, expected)
    changes = ", ".join(f"{key}={_written(wanted)}" for key, (_, wanted) in numbers.items())
    return f"Set {changes}; or {vocoder}."


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)
