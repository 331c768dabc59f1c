"""What defines a log-mel spectrogram: its numbers, the shapes that follow, the extraction.

Names follow torchaudio (`sample_rate, n_fft, win_length, hop_length, n_mels, f_min, f_max,
mel_scale, norm, power`). A waveform is `[..., samples]`, a mel `[..., n_mels, frames]`.

References:
    The reference recipe: `vocos/feature_extractors.py` and `vocos/modules.py` (`safe_log`) of
    vocos 0.1.0; H. Siuzdak, "Vocos", 2023, https://arxiv.org/abs/2306.00814.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torchaudio
from torch import Tensor

_Values = TypeVar("_Values", float, Tensor)

DB_PER_NAT = 20 / math.log(10)
"""What a nat of magnitude comes to in decibels."""

FLOAT32_EPSILON = 2.0**-23
"""The step of float32 at 1, which Kaldi keeps a logarithm finite with."""

FLOORS_IN_USE = (
    *(1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12),
    *(FLOAT32_EPSILON, 2.0**-24),
)
"""What projects keep a logarithm finite with."""

BENIGN_FLOORS = (0.99e-9, 1.01e-5)
"""Floors between these are in use before the same vocoder: F5-TTS clips at 1e-5, others at 1e-7."""

_CHOICES = {
    "window": ("hann", "hamming", "sqrt_hann", "rectangular"),
    "normalized": (None, "window", "frame_length"),
    "mel_scale": ("htk", "slaney"),
    "norm": (None, "slaney"),
    "padding": ("center", "same", "none"),
    "pad_mode": ("reflect", "constant", "replicate"),
    "tail": ("keep", "drop_last", "round"),
    "log_base": ("e", "10", None),
    "floor_mode": ("clip", "add"),
    "axes": ("bands_first", "frames_first"),
}
_POSITIVE = ("power", "floor", "log_scale", "std")
_FINITE = ("pre_emphasis", "magnitude_eps", "f_min", "f_max", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class MelRecipe:
    """Every number that defines a log-mel spectrogram. The defaults are those of Vocos at 24 kHz.

    The steps run in the order of the attributes: pre-emphasis, STFT, magnitude, filterbank, floor,
    logarithm, dynamic range, normalisation, axes.

    Attributes:
        sample_rate: Hz of the waveform.
        pre_emphasis: c of y[n] = x[n] - c x[n - 1]; 0 for none.
        n_fft: Length of the Fourier transform in samples.
        win_length: Length of the window in samples; shorter than `n_fft`, it is centred in it.
        hop_length: Samples from one frame to the next.
        window: "hann", "hamming", "sqrt_hann" or "rectangular".
        periodic: Whether the window is periodic, as for a transform, or symmetric, as for a filter.
        padding: Where frames begin. "center": frame t is centred on sample t * hop_length, with
            n_fft / 2 samples of padding on each side. "same": (n_fft - hop_length) / 2 on each
            side, so that frames = samples / hop_length. "none": no padding.
        pad_mode: What the padding holds: "reflect", "constant" (zeros) or "replicate".
        tail: What becomes of the last frames: "keep" them, "drop_last" one, or trim or repeat them
            until there are samples / hop_length, "round"ed half up.
        normalized: Whether the STFT is divided by the root of the window's energy ("window") or of
            its length ("frame_length").
        magnitude_eps: Added to |X|^2 under the root.
        power: Exponent of the STFT magnitude: 1 for magnitude, 2 for energy.
        n_mels: Number of mel bands.
        f_min: Hz where the lowest band begins.
        f_max: Hz where the highest band ends.
        mel_scale: "htk" (2595 log10(1 + f / 700)) or "slaney" (linear below 1 kHz).
        norm: None (triangles of height 1) or "slaney" (triangles of equal area).
        filterbank_rate: Hz that the filters are laid out for; None for `sample_rate`. Another one
            is a mistake that is made: it is torchaudio's default, 16,000. Half of it may lie below
            `f_max`, as torchaudio allows: bands up there hold no bin and stay at the floor.
        floor: What keeps the logarithm finite.
        floor_mode: Whether the mel is "clip"ped to at least the floor or the floor is "add"ed.
        log_base: "e", "10", or None for a mel without logarithm.
        log_scale: Factor on the logarithm: 20 for dB of magnitudes, 10 for dB of energies.
        dynamic_range: The log-mel is clipped to at least its maximum less this; None for no limit.
        mean: Subtracted at the end.
        std: Divided by at the very end.
        axes: "bands_first" for [..., n_mels, frames], "frames_first" for [..., frames, n_mels].
    """

    sample_rate: int = 24_000
    pre_emphasis: float = 0.0
    n_fft: int = 1024
    win_length: int = 1024
    hop_length: int = 256
    window: Literal["hann", "hamming", "sqrt_hann", "rectangular"] = "hann"
    periodic: bool = True
    padding: Literal["center", "same", "none"] = "center"
    pad_mode: Literal["reflect", "constant", "replicate"] = "reflect"
    tail: Literal["keep", "drop_last", "round"] = "keep"
    normalized: Literal["window", "frame_length"] | None = None
    magnitude_eps: float = 0.0
    power: float = 1.0
    n_mels: int = 100
    f_min: float = 0.0
    f_max: float = 12_000.0
    mel_scale: Literal["htk", "slaney"] = "htk"
    norm: Literal["slaney"] | None = None
    filterbank_rate: int | None = None
    floor: float = 1e-7
    floor_mode: Literal["clip", "add"] = "clip"
    log_base: Literal["e", "10"] | None = "e"
    log_scale: float = 1.0
    dynamic_range: float | None = None
    mean: float = 0.0
    std: float = 1.0
    axes: Literal["bands_first", "frames_first"] = "bands_first"

    def __post_init__(self) -> None:
        for name in ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")
        for name in (*_POSITIVE, *_FINITE):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {value!r}.")
            if not math.isfinite(value) or (name in _POSITIVE and value <= 0):
                kind = "positive, finite" if name in _POSITIVE else "finite"
                raise ValueError(f"{name} must be a {kind} number, got {value!r}.")
            # 1 and 1.0 are one recipe, with one digest.
            object.__setattr__(self, name, float(value))
        if not isinstance(self.periodic, bool):
            raise TypeError(f"periodic must be True or False, got {self.periodic!r}.")
        rate = self.filterbank_rate
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int) or rate < 1):
            raise ValueError(f"filterbank_rate must be None or a whole number of Hz, got {rate!r}.")
        if self.dynamic_range is not None and not 0 < self.dynamic_range < math.inf:
            raise ValueError(f"dynamic_range must be None or positive, got {self.dynamic_range!r}.")
        if self.win_length > self.n_fft:
            raise ValueError(
                f"win_length must be at most n_fft, got {self.win_length} > {self.n_fft}."
            )
        highest = max(self.filterbank_rate or 0, self.sample_rate) / 2
        if not 0 <= self.f_min < self.f_max <= highest:
            raise ValueError(
                f"f_min and f_max must satisfy 0 <= f_min < f_max <= {highest:g} Hz (half the "
                f"sampling rate), got {self.f_min} and {self.f_max}."
            )

    # Shape arithmetic. Let p be the samples of padding on each side. A frame needs n_fft samples
    # and the next one hop_length more, so L samples hold
    #     frames = 1 + floor((L + 2 p - n_fft) / hop_length).
    # With "center" and an even n_fft, p = n_fft / 2 and that is 1 + floor(L / hop_length).

    @property
    def pad_samples(self) -> int:
        """Samples of padding that extraction adds on each side of the waveform."""
        if self.padding == "center":
            return self.n_fft // 2
        if self.padding == "same":
            return (self.n_fft - self.hop_length) // 2
        return 0

    @property
    def min_samples(self) -> int:
        """The shortest waveform that has a mel, in samples.

        Reflection needs one sample more than it mirrors (513 for Vocos); without padding one
        whole transform has to fit.
        """
        needed = max(1, self.n_fft - 2 * self.pad_samples)
        if self.tail == "drop_last":
            needed += self.hop_length
        if self.pad_mode == "reflect":
            needed = max(needed, self.pad_samples + 1)
        return needed

    @property
    def min_round_trip_samples(self) -> int:
        """The shortest waveform whose reconstruction is long enough to have a mel, in samples.

        A reconstruction of f frames has `num_samples(f)` samples, which must reach `min_samples`:
        768 for Vocos, whose 3 frames of 513 samples come back as 512.
        """
        short_by = max(0, self.min_samples - self.num_samples(1))
        frames = 1 + math.ceil(short_by / self.hop_length)
        # frames(L) counts L from num_samples(frames) on, as both formulas have the same terms.
        return max(self.min_samples, self.num_samples(frames))

    @property
    def log_floor(self) -> float:
        """The smallest value that the mel can take, whatever the audio: -16.118 for Vocos."""
        return self.normalised(self.logarithm(self.floor))

    def logarithm(self, value: float) -> float:
        """Return `log_scale` times the recipe's logarithm of one value; itself without one."""
        if self.log_base is None:
            return value
        return self.log_scale * (math.log(value) if self.log_base == "e" else math.log10(value))

    def normalised(self, value: float) -> float:
        """Return one value less `mean`, divided by `std`."""
        return (value - self.mean) / self.std

    @property
    def log_units_per_nat(self) -> float:
        """What a nat comes to in the recipe's logarithm, before normalisation: 8.686 for dB."""
        return self.log_scale / (math.log(10) if self.log_base == "10" else 1.0)

    @property
    def units_per_nat(self) -> float:
        """What a nat comes to in the finished mel."""
        return self.log_units_per_nat / self.std

    def to_nats(self, mel: _Values) -> _Values:
        """Return the natural logarithm of the bands that a log-mel holds: normalisation undone."""
        return (mel * self.std + self.mean) / self.log_units_per_nat

    @property
    def floor_nats(self) -> float:
        """The logarithm of the floor, whatever the recipe's own logarithm: -16.118 for Vocos."""
        return math.log(self.floor)

    def in_nats(self, mel: Tensor) -> Tensor:
        """Return a mel as the natural logarithm of its bands, in which every gate is judged.

        dB, log10 and a normalisation are converted; a mel without logarithm gets one. A recipe
        that is in nats already gives the mel itself.
        """
        if self.log_base is None:
            return self.to_nats(mel).clip(min=self.floor).log()
        if (self.log_base, self.log_scale, self.mean, self.std) == ("e", 1.0, 0.0, 1.0):
            return mel
        return self.to_nats(mel)

    def to_magnitude(self, mel: Tensor) -> Tensor:
        """Return the bands of a log-mel as magnitudes, whatever its `power`."""
        return (self.to_nats(mel) / self.power).exp()

    def text(self) -> str:
        """Return the recipe in its canonical form: every number, in a fixed order, on one line."""
        return " ".join(f"{key}={value}" for key, value in dataclasses.asdict(self).items())

    def digest(self) -> str:
        """Return twelve hexadecimal digits that name the recipe: a hash of `text`.

        Two recipes have the same digest exactly when all their numbers are equal, whether these
        were written as 0 or 0.0. Store it beside cached mels and checkpoints.
        """
        return hashlib.sha256(self.text().encode()).hexdigest()[:12]

    @property
    def frames_per_second(self) -> float:
        """Mel frames in one second of audio: 93.75 for Vocos."""
        return self.sample_rate / self.hop_length

    def frames(self, num_samples: int) -> int:
        """Return how many mel frames a waveform gives.

        frames = 1 + (num_samples + 2 * pad_samples - n_fft) // hop_length

        less one where `tail` is "drop_last"; and num_samples / hop_length rounded half up where it
        is "round".

        Args:
            num_samples: Length of the waveform in samples.

        Raises:
            ValueError: The waveform is shorter than `min_samples`.

        Example:
            >>> MelRecipe().frames(72_000)
            282
        """
        if num_samples < self.min_samples:
            raise ValueError(
                f"the waveform must have at least {self.min_samples} samples, got {num_samples}. "
                f"{self._shortest_reason()} Use a longer clip, or pad it."
            )
        if self.tail == "round":
            return (2 * num_samples + self.hop_length) // (2 * self.hop_length)
        kept = (num_samples + 2 * self.pad_samples - self.n_fft) // self.hop_length
        return kept if self.tail == "drop_last" else kept + 1

    def num_samples(self, frames: int) -> int:
        """Return how many samples a vocoder with this recipe makes of a mel.

        num_samples = (frames - 1) * hop_length + n_fft - 2 * pad_samples

        With "center" that is `(frames - 1) * hop_length`, up to `hop_length - 1` samples less than
        the waveform that the mel came from: by design, and never an error.

        Args:
            frames: Number of mel frames, at least 1.

        Raises:
            ValueError: `frames` is below 1.

        Example:
            >>> MelRecipe().num_samples(282)
            71936
        """
        if frames < 1:
            raise ValueError(f"frames must be at least 1, got {frames}.")
        return (frames - 1) * self.hop_length + self.n_fft - 2 * self.pad_samples

    def _shortest_reason(self) -> str:
        if self.pad_mode == "reflect" and self.min_samples == self.pad_samples + 1:
            return f"Reflection mirrors {self.pad_samples} samples at each end."
        return f"One transform of {self.n_fft} samples has to fit."


