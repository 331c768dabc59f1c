"""Faults of a front end that follows another recipe: one number or another is not the vocoder's."""

from __future__ import annotations

from typing import Literal

from tests.faults.damage_mels import without_warnings
from tests.faults.model import Fault, Injection, Probe, Severities, recipe_change

__all__ = ["RECIPE_FAULTS"]

# Where a golden applies and the mel keeps its shape, that fires beside the comparison of floats.
_SAME_SHAPE = ("extract", "golden-encoded", "golden-reconstructed")
_OTHER_SHAPE = ("shape", "extract")


def _recipe_fault(
    name: str,
    row: int,
    tier: Literal["A", "B", "C"],
    source: str,
    cause: str | None,
    severities: Severities,
    *,
    inject: Injection = recipe_change,
    probe: Probe = "recorded",
    caught_by: tuple[str, ...] = _SAME_SHAPE,
    reaches_reference: bool = False,
    invisible: str = "",
) -> Fault:
    return Fault(
        name=name,
        row=row,
        tier=tier,
        stage="front end",
        source=source,
        inject=inject,
        severities=severities,
        caught_by=() if invisible else caught_by,
        cause=cause,
        probe=probe,
        reaches_reference=reaches_reference,
        visible=not invisible,
        reason=invisible,
    )


def _each(name: str, *values: float | str) -> Severities:
    """Return several values of one attribute of the recipe, each labelled by itself."""
    return [(v if isinstance(v, str) else f"{v:g}", {name: v}) for v in values]


_MATCHA = (-5.536622, 2.116101)

