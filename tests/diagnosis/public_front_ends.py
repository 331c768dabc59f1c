"""Mel front ends of public projects, recomputed in NumPy from the numbers in their sources.

Nothing here is taken from `melcheck`: frames, windows, filters and logarithms are written once
more, in float64 unless a front end says otherwise, so that a front end which agrees with a recipe
agrees up to rounding and no further. `FRONT_ENDS` is no part of the bank that the diagnosis
searches: a project is here because people use it, whether a profile describes it or not.

Each entry names the file that its numbers were read in and the commit of that file. What a project
leaves to a configuration is taken from the configuration that it ships.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Compress = Callable[[Array], Array]


def _mel_of(hz: Array, scale: str) -> Array:
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    above = 15.0 + np.log(np.maximum(hz, 1000.0) / 1000.0) / (np.log(6.4) / 27.0)
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, above)


def _hz_of(mel: Array, scale: str) -> Array:
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    above = 1000.0 * np.exp((np.maximum(mel, 15.0) - 15.0) * (np.log(6.4) / 27.0))
    return np.where(mel < 15.0, mel * 200.0 / 3.0, above)


@functools.lru_cache(maxsize=64)
def triangles(
    rate: int, n_fft: int, n_mels: int, low: float, high: float, scale: str, norm: str | None
) -> Array:
    """Return triangular filters, `[n_mels, n_fft // 2 + 1]`."""
    bins = np.linspace(0.0, rate / 2, n_fft // 2 + 1)
    ends = _mel_of(np.array([low, high]), scale)
    edges = _hz_of(np.linspace(ends[0], ends[1], n_mels + 2), scale)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    found = np.maximum(0.0, np.minimum(rising, falling))
    return found * (2.0 / (edges[2:] - edges[:-2]))[:, None] if norm == "slaney" else found


@dataclass(frozen=True, kw_only=True)
class FrontEnd:
    """A front end in numbers.

    Attributes:
        name: The project, and what of it.
        source: File and commit.
        rate: Hz that the project resamples its audio to and lays its filters out for.
        pad_mode: What librosa or torch pads with.
        compress: From the filtered spectrum `[n_mels, frames]` to what the project stores.
        after: What `compress` does beside a logarithm, as codes of causes.
        may: Codes that are true, and that a clip may not show.
        harmless: Whether the vocoder takes the mel as it is.
        single: Whether the arithmetic is in float32, as in torch.
        whole: Code of a cause that names all of it, where it is no recipe.
        frames_first: Whether it returns [frames, n_mels].
    """

    name: str
    source: str
    rate: int = 24_000
    n_fft: int = 1024
    win_length: int | None = None
    hop_length: int = 256
    padding: str = "center"
    pad_mode: str = "reflect"
    periodic: bool = True
    normalized: bool = False
    pre_emphasis: float = 0.0
    magnitude_eps: float = 0.0
    power: float = 1.0
    n_mels: int = 100
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: str = "slaney"
    norm: str | None = "slaney"
    compress: Compress
    after: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    harmless: bool = False
    single: bool = False
    whole: str = ""
    frames_first: bool = False
    drop_last: bool = False
    custom: Callable[[Array, int], Array] | None = None

    @property
    def highest(self) -> float:
        """Hz where the highest band ends."""
        return self.rate / 2 if self.f_max is None else self.f_max

    @property
    def window_length(self) -> int:
        """Samples of the window."""
        return self.n_fft if self.win_length is None else self.win_length

    def __call__(self, waveform: Array) -> Array:
        """Return the mel of `[samples]` at any rate; the filters stay those of `rate`."""
        if self.custom is not None:
            return self.custom(waveform, self.rate)
        dtype = np.float32 if self.single else np.float64
        x = np.asarray(waveform, dtype)
        if self.pre_emphasis:
            x = np.concatenate([x[:1], x[1:] - dtype(self.pre_emphasis) * x[:-1]])
        sides = {
            "center": self.n_fft // 2,
            "same": (self.n_fft - self.hop_length) // 2,
            "none": 0,
        }[self.padding]
        x = np.pad(x, sides, mode="reflect" if self.pad_mode == "reflect" else "constant")
        count = self.window_length if self.periodic else self.window_length - 1
        turn = 2 * np.pi * np.arange(self.window_length) / count
        window = np.zeros(self.n_fft)
        begin = (self.n_fft - self.window_length) // 2
        window[begin : begin + self.window_length] = 0.5 - 0.5 * np.cos(turn)
        if self.normalized:
            window /= np.sqrt(np.square(window).sum())
        frames = np.lib.stride_tricks.sliding_window_view(x, self.n_fft)[:: self.hop_length]
        spectrum = np.fft.rfft(frames * window.astype(dtype), axis=-1)
        energy = np.square(spectrum.real) + np.square(spectrum.imag)
        magnitude = (energy + self.magnitude_eps) ** (self.power / 2)
        filters = triangles(
            self.rate,
            self.n_fft,
            self.n_mels,
            self.f_min,
            self.highest,
            self.mel_scale,
            self.norm,
        )
        mel = (magnitude.astype(dtype) @ filters.T.astype(dtype)).T
        if self.drop_last:
            mel = mel[:, :-1]
        found = self.compress(mel).astype(np.float32)
        return np.ascontiguousarray(found.T if self.frames_first else found)


def ln(floor: float, *, add: bool = False, mean: float = 0.0, std: float = 1.0) -> Compress:
    """Return the natural logarithm above a floor, normalised."""
    return lambda mel: (np.log(mel + floor if add else np.maximum(mel, floor)) - mean) / std


def log10(floor: float) -> Compress:
    """Return the decimal logarithm above a floor."""
    return lambda mel: np.log10(np.maximum(mel, floor))


def decibels(
    reference: float, *, low: float, high: float, floor: float = 1e-5, lowest: float = -100.0
) -> Compress:
    """Return decibels less a reference, with `lowest` to 0 dB scaled to a range and clipped."""

    def compress(mel: Array) -> Array:
        level = 20 * np.log10(np.maximum(mel, floor)) - reference
        return np.clip(low + (high - low) * (level - lowest) / -lowest, low, high)

    return compress


def each_band(compress: Compress, *, seed: int) -> Compress:
    """Return a logarithm divided by a number of each band, as a file of norms holds them."""

    def normed(mel: Array) -> Array:
        norms = np.random.default_rng(seed).uniform(3.0, 9.0, len(mel))
        return compress(mel) / norms[:, None]

    return normed


def own_bands(compress: Compress) -> Compress:
    """Return a logarithm standardised in each band over the clip."""

    def standardised(mel: Array) -> Array:
        x = compress(mel)
        return (x - x.mean(1, keepdims=True)) / (x.std(1, ddof=1, keepdims=True) + 1e-5)

    return standardised


def of_whisper(mel: Array) -> Array:
    """Return the decimal logarithm within 8 of its maximum, scaled."""
    x = np.log10(np.maximum(mel, 1e-10))
    return (np.maximum(x, x.max() - 8.0) + 4.0) / 4.0


def below_maximum(mel: Array) -> Array:
    """Return decibels of energies against the clip's own maximum, within 80 dB of it."""
    x = 10 * np.log10(np.maximum(mel, 1e-10))
    return np.maximum(x - x.max(), -80.0)


