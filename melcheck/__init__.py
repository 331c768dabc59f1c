"""melcheck: the pre-flight check of the loop audio -> mel -> audio, for those who train TTS.

The names below are imported when they are first used, so that `import melcheck` costs nothing and
does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from melcheck.audio import AudioError as AudioError
    from melcheck.bare import identify as identify
    from melcheck.config import MelCheckConfig as MelCheckConfig
    from melcheck.forensics import diagnose as diagnose
    from melcheck.handshakes import handshake as handshake
    from melcheck.metrics import MelMetrics as MelMetrics
    from melcheck.metrics import compare as compare
    from melcheck.pipeline import MelPipeline as MelPipeline
    from melcheck.pipeline import RoundTrip as RoundTrip
    from melcheck.recipes import VOCOS as VOCOS
    from melcheck.recipes import MelRecipe as MelRecipe
    from melcheck.recipes import log_mel as log_mel
    from melcheck.sanity import Thresholds as Thresholds
    from melcheck.sanity import Verdict as Verdict
    from melcheck.sanity import judge as judge
    from melcheck.vocoders import VocoderError as VocoderError
    from melcheck.vocoders import VocoderUnavailable as VocoderUnavailable
    from melcheck.vocoders import load_vocoder as load_vocoder
    from melcheck.waveform_forensics import explain_waveform as explain_waveform

_HOMES = {
    "AudioError": "audio",
    "MelCheckConfig": "config",
    "MelMetrics": "metrics",
    "MelPipeline": "pipeline",
    "MelRecipe": "recipes",
    "RoundTrip": "pipeline",
    "Thresholds": "sanity",
    "VOCOS": "recipes",
    "Verdict": "sanity",
    "VocoderError": "vocoders",
    "VocoderUnavailable": "vocoders",
    "compare": "metrics",
    "diagnose": "forensics",
    "explain_waveform": "waveform_forensics",
    "handshake": "handshakes",
    "identify": "bare",
    "judge": "sanity",
    "load_vocoder": "vocoders",
    "log_mel": "recipes",
}

__version__ = "0.1.0"

__all__ = [
    "VOCOS",
    "AudioError",
    "MelCheckConfig",
    "MelMetrics",
    "MelPipeline",
    "MelRecipe",
    "RoundTrip",
    "Thresholds",
    "Verdict",
    "VocoderError",
    "VocoderUnavailable",
    "compare",
    "diagnose",
    "explain_waveform",
    "handshake",
    "identify",
    "judge",
    "load_vocoder",
    "log_mel",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'melcheck' has no attribute {name!r}")
    return getattr(importlib.import_module(f"melcheck.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
