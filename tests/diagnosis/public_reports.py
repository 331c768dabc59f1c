"""What people reported of their own front ends, files and vocoders, rebuilt: 18 kinds.

Each `Report` makes the input and asks melcheck as its user would: a function by `handshake`, a
stored mel by `diagnose` or beside its front end, a file or a checkpoint by the command line. What
is right is known from how the input is made, and is stated in words that the answer must hold and
in words that it must not.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.cli.main import main
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.handshake import handshake
from melcheck.diagnosis.stored_mels import compare_stored, fresh_mel
from melcheck.diagnosis.vocoder import handshake_vocoder
from melcheck.frontends import adapt_frontend
from melcheck.mel_files import StoredMel
from melcheck.plan import Plan
from melcheck.recipes import VOCOS
from melcheck.suite import test_front_end_gives_the_same_mel_again_and_in_a_batch as in_a_batch
from melcheck.user_code import CallableError
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.weights import VocoderError
from tests.vocoders import untrained

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
EMBEDDED = Path(__file__).parents[2] / "melcheck" / "data" / "embedded"
RATE = 24_000

Front = Callable[[Tensor], Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What melcheck said.

    Attributes:
        passed: Whether it passes.
        text: All that it printed.
    """

    passed: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An input, and what is right about it.

    Attributes:
        kind: Number of its kind.
        name: Its name.
        ask: Makes the input in an empty folder and returns melcheck's answer.
        passes: Whether it should pass; None where it may do either, as long as it says why.
        told: What the answer must say, as regular expressions.
        untold: What it must not say.
    """

    kind: int
    name: str
    ask: Callable[[Path], Answer]
    passes: bool | None = False
    told: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()

    def judge(self, answer: Answer) -> str:
        """Return "right"; "wrong" for a false verdict or claim; "unknown" where a cause lacks."""
        if self.passes not in (None, answer.passed):
            return "wrong"
        if any(re.search(each, answer.text, re.IGNORECASE) for each in self.untold):
            return "wrong"
        named = all(re.search(each, answer.text, re.IGNORECASE) for each in self.told)
        return "right" if named else "unknown"


@functools.cache
def speech(name: str = "kokoro-alpha-ja.flac") -> Tensor:
    """Return three seconds of a fixture, `[samples]`."""
    return load_audio(MelCheckConfig(AUDIO / name, RATE, 3.0)).waveform[0]


@functools.cache
def _transform(power: float) -> Any:
    return torchaudio.transforms.MelSpectrogram(
        RATE, n_fft=1024, hop_length=256, n_mels=100, power=power
    )


def bands(waveform: Tensor) -> Tensor:
    """Return the filtered magnitudes of Vocos' recipe, without floor or logarithm."""
    found: Tensor = _transform(1.0)(waveform)
    return found


def mel(waveform: Tensor) -> Tensor:
    """Return the mel of Vocos."""
    return bands(waveform).clip(min=1e-7).log()


# How a user asks.


def by_handshake(front: Front) -> Callable[[Path], Answer]:
    def ask(_: Path) -> Answer:
        found = handshake(front, speech=[speech()])
        return Answer(found.compatible, "\n".join([found.message(), *found.cause(), *found.notes]))

    return ask


def by_diagnose(front: Front) -> Callable[[Path], Answer]:
    def ask(_: Path) -> Answer:
        found = diagnose(speech(), front(speech()))
        return Answer(found.kind in ("identical", "benign"), found.message())

    return ask


def by_cache(front: Front, store: Callable[[Tensor], Tensor] = lambda mel: mel) -> Any:
    """Ask whether the mel that a front end stored is its own, and whether it is Vocos'."""

    def ask(_: Path) -> Answer:
        adapted = adapt_frontend(front, name="mytts:mel")
        fresh = fresh_mel(speech(), adapted.encode, VOCOS)
        kept = store(torch.as_tensor(front(speech())))
        dtype = str(kept.dtype).removeprefix("torch.")
        stored = StoredMel(Path("a.npy"), kept.float(), "", dtype, tuple(kept.shape), 0)
        found = compare_stored(stored, fresh)
        verdict = handshake(front, speech=[speech()])
        return Answer(found.fresh and verdict.compatible, f"{verdict.message()}\n{found.text}")

    return ask