def kaldi_fbank(waveform: Array, rate: int) -> Array:
    """Return Kaldi's filterbank energies, 80 bands, of int16 samples, `[frames, 80]`."""
    x = np.asarray(waveform, np.float64) * 32_768
    size, shift, n_fft = (
        rate * 25 // 1000,
        rate * 10 // 1000,
        1 << (rate * 25 // 1000 - 1).bit_length(),
    )
    frames = np.lib.stride_tricks.sliding_window_view(x, size)[::shift]
    frames = frames - frames.mean(1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))) ** 0.85
    spectrum = np.fft.rfft((frames - 0.97 * before) * window, n_fft, axis=-1)
    energy = np.square(np.abs(spectrum))[:, :-1]
    # Kaldi's triangles are straight in mels, not in Hz.
    bins = 1127.0 * np.log1p(np.arange(n_fft // 2) * rate / n_fft / 700.0)
    ends = 1127.0 * np.log1p(np.array([20.0, rate / 2]) / 700.0)
    edges = np.linspace(ends[0], ends[1], 82)
    step = edges[1] - edges[0]
    filters = np.maximum(0.0, np.minimum(bins - edges[:-2, None], edges[2:, None] - bins) / step)
    eps = np.finfo(np.float32).eps
    return np.log(np.maximum(energy @ filters.T, eps)).astype(np.float32)


VOCOS = FrontEnd(
    name="Vocos",
    source="gemelo-ai/vocos, vocos/feature_extractors.py, release 0.1.0",
    mel_scale="htk",
    norm=None,
    compress=ln(1e-7),
    harmless=True,
)
HIFIGAN = FrontEnd(
    name="HiFi-GAN",
    source="jik876/hifi-gan 1198d8c, meldataset.py",
    rate=22_050,
    padding="same",
    magnitude_eps=1e-9,
    n_mels=80,
    f_max=8_000.0,
    compress=ln(1e-5),
)
TACOTRON2 = FrontEnd(
    name="WaveGlow and RAD-TTS",
    source="NVIDIA/waveglow 7e21e1e, config.json; NVIDIA/radtts c73f39f, audio_processing.py",
    rate=22_050,
    n_mels=80,
    f_max=8_000.0,
    compress=ln(1e-5),
)


def _like(base: FrontEnd, name: str, source: str, **numbers: Any) -> FrontEnd:
    return dataclasses.replace(base, name=name, source=source, **numbers)


_DECIBELS = ("decibels", "normalisation")

FRONT_ENDS = (
    VOCOS,
    _like(VOCOS, "Vocos in float32", VOCOS.source, single=True),
    _like(VOCOS, "F5-TTS", "SWivid/F5-TTS 0914170, src/f5_tts/model/modules.py", compress=ln(1e-5)),
    _like(
        VOCOS,
        "ZipVoice",
        "k2-fsa/ZipVoice, zipvoice/utils/feature.py; lhotse 1.33.0, compute_num_frames",
        drop_last=True,
    ),
    _like(
        VOCOS,
        "Vocos, same padding",
        "gemelo-ai/vocos 0.1.0, configs/vocos-mel.yaml's padding set to same",
        padding="same",
        harmless=False,
    ),
    _like(
        VOCOS,
        "Vocos for Matcha",
        "gemelo-ai/vocos 10316e2, vocos/feature_extractors.py",
        f_max=8_000.0,
        mel_scale="slaney",
        norm="slaney",
        harmless=False,
    ),
    _like(
        VOCOS,
        "Vocos with an addend",
        "a habit of NeMo's: log_zero_guard_type add, 1e-5",
        compress=ln(1e-5, add=True),
    ),
    FrontEnd(
        name="F5-TTS for BigVGAN",
        source="SWivid/F5-TTS 0914170, src/f5_tts/model/modules.py",
        padding="same",
        magnitude_eps=1e-9,
        compress=ln(1e-5),
        single=True,
    ),
    FrontEnd(
        name="Tortoise for UnivNet",
        source="neonbjb/tortoise-tts 0c88f01, tortoise/utils/audio.py",
        compress=ln(1e-5),
        single=True,
    ),
    FrontEnd(
        name="Tortoise for UnivNet, normalised",
        source="neonbjb/tortoise-tts 0c88f01, tortoise/utils/audio.py",
        compress=ln(1e-5, mean=-4.599293, std=6.913632),
        after=("normalisation",),
    ),
    HIFIGAN,
    TACOTRON2,
    _like(
        HIFIGAN,
        "Matcha-TTS",
        "shivammehta25/Matcha-TTS 0.0.7.2, matcha/utils/audio.py",
        compress=ln(1e-5, mean=-5.536622, std=2.116101),
        after=("normalisation",),
    ),
    _like(
        HIFIGAN,
        "VITS",
        "jaywalnut310/vits 427afd7, mel_processing.py; configs/ljs_base.json",
        magnitude_eps=1e-6,
        f_max=None,
        single=True,
    ),
    _like(
        HIFIGAN,
        "CosyVoice 2",
        "FunAudioLLM/CosyVoice 1c062ab, examples/libritts/cosyvoice2/conf/cosyvoice2.yaml",
        rate=24_000,
        n_fft=1920,
        hop_length=480,
    ),
    _like(
        HIFIGAN,
        "Chatterbox",
        "resemble-ai/chatterbox 4d675c0, src/chatterbox/models/s3gen/utils/mel.py",
        rate=24_000,
        n_fft=1920,
        hop_length=480,
        mel_scale="htk",
        norm=None,
    ),
    _like(
        HIFIGAN,
        "GPT-SoVITS v3",
        "RVC-Boss/GPT-SoVITS 0690743, GPT_SoVITS/module/mel_processing.py; mel_fn",
        rate=24_000,
        n_mels=100,
        f_max=None,
        magnitude_eps=1e-8,
        compress=ln(1e-5, mean=-5.0, std=7.0),
        after=("normalisation",),
    ),
    _like(
        HIFIGAN,
        "GPT-SoVITS v4",
        "RVC-Boss/GPT-SoVITS 0690743, GPT_SoVITS/module/mel_processing.py; mel_fn_v4",
        rate=32_000,
        n_fft=1280,
        hop_length=320,
        n_mels=100,
        f_max=None,
        magnitude_eps=1e-8,
        compress=ln(1e-5, mean=-5.0, std=7.0),
        after=("normalisation",),
    ),
    _like(
        HIFIGAN,
        "GPT-SoVITS v2, for its loss",
        "RVC-Boss/GPT-SoVITS 0690743, GPT_SoVITS/module/mel_processing.py; configs/s2.json",
        rate=32_000,
        n_fft=2048,
        hop_length=640,
        n_mels=128,
        f_max=None,
        magnitude_eps=1e-8,
    ),
    _like(
        HIFIGAN,
        "fish-speech",
        "fishaudio/fish-speech 9bbf513, fish_speech/utils/spectrogram.py; firefly_gan_vq.yaml",
        rate=44_100,
        n_fft=2048,
        hop_length=512,
        n_mels=160,
        f_max=None,
        magnitude_eps=1e-6,
    ),
    _like(
        HIFIGAN,
        "DiffSinger",
        "openvpi/DiffSinger edd1a1a, lib/feature/nvSTFT.py; 06af544, configs/acoustic.yaml",
        rate=44_100,
        n_fft=2048,
        hop_length=512,
        n_mels=128,
        f_min=40.0,
        f_max=16_000.0,
        magnitude_eps=0.0,
    ),
    _like(
        HIFIGAN,
        "DiffSinger, decimal",
        "openvpi/DiffSinger a6ebfce, modules/vocoders/nsf_hifigan.py, mel_base 10",
        rate=44_100,
        n_fft=2048,
        hop_length=512,
        n_mels=128,
        f_min=40.0,
        f_max=16_000.0,
        magnitude_eps=0.0,
        compress=lambda mel: 0.434294 * np.log(np.maximum(mel, 1e-5)),
        frames_first=True,
    ),
    _like(
        HIFIGAN,
        "so-vits-svc",
        "svc-develop-team/so-vits-svc 358369d, configs_template/config_template.json",
        rate=44_100,
        n_fft=2048,
        hop_length=512,
        f_max=22_050.0,
        magnitude_eps=1e-6,
    ),
    _like(
        HIFIGAN,
        "RVC at 40 kHz",
        "RVC-Project/Retrieval-based-Voice-Conversion-WebUI 5131da5, configs/v1/40k.json",
        rate=40_000,
        n_fft=2048,
        hop_length=400,
        n_mels=125,
        f_max=None,
        magnitude_eps=1e-6,
    ),
    _like(
        TACOTRON2,
        "Tortoise",
        "neonbjb/tortoise-tts 468048c, tortoise/models/arch_util.py, without its file of norms",
        power=2.0,
        mel_scale="htk",
    ),
    _like(
        TACOTRON2,
        "XTTS, norms of each band",
        "coqui-ai/TTS 0ff9392, TTS/tts/layers/xtts/dvae.py; norms drawn at random",
        power=2.0,
        mel_scale="htk",
        compress=each_band(ln(1e-5), seed=0),
        after=("normalisation",),
    ),
    FrontEnd(
        name="ESPnet's default",
        source="espnet/espnet 0bc48ac, espnet2/tts/feats_extract/log_mel_fbank.py",
        rate=16_000,
        n_mels=80,
        f_min=80.0,
        f_max=7_600.0,
        compress=log10(1e-10),
        may=("floor",),
        single=True,
        frames_first=True,
    ),
    FrontEnd(
        name="PaddleSpeech and Parallel WaveGAN",
        source="PaddlePaddle/PaddleSpeech 19ef721, examples/csmsc/tts3/conf/default.yaml",
        n_fft=2048,
        win_length=1200,
        hop_length=300,
        n_mels=80,
        f_min=80.0,
        f_max=7_600.0,
        compress=log10(1e-10),
        frames_first=True,
    ),
    FrontEnd(
        name="TensorFlowTTS, LibriTTS",
        source="TensorSpeech/TensorFlowTTS 6c073fb, preprocess/libritts_preprocess.yaml",
        hop_length=300,
        n_mels=80,
        f_min=80.0,
        f_max=7_600.0,
        compress=log10(1e-10),
        frames_first=True,
    ),
    FrontEnd(
        name="StyleTTS 2",
        source="yl4579/StyleTTS2 1ece0a3, meldataset.py; torchaudio's default rate for the filters",
        rate=16_000,
        n_fft=2048,
        win_length=1200,
        hop_length=300,
        power=2.0,
        n_mels=80,
        f_max=8_000.0,
        mel_scale="htk",
        norm=None,
        compress=ln(1e-5, add=True, mean=-4.0, std=4.0),
        after=("normalisation",),
        may=("floor",),
        single=True,
    ),
    _like(
        TACOTRON2,
        "NeMo FastPitch",
        "NVIDIA/NeMo 024c600, nemo/collections/asr/parts/preprocessing/features.py",
        periodic=False,
        compress=ln(1e-5, add=True),
    ),
    FrontEnd(
        name="NeMo ASR",
        source="NVIDIA/NeMo 024c600, nemo/collections/asr/parts/preprocessing/features.py",
        rate=16_000,
        n_fft=512,
        win_length=320,
        hop_length=160,
        periodic=False,
        pre_emphasis=0.97,
        power=2.0,
        n_mels=64,
        compress=own_bands(ln(2.0**-24, add=True)),
        after=("normalisation",),
        may=("floor",),
    ),
    FrontEnd(
        name="Whisper",
        source="openai/whisper 06dc24a, whisper/audio.py",
        rate=16_000,
        n_fft=400,
        hop_length=160,
        power=2.0,
        n_mels=80,
        f_max=8_000.0,
        compress=of_whisper,
        drop_last=True,
        after=("log-base", "normalisation"),
        may=("floor", "length"),
    ),
    FrontEnd(
        name="AudioLDM",
        source="haoheliu/AudioLDM 17b3384, audioldm/utils.py; b1cad0c, audioldm/audio/stft.py",
        rate=16_000,
        hop_length=160,
        n_mels=64,
        f_max=8_000.0,
        compress=ln(1e-5),
    ),
    FrontEnd(
        name="bshall's HiFi-GAN",
        source="bshall/hifigan 374a456, hifigan/dataset.py",
        rate=16_000,
        hop_length=160,
        padding="same",
        n_mels=128,
        compress=ln(1e-5),
        single=True,
    ),
    FrontEnd(
        name="MelGAN",
        source="descriptinc/melgan-neurips 4677742, mel2wav/modules.py",
        rate=22_050,
        padding="same",
        n_mels=80,
        compress=log10(1e-5),
    ),
    FrontEnd(
        name="Tacotron of keithito",
        source="keithito/tacotron 0894cd9, util/audio.py; hparams.py",
        rate=20_000,
        n_fft=2048,
        win_length=1000,
        hop_length=250,
        pre_emphasis=0.97,
        n_mels=80,
        compress=decibels(0.0, low=0.0, high=1.0),
        after=_DECIBELS,
        may=("floor", "clamped"),
    ),
    FrontEnd(
        name="WaveRNN of fatchord",
        source="fatchord/WaveRNN 12922a7, utils/dsp.py; hparams.py",
        rate=22_050,
        n_fft=2048,
        win_length=1100,
        hop_length=275,
        n_mels=80,
        f_min=40.0,
        compress=decibels(0.0, low=0.0, high=1.0),
        after=_DECIBELS,
        may=("floor", "clamped"),
    ),
    FrontEnd(
        name="Tacotron 2 of Rayhane Mamah",
        source="Rayhane-mamah/Tacotron-2 0330bd0, datasets/audio.py; hparams.py",
        rate=22_050,
        n_fft=2048,
        hop_length=275,
        n_mels=80,
        f_min=55.0,
        f_max=7_600.0,
        compress=decibels(20.0, low=-4.0, high=4.0),
        after=_DECIBELS,
        may=("floor", "clamped"),
    ),
    FrontEnd(
        name="Real-Time Voice Cloning",
        source="CorentinJ/Real-Time-Voice-Cloning 05741fc, synthesizer/hparams.py",
        rate=16_000,
        n_fft=800,
        hop_length=200,
        pre_emphasis=0.97,
        n_mels=80,
        f_min=55.0,
        f_max=7_600.0,
        compress=decibels(20.0, low=-4.0, high=4.0),
        after=_DECIBELS,
        may=("floor", "clamped"),
    ),
    FrontEnd(
        name="DiffWave",
        source="lmnt-com/diffwave 50ce199, src/diffwave/preprocess.py",
        rate=22_050,
        normalized=True,
        n_mels=80,
        f_min=20.0,
        mel_scale="htk",
        norm=None,
        compress=decibels(20.0, low=0.0, high=1.0),
        after=_DECIBELS,
        may=("floor", "clamped", "stft-normalized"),
        single=True,
    ),
    FrontEnd(
        name="AutoVC",
        source="auspicious3000/autovc 0068546, make_spect.py, without its high-pass and noise",
        rate=16_000,
        n_mels=80,
        f_min=90.0,
        f_max=7_600.0,
        compress=decibels(16.0, low=0.0, high=1.0),
        after=_DECIBELS,
        may=("floor", "clamped"),
    ),
    FrontEnd(
        name="Coqui TTS's default",
        source="coqui-ai/TTS 0213e1c, TTS/config/shared_configs.py",
        rate=22_050,
        n_mels=80,
        compress=decibels(20.0, low=-4.0, high=4.0),
        after=_DECIBELS,
        may=("floor", "clamped"),
    ),
    FrontEnd(
        name="Universal Vocoding of bshall",
        source="bshall/UniversalVocoding 1fd4ccc, preprocess.py",
        rate=16_000,
        n_fft=2048,
        win_length=800,
        hop_length=200,
        pre_emphasis=0.97,
        n_mels=128,
        f_min=50.0,
        compress=lambda mel: np.maximum(20 * np.log10(np.maximum(mel, 1e-5)) - 20, -80.0) / 80,
        after=_DECIBELS,
        may=("floor",),
    ),
    FrontEnd(
        name="librosa's default, from its maximum",
        source="librosa 0.11, feature/spectral.py, and power_to_db(ref=np.max)",
        rate=22_050,
        n_fft=2048,
        hop_length=512,
        pad_mode="constant",
        power=2.0,
        n_mels=128,
        compress=below_maximum,
        after=_DECIBELS,
        may=("floor",),
    ),
    FrontEnd(
        name="torchaudio's default in decibels",
        source="torchaudio 2.11, transforms/_transforms.py, AmplitudeToDB",
        rate=16_000,
        n_fft=400,
        hop_length=200,
        power=2.0,
        n_mels=128,
        f_max=8_000.0,
        mel_scale="htk",
        norm=None,
        compress=lambda mel: 10 * np.log10(np.maximum(mel, 1e-10)),
        after=("decibels",),
        may=("floor",),
        single=True,
    ),
    FrontEnd(
        name="GE2E's encoder, as in MetaVoice",
        source="metavoiceio/metavoice-src 0e815bb, fam/quantiser/audio/speaker_encoder/audio.py",
        rate=16_000,
        n_fft=400,
        hop_length=160,
        pad_mode="constant",
        power=2.0,
        n_mels=40,
        compress=lambda mel: mel,
        after=("no-log",),
        frames_first=True,
    ),
    FrontEnd(
        name="IMS Toucan",
        source="DigitalPhonetics/IMS-Toucan 048fd06, Preprocessing/AudioPreprocessor.py",
        rate=16_000,
        n_mels=80,
        f_min=40.0,
        f_max=8_000.0,
        compress=log10(1e-10),
    ),
    FrontEnd(
        name="Kaldi's fbank",
        source="pytorch/audio 2326b75, src/torchaudio/compliance/kaldi.py; 80 bands, as in WeNet",
        rate=16_000,
        n_fft=512,
        win_length=400,
        hop_length=160,
        padding="none",
        pre_emphasis=0.97,
        power=2.0,
        n_mels=80,
        f_min=20.0,
        mel_scale="htk",
        norm=None,
        compress=ln(float(np.finfo(np.float32).eps)),
        whole="kaldi-fbank",
        may=("int16-scale",),
        frames_first=True,
        custom=kaldi_fbank,
    ),
)