# Of 100 bands: 25 % of the multiplications in four groups, 50 % in two.
_GROUPS = 4

VOCOS = MelRecipe()
"""The recipe of `charactr/vocos-mel-24khz`."""


def filterbank(recipe: MelRecipe) -> Tensor:
    """Return the triangular filters that map STFT bins to mel bands.

    Returns:
        `[n_fft // 2 + 1, n_mels]`, float32, exactly as torchaudio's `MelScale` builds them.
    """
    triangles: Tensor = torchaudio.functional.melscale_fbanks(
        n_freqs=recipe.n_fft // 2 + 1,
        f_min=recipe.f_min,
        f_max=recipe.f_max,
        n_mels=recipe.n_mels,
        sample_rate=recipe.filterbank_rate or recipe.sample_rate,
        norm=recipe.norm,
        mel_scale=recipe.mel_scale,
    )
    return triangles


def filter_groups(filters: Tensor) -> tuple[tuple[slice, slice], ...]:
    """Cut a filterbank, nearly all of it zeros, into blocks that hold all the others.

    Each block is a group of neighbouring columns with the rows that these use: a product by blocks
    takes a quarter of the multiplications.

    Args:
        filters: `[bins, bands]`, of `filterbank`, or its transpose.

    Returns:
        Rows and columns of each block.
    """
    count = filters.shape[1]
    bounds = [round(count * share / _GROUPS) for share in range(_GROUPS + 1)]
    blocks = []
    for first, last in itertools.pairwise(bounds):
        if first == last:
            continue
        used = filters[:, first:last].any(dim=1).nonzero()
        # Bands narrower than a bin may have no filter at all: one row of zeros serves.
        begin, end = (int(used.min()), int(used.max())) if len(used) else (0, 0)
        blocks.append((slice(begin, end + 1), slice(first, last)))
    return tuple(blocks)