def by_batch(front: Front) -> Callable[[Path], Answer]:
    """Ask the suite's test of a batch, which runs beside the handshake."""

    def ask(_: Path) -> Answer:
        adapted = adapt_frontend(front, name="mytts:mel")
        plan = Plan(
            clips=(), vocoders=(), devices=(), required=frozenset(), artifacts=Path(), goldens=None
        )
        try:
            in_a_batch(adapted, plan, lambda *_: None)
        except pytest.fail.Exception as failure:
            return Answer(False, str(failure))
        return Answer(True, "")

    return ask


def command(*words: Any) -> Answer:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main([str(word) for word in words])
    return Answer(code == 0, printed.getvalue())


def by_check(write: Callable[[Path], Path], *words: str) -> Callable[[Path], Answer]:
    """Ask about a file, which `write` leaves in a folder."""

    def ask(folder: Path) -> Answer:
        with pytest.MonkeyPatch.context() as here:
            here.chdir(folder)
            return command("check", write(folder), "--vocoder", "embedded", *words)

    return ask


def by_vocoder(make: Callable[[Path], Path]) -> Callable[[Path], Answer]:
    """Ask for a vocoder in a folder or a file, which `make` leaves in a folder."""

    def ask(folder: Path) -> Answer:
        try:
            load_vocoder(make(folder))
        except (ValueError, VocoderError) as error:
            return Answer(False, str(error))
        return Answer(True, "")

    return ask


def by_decoder(damage: Callable[[Tensor], Tensor]) -> Callable[[Path], Answer]:
    """Ask about code that claims to be a vocoder, and damages what it returns."""

    def ask(_: Path) -> Answer:
        reference = untrained.small()
        try:
            found = handshake_vocoder(
                lambda mel: damage(reference.decode(mel)), reference=reference
            )
        except CallableError as error:
            return Answer(False, str(error))
        return Answer(found.passed, found.message())

    return ask


# 1 to 10: front ends.


def emphasised(x: Tensor) -> Tensor:
    return mel(torch.cat([x[:1], x[1:] - 0.95 * x[:-1]]))


def emphasised_in_numpy(x: Any) -> Any:
    x = np.asarray(x)
    return mel(torch.as_tensor(np.concatenate([x[:1], x[1:] - 0.97 * x[:-1]]))).numpy()


def shorter_window_of_batches(x: Tensor) -> Tensor:
    """Written for [samples]; of a batch the other branch has other filters."""
    if x.dim() == 1:
        return mel(x)
    slaney = torchaudio.transforms.MelSpectrogram(
        RATE, n_fft=1024, hop_length=256, n_mels=100, power=1, mel_scale="slaney"
    )
    found: Tensor = slaney(x).clip(min=1e-7).log()
    return found


@functools.cache
def corpus() -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each band over two other fixtures, `[n_mels, 1]` each."""
    mels = torch.cat([mel(speech("austen-0870.flac")), mel(speech("kokoro-kumo-en.wav"))], dim=1)
    return mels.mean(dim=1, keepdim=True), mels.std(dim=1, keepdim=True)


def less_corpus(x: Tensor) -> Tensor:
    mean, std = corpus()
    return (mel(x) - mean) / std


def less_means(x: Tensor) -> Tensor:
    return mel(x) - corpus()[0]


def less_corpus_log10(x: Tensor) -> Tensor:
    mean, std = corpus()
    nats = np.log(10)
    return (bands(x).clip(min=1e-7).log10() - mean / nats) / (std / nats)


def less_own(x: Tensor) -> Tensor:
    found = mel(x)
    return (found - found.mean(-1, keepdim=True)) / found.std(-1, keepdim=True)


def less_own_means(x: Tensor) -> Tensor:
    found = mel(x)
    return found - found.mean(-1, keepdim=True)


def decibels(
    x: Tensor, *, reference: float = 20.0, lowest: float = -100.0, floor: float = 1e-5
) -> Tensor:
    found = 20 * bands(x).clip(min=floor).log10() - reference
    return (found - lowest) / -lowest


def to_one_level(x: Tensor, rms: float = 0.1) -> Tensor:
    return mel(x * rms / x.square().mean(-1, keepdim=True).sqrt())


def to_one_peak(x: Tensor) -> Tensor:
    return mel(0.8 * x / x.abs().amax(-1, keepdim=True))


def of_librosa(x: Tensor, **numbers: Any) -> np.ndarray[Any, Any]:
    found = librosa.feature.melspectrogram(y=x.numpy().reshape(-1), **numbers)
    return librosa.power_to_db(found, ref=np.max)


def padded(x: Tensor, samples: int, *, before: int = 0) -> Tensor:
    return mel(torch.nn.functional.pad(x, (before, samples)))


def of_bfloat16_waveform(x: Tensor) -> Tensor:
    return bands(x).half().clip(min=1e-5).log().float()


# 11 to 18: files and vocoders.


def checkpoint(
    folder: Path, change: Callable[[dict[str, Tensor]], Any], name: str = "pytorch_model.bin"
) -> Path:
    """Save the embedded vocoder's weights as `change` makes them."""
    from safetensors.torch import load_file

    (folder / "config.yaml").write_bytes((EMBEDDED / "config.yaml").read_bytes())
    torch.save(change(load_file(EMBEDDED / "model.safetensors")), folder / name)
    return folder