RECIPE_FAULTS: tuple[Fault, ...] = (
    _recipe_fault(
        "mel-of-bigvgan",
        1,
        "A",
        "F5-TTS #654",
        "profile:bigvgan-24k",
        [
            (
                "24k-100",
                {
                    "mel_scale": "slaney",
                    "norm": "slaney",
                    "padding": "same",
                    "magnitude_eps": 1e-9,
                    "floor": 1e-5,
                },
            )
        ],
        caught_by=_OTHER_SHAPE,
    ),
    _recipe_fault(
        "slaney-scale", 3, "A", "pytorch/audio #1058", "mel-scale", _each("mel_scale", "slaney")
    ),
    _recipe_fault(
        "slaney-norm", 4, "A", "pytorch/audio #287", "filter-norm", _each("norm", "slaney")
    ),
    _recipe_fault("log10", 5, "A", "DiffSinger #195", "log-base", [("log10", {"log_base": "10"})]),
    _recipe_fault(
        "decibels",
        5,
        "A",
        "tacotron2 #379",
        "decibels",
        [
            ("20log10", {"log_base": "10", "log_scale": 20.0}),
            ("20log10-floor-1e-5", {"log_base": "10", "log_scale": 20.0, "floor": 1e-5}),
        ],
        caught_by=("range", "extract", "golden-encoded", "golden-reconstructed"),
    ),
    _recipe_fault(
        "normalised",
        6,
        "A",
        "Matcha-TTS #9",
        "normalisation",
        [
            ("matcha", {"mean": _MATCHA[0], "std": _MATCHA[1]}),
            ("to-unit-range", {"mean": -5.0, "std": 7.0}),
            ("tenth", {"std": 10.0}),
        ],
    ),
    _recipe_fault(
        "padding",
        8,
        "A",
        "vocos #18",
        "padding",
        _each("padding", "same", "none"),
        caught_by=_OTHER_SHAPE,
    ),
    _recipe_fault(
        "last-frame-dropped",
        8,
        "A",
        "hifi-gan #53",
        None,
        [("one", {"tail": "drop_last"})],
        caught_by=_OTHER_SHAPE,
    ),
    _recipe_fault(
        "floor-too-high",
        10,
        "A",
        "kokoro-ruslan #85",
        "floor",
        [("1e-5", {"floor": 1e-5}), ("1e-4", {"floor": 1e-4})],
        probe="pause",
        caught_by=("extract",),
    ),
    _recipe_fault(
        "floor-too-low",
        10,
        "A",
        "kokoro-ruslan #85",
        "floor",
        [("1e-9", {"floor": 1e-9}), ("1e-10", {"floor": 1e-10})],
        probe="pause",
        caught_by=("range",),
    ),
    _recipe_fault(
        "floor-without-silence",
        10,
        "A",
        "F5-TTS modules.py",
        None,
        [("1e-5", {"floor": 1e-5}), ("1e-9", {"floor": 1e-9})],
        probe="hiss",
        invisible="No cell is as low as either floor, so both mels are one.",
    ),
    _recipe_fault(
        "magnitude-eps",
        10,
        "A",
        "hifi-gan meldataset.py",
        "magnitude-eps",
        [("1e-6", {"magnitude_eps": 1e-6}), ("1e-5", {"magnitude_eps": 1e-5})],
    ),
    _recipe_fault("power", 12, "A", "hifi-gan #170", "power", [("2", {"power": 2.0})]),
    _recipe_fault(
        "hop-length",
        15,
        "B",
        "F5-TTS #491",
        "hop-length",
        _each("hop_length", 240, 300, 128),
        caught_by=_OTHER_SHAPE,
    ),
    _recipe_fault(
        "n-fft",
        15,
        "B",
        "UniversalVocoding #3",
        "n-fft",
        [("2048-window-1024", {"n_fft": 2048}), ("2048", {"n_fft": 2048, "win_length": 2048})],
    ),
    _recipe_fault(
        "win-length", 15, "B", "F5-TTS #491", "win-length", _each("win_length", 640, 800, 1000)
    ),
    _recipe_fault(
        "f-max", 16, "B", "FastSpeech2 #37", "f-max", _each("f_max", 7600.0, 8000.0, 11_000.0)
    ),
    _recipe_fault(
        "f-min", 16, "B", "PWG configs (80 to 7600 Hz)", "f-min", _each("f_min", 20.0, 50.0, 80.0)
    ),
    _recipe_fault(
        "filterbank-rate",
        17,
        "B",
        "StarGANv2-VC #56",
        "filterbank-rate",
        [
            ("16000", {"filterbank_rate": 16_000, "f_max": 8000.0}),
            ("16000-beyond-its-half", {"filterbank_rate": 16_000}),
            ("22050", {"filterbank_rate": 22_050, "f_max": 11_025.0}),
            ("48000", {"filterbank_rate": 48_000, "f_max": 24_000.0}),
        ],
        inject=without_warnings,
    ),
    _recipe_fault(
        "pad-mode",
        33,
        "C",
        "pytorch/audio #2208",
        "pad-mode",
        _each("pad_mode", "constant", "replicate"),
        probe="hiss",
        caught_by=("extract",),
    ),
    _recipe_fault(
        "pad-mode-at-silent-edges",
        33,
        "C",
        "librosa PR #1382",
        None,
        _each("pad_mode", "constant", "replicate"),
        probe="silent edges",
        invisible="Mirrored, repeated and inserted zeros are all zeros.",
    ),
    _recipe_fault(
        "window",
        34,
        "C",
        "mlx-audio #920",
        "window",
        [
            ("symmetric", {"periodic": False}),
            ("hamming", {"window": "hamming"}),
            ("sqrt-hann", {"window": "sqrt_hann"}),
            ("rectangular", {"window": "rectangular"}),
        ],
    ),
    _recipe_fault(
        "stft-normalized",
        36,
        "C",
        "speechbrain #1694",
        "stft-normalized",
        [("window", {"normalized": "window"}), ("frame-length", {"normalized": "frame_length"})],
    ),
    _recipe_fault(
        "pre-emphasis",
        37,
        "C",
        "tacotron2 #75",
        "pre-emphasis",
        _each("pre_emphasis", 0.97, 0.9, 0.5),
    ),
    _recipe_fault(
        "no-log",
        50,
        "C",
        "transformer-vocos PR #10",
        "no-log",
        [("linear", {"log_base": None})],
        caught_by=("range", "extract", "golden-encoded", "full-scale", "golden-reconstructed"),
    ),
    _recipe_fault(
        "rounded-hop",
        53,
        "C",
        "VoiceFlow #11",
        "hop-length",
        _each("hop_length", 255, 257),
        caught_by=("extract",),
    ),
    _recipe_fault(
        "empty-bands",
        57,
        "C",
        "librosa #478",
        "n-fft",
        [
            ("n-fft-512", {"n_fft": 512, "win_length": 512}),
            ("n-fft-256", {"n_fft": 256, "win_length": 256}),
        ],
        inject=without_warnings,
    ),
    _recipe_fault(
        "n-mels",
        58,
        "C",
        "hifi-gan #166",
        "n-mels",
        _each("n_mels", 80, 128),
        caught_by=("preflight", "shape", "extract"),
    ),
    _recipe_fault(
        "library-drift",
        56,
        "C",
        "librosa PR #1382",
        None,
        [
            ("window", {"periodic": False}),
            ("filters", {"mel_scale": "slaney"}),
            ("filter-norm", {"norm": "slaney"}),
        ],
        caught_by=("golden-encoded", "golden-reconstructed"),
        reaches_reference=True,
    ),
)
"""Faults of the recipe."""