@functools.lru_cache(maxsize=64)
def band_centres_hz(recipe: MelRecipe) -> tuple[float, ...]:
    """Return the frequency in Hz at which each mel band peaks, lowest band first.

    The bands' edges are equally spaced on the mel scale, band k peaking at edge k + 1.
    """
    limits = torch.tensor([recipe.f_min, recipe.f_max], dtype=torch.float64)
    edges = band_edges_hz(limits, recipe.n_mels, recipe.mel_scale)
    return tuple(edges[1:-1].tolist())


def band_edges_hz(limits: Tensor, n_mels: int, mel_scale: str) -> Tensor:
    """Return the edges of the bands between limits in Hz, `[..., 2]` to `[..., n_mels + 2]`."""
    low, high = _hz_to_mel(limits, mel_scale).unbind(-1)
    share = torch.linspace(0, 1, n_mels + 2, dtype=limits.dtype)
    return _mel_to_hz(low[..., None] + (high - low)[..., None] * share, mel_scale)


def log_mel(waveform: Tensor, recipe: MelRecipe = VOCOS) -> Tensor:
    """Extract the log-mel spectrogram that a recipe defines.

    For Vocos: log(max(filterbank^T |STFT(waveform)|, floor)).

    Args:
        waveform: `[..., samples]`, floating point, at `recipe.sample_rate`, full scale +-1.
        recipe: The recipe. With `VOCOS` the result equals, bit for bit, that of
            `vocos.feature_extractors.MelSpectrogramFeatures`.

    Returns:
        `[..., n_mels, frames]` with `frames = recipe.frames(samples)`; `[..., frames, n_mels]`
        where `recipe.axes` says so.

    Raises:
        ValueError: The waveform is shorter than `recipe.min_samples`, or is neither float32 nor
            float64.
    """
    if waveform.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"waveform must be float32 or float64, got {waveform.dtype}. Convert it with .float(); "
            "integer samples must also be divided by their full scale."
        )
    frames = recipe.frames(waveform.shape[-1])  # raises on a waveform that is too short
    waveform = pre_emphasised(waveform, recipe.pre_emphasis)
    if recipe.padding == "same":
        waveform = _pad(waveform, recipe.pad_samples, recipe.pad_mode)
    spectrogram = torchaudio.functional.spectrogram(
        waveform,
        pad=0,
        window=window(recipe, waveform.dtype, waveform.device),
        n_fft=recipe.n_fft,
        hop_length=recipe.hop_length,
        win_length=recipe.win_length,
        power=2.0 if recipe.magnitude_eps else recipe.power,
        normalized=recipe.normalized or False,
        center=recipe.padding == "center",
        pad_mode=recipe.pad_mode,
        onesided=True,
    )
    if recipe.magnitude_eps:
        spectrogram = (spectrogram + recipe.magnitude_eps) ** (recipe.power / 2)
    bands = filters(recipe, waveform.dtype, waveform.device)
    mel = torch.matmul(spectrogram.transpose(-1, -2), bands).transpose(-1, -2)
    mel = _fit_tail(mel, frames)
    mel = mel + recipe.floor if recipe.floor_mode == "add" else mel.clip(min=recipe.floor)
    if recipe.log_base is not None:
        mel = mel.log() if recipe.log_base == "e" else mel.log10()
    if recipe.log_scale != 1.0:
        mel = mel * recipe.log_scale
    if recipe.dynamic_range is not None:
        highest = mel.amax(dim=(-2, -1), keepdim=True)
        mel = torch.maximum(mel, highest - recipe.dynamic_range)
    if (recipe.mean, recipe.std) != (0.0, 1.0):
        mel = (mel - recipe.mean) / recipe.std
    return mel.transpose(-1, -2) if recipe.axes == "frames_first" else mel