def of_lightning(state: dict[str, Tensor]) -> dict[str, Tensor]:
    more = {
        "melspec_loss.mel_spec.spectrogram.window": torch.zeros(1024),
        "multiperioddisc.discriminators.0.convs.0.bias": torch.zeros(32),
    }
    return {**state, **more}


def of_gan(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "multiresddisc.discriminators.1.emb.weight": torch.zeros(4, 32)}


def wav(folder: Path, waveform: Tensor | None = None, rate: int = RATE, **more: Any) -> Path:
    path = folder / "a.wav"
    samples = (speech() if waveform is None else waveform).numpy()
    soundfile.write(path, samples, rate, **{"subtype": "PCM_16", **more})
    return path


def bytes_of(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return write


def at_low_rate(folder: Path, rate: int, *, back: bool, subtype: str = "PCM_16") -> Path:
    low = torchaudio.functional.resample(speech(), RATE, rate)
    if not back:
        return wav(folder, low, rate, subtype=subtype)
    return wav(folder, torchaudio.functional.resample(low, rate, RATE))


def promising(folder: Path, more: int) -> Path:
    """Write a file whose header promises more bytes of samples than there are."""
    path = wav(folder)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    (length,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at, length + more)
    path.write_bytes(data)
    return path


def torn(folder: Path, *, subtype: str = "VORBIS", suffix: str = "ogg", share: float = 0.5) -> Path:
    """Write a compressed file with 500 bytes of zeros in its middle."""
    path = folder / f"a.{suffix}"
    kinds = {"ogg": "OGG", "mp3": "MP3", "flac": "FLAC"}
    samples = torch.cat([speech(), speech()[:9_600]]).numpy()
    soundfile.write(path, samples, RATE, format=kinds[suffix], subtype=subtype)
    data = bytearray(path.read_bytes())
    middle = int(share * len(data))
    data[middle : middle + 500] = bytes(500)
    path.write_bytes(data)
    return path


def encodec(folder: Path) -> Path:
    (folder / "config.yaml").write_text(
        "feature_extractor:\n"
        "  class_path: vocos.feature_extractors.EncodecFeatures\n"
        "  init_args: {encodec_model: encodec_24khz, bandwidths: [1.5, 3.0, 6.0, 12.0]}\n"
        "backbone: {class_path: vocos.models.VocosBackbone, init_args: {}}\n"
        "head: {class_path: vocos.heads.ISTFTHead, init_args: {}}\n"
    )
    (folder / "pytorch_model.bin").write_bytes(b"PK\3\4" + bytes(64))
    return folder


def folder_of(*names: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name in names:
            (folder / name).write_bytes(b"{}" if name.endswith("json") else bytes(64))
        return folder

    return make


def report(
    kind: int,
    name: str,
    ask: Callable[[Path], Answer],
    *told: str,
    passes: bool | None = False,
    untold: tuple[str, ...] = (),
) -> Report:
    return Report(kind=kind, name=name, ask=ask, passes=passes, told=told, untold=untold)


LIGHTNING = (r"feature_extractor\.", r"backbone\.", r"head\.", "training")

REPORTS: tuple[Report, ...] = (
    report(
        1, "pre-emphasis of [samples]", by_handshake(emphasised), "pre-emphasis", r"\[samples\]"
    ),
    report(
        1,
        "pre-emphasis in NumPy",
        by_handshake(emphasised_in_numpy),
        "pre-emphasis",
        r"\[samples\]",
    ),
    report(1, "batches have other filters", by_handshake(shorter_window_of_batches), "mel-scale"),
    report(2, "of a corpus", by_handshake(less_corpus), "normalisation", "each band", "multiply"),
    report(2, "means of a corpus alone", by_handshake(less_means), "normalisation|each band"),
    report(2, "of a corpus, decimal", by_diagnose(less_corpus_log10), "normalisation", "each band"),
    report(2, "of the clip", by_handshake(less_own), "normalisation", "in the clip"),
    report(2, "means of the clip alone, stored", by_diagnose(less_own_means), "in the clip"),
    report(
        3,
        "to [0, 1]",
        by_diagnose(lambda x: decibels(x).clip(0, 1)),
        *("decibels", "normalisation", "clamped"),
        untold=("gain of", "zipvoice"),
    ),
    report(
        3,
        "to [-4, 4]",
        by_handshake(lambda x: (8 * decibels(x) - 4).clip(-4, 4)),
        *("decibels", "normalisation"),
        untold=("gain:", "zipvoice"),
    ),
    report(
        3,
        "to [0, 1] from -80 dB, unclipped",
        by_diagnose(lambda x: decibels(x, reference=16.0, lowest=-80.0)),
        *("decibels", "normalisation"),
        untold=("gain:", "zipvoice"),
    ),
    report(
        4,
        "1e-6 added under the logarithm",
        by_handshake(lambda x: (bands(x) + 1e-6).log()),
        "added",
        passes=True,
        untold=("incompatible",),
    ),
    report(4, "1e-2 added", by_handshake(lambda x: (bands(x) + 1e-2).log()), "floor", "added"),
    report(4, "log1p", by_diagnose(lambda x: bands(x).log1p()), "floor", "added"),
    report(4, "log1p of a thousand", by_diagnose(lambda x: (1e3 * bands(x)).log1p()), "added"),
    report(
        5,
        "bands in float16",
        by_handshake(of_bfloat16_waveform),
        "float16|rounding",
        passes=True,
        untold=("incompatible",),
    ),
    report(
        5,
        "bands in bfloat16, floor of F5-TTS",
        by_handshake(lambda x: bands(x).bfloat16().float().clip(min=1e-5).log()),
        *("bfloat16", "float32"),
        passes=True,
        untold=("incompatible",),
    ),
    report(
        6,
        "frames first, as its cache",
        by_cache(lambda x: mel(x).transpose(-1, -2)),
        passes=True,
        untold=("axes-transposed", "extract again"),
    ),
    report(
        6,
        "frames first, cache in float16",
        by_cache(lambda x: mel(x).transpose(-1, -2), lambda mel: mel.half()),
        passes=True,
        untold=("axes-transposed", "extract again"),
    ),
    report(
        6,
        "floor of F5-TTS, as its cache",
        by_cache(lambda x: bands(x).clip(min=1e-5).log()),
        passes=True,
        untold=("extract again",),
    ),
    report(7, "peak of the batch", by_batch(lambda x: mel(x / x.abs().max())), "batch"),
    report(7, "mean of the batch", by_batch(lambda x: mel(x) - mel(x).mean()), "batch"),
    report(
        7,
        "loudest 80 dB of the batch",
        by_batch(lambda x: torch.maximum(mel(x), mel(x).max() - 6.0)),
        "batch",
    ),
    report(
        8,
        "to whole hops",
        by_handshake(lambda x: padded(x, -x.shape[-1] % 256)),
        "length|padded",
        passes=True,
    ),
    report(
        8,
        "to whole seconds",
        by_diagnose(lambda x: padded(x, 12_000)),
        "length|padded",
        untold=("masked", "augmentation"),
    ),
    report(
        8,
        "a hop at each end",
        by_diagnose(lambda x: padded(x, 256, before=256)),
        "length|padded|frame",
        untold=("masked", "augmentation"),
    ),
    report(9, "one loudness", by_handshake(to_one_level), "each clip is brought to"),
    report(9, "one peak", by_handshake(to_one_peak), "each clip is brought to a peak of 0.8"),
    report(
        10,
        "librosa's defaults",
        by_diagnose(lambda x: of_librosa(x, sr=22_050, n_mels=128)),
        "maximum",
        untold=("loudness normalisation", "gain:"),
    ),
    report(
        10,
        "Vocos' numbers in decibels",
        by_diagnose(
            lambda x: of_librosa(
                x, sr=RATE, n_fft=1024, hop_length=256, n_mels=100, htk=True, norm=None
            )
        ),
        *("maximum", "decibels|power"),
        untold=("loudness normalisation", "gain:"),
    ),
    report(11, "of Lightning", by_vocoder(lambda f: checkpoint(f, of_lightning)), *LIGHTNING),
    report(11, "with a discriminator", by_vocoder(lambda f: checkpoint(f, of_gan)), *LIGHTNING),
    report(
        11,
        "the whole checkpoint",
        by_vocoder(lambda f: checkpoint(f, lambda s: {"epoch": 3, "state_dict": of_lightning(s)})),
        r"\['state_dict'\]",
    ),
    report(
        12,
        "both ends cut",
        by_decoder(lambda w: w[..., 640:-640]),
        *("1,?280", "ends|cut|trim"),
        untold=("hop length",),
    ),
    report(
        12,
        "the end cut",
        by_decoder(lambda w: w[..., :-2_400]),
        *("2,?400", "end|cut|trim"),
        untold=("hop length",),
    ),
    report(
        13,
        "M4A",
        by_check(bytes_of("a.wav", b"\0\0\0\x1cftypM4A \0\0\2\0M4A isomiso2" + bytes(4096))),
        "MP4|M4A",
        "ffmpeg|convert",
    ),
    report(
        13,
        "WebM",
        by_check(bytes_of("a.wav", b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01webm" + bytes(4096))),
        "WebM|Matroska",
        "ffmpeg|convert",
    ),
    report(
        13,
        "WMA",
        by_check(bytes_of("a.flac", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(4096))),
        "WMA|ASF",
        "ffmpeg|convert",
    ),
    report(
        14,
        "8 kHz, A-law",
        by_check(lambda f: at_low_rate(f, 8_000, back=False, subtype="ALAW")),
        "4,000 Hz",
        passes=True,
    ),
    report(
        14,
        "8 kHz, upsampled",
        by_check(lambda f: at_low_rate(f, 8_000, back=True)),
        "nothing above",
        passes=True,
    ),
    report(
        14,
        "12 kHz, upsampled",
        by_check(lambda f: at_low_rate(f, 12_000, back=True)),
        "nothing above",
        passes=True,
    ),
    report(
        15,
        "16 bytes short",
        by_check(lambda f: promising(f, 16)),
        "header",
        passes=True,
        untold=("truncated", "download"),
    ),
    report(15, "a second short", by_check(lambda f: promising(f, 48_000)), "truncated"),
    report(16, "Vorbis", by_check(torn), "lost|damage|fewer|[0-9]+ decoded", passes=None),
    report(
        16,
        "MP3",
        by_check(lambda f: torn(f, subtype="MPEG_LAYER_III", suffix="mp3")),
        "mended|damage|error",
        passes=True,
    ),
    report(17, "EnCodec", by_vocoder(encodec), "EncodecFeatures", "mel"),
    report(
        17, "HiFi-GAN", by_vocoder(folder_of("config.json", "generator_v1")), "HiFi-GAN", "module:"
    ),
    report(
        17,
        "ONNX",
        by_vocoder(lambda f: folder_of("model.onnx")(f) / "model.onnx"),
        "ONNX",
        "module:",
        untold=(r"holds it, \.\.",),
    ),
    report(18, "NaN", by_decoder(lambda w: w * torch.nan), "non-finite", "float32|floor|find"),
    report(
        18,
        "one infinite sample",
        by_decoder(lambda w: torch.where(torch.arange(w.shape[-1]) == 999, torch.inf, w)),
        "non-finite",
    ),
)