def pre_emphasised(waveform: Tensor, coefficient: float) -> Tensor:
    """Return y[n] = x[n] - coefficient x[n - 1] of `[..., samples]`, with x[-1] = 0."""
    if not coefficient:
        return waveform
    return waveform - coefficient * torch.nn.functional.pad(waveform, (1, 0))[..., :-1]


# What is cached may be wanted with gradients later, so it must not be made as inference tensors.
_CPU = torch.device("cpu")


@functools.lru_cache(maxsize=256)
@torch.inference_mode(mode=False)
def window(
    recipe: MelRecipe, dtype: torch.dtype = torch.float32, device: torch.device = _CPU
) -> Tensor:
    """Return the window of a recipe, `[win_length]`; made in float32, and kept for later."""
    length, periodic = recipe.win_length, recipe.periodic
    if recipe.window == "rectangular":
        values = torch.ones(length)
    elif recipe.window == "hamming":
        values = torch.hamming_window(length, periodic=periodic)
    else:
        values = torch.hann_window(length, periodic=periodic)
    if recipe.window == "sqrt_hann":
        values = values.sqrt()
    return values.to(device, dtype)


@functools.lru_cache(maxsize=512)
@torch.inference_mode(mode=False)
def filters(
    recipe: MelRecipe, dtype: torch.dtype = torch.float32, device: torch.device = _CPU
) -> Tensor:
    """Return `filterbank(recipe)`, kept for later: do not write into it."""
    return filterbank(recipe).to(device, dtype)


def _fit_tail(mel: Tensor, frames: int) -> Tensor:
    missing = frames - mel.shape[-1]
    if missing > 0:
        return torch.cat([mel, mel[..., -1:].expand(*mel.shape[:-1], missing)], dim=-1)
    return mel[..., :frames]


def _pad(waveform: Tensor, samples: int, mode: str) -> Tensor:
    # torch pads the last axis only of tensors with two or three dimensions.
    flat = waveform.reshape(-1, waveform.shape[-1])
    padded = torch.nn.functional.pad(flat, (samples, samples), mode=mode)
    return padded.reshape(*waveform.shape[:-1], padded.shape[-1])


# The Slaney scale: 200/3 Hz a mel up to 1 kHz (15 mels), then 27 mels for each factor of 6.4.
_SLANEY_HZ_PER_MEL = 200.0 / 3
_SLANEY_KNEE_HZ = 1000.0
_SLANEY_LOG_STEP = math.log(6.4) / 27.0


def _hz_to_mel(hz: Tensor, mel_scale: str) -> Tensor:
    if mel_scale == "htk":
        return 2595.0 * torch.log10(1.0 + hz / 700.0)
    knee = _SLANEY_KNEE_HZ / _SLANEY_HZ_PER_MEL
    above = knee + (hz.clamp(min=_SLANEY_KNEE_HZ) / _SLANEY_KNEE_HZ).log() / _SLANEY_LOG_STEP
    return torch.where(hz < _SLANEY_KNEE_HZ, hz / _SLANEY_HZ_PER_MEL, above)


def _mel_to_hz(mel: Tensor, mel_scale: str) -> Tensor:
    if mel_scale == "htk":
        return 700.0 * (torch.pow(10.0, mel / 2595.0) - 1.0)
    knee = _SLANEY_KNEE_HZ / _SLANEY_HZ_PER_MEL
    above = _SLANEY_KNEE_HZ * torch.exp(_SLANEY_LOG_STEP * (mel.clamp(min=knee) - knee))
    return torch.where(mel < knee, mel * _SLANEY_HZ_PER_MEL, above)
