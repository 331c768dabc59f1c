"""melcheck: the pre-flight check of the loop audio -> mel -> audio, for those who train TTS.

The names below are imported when they are first used, so that `import melcheck` costs nothing and
does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from melcheck._version import __version__ as __version__

if TYPE_CHECKING:
    from melcheck.audio import AudioError as AudioError
    from melcheck.config import MelCheckConfig as MelCheckConfig
    from melcheck.diagnosis.batch import check_batch as check_batch
    from melcheck.diagnosis.diagnose import diagnose as diagnose
    from melcheck.diagnosis.handshake import handshake as handshake
    from melcheck.diagnosis.identify import identify as identify
    from melcheck.diagnosis.waveform import explain_waveform as explain_waveform
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
    from melcheck.vocoders.load import load_vocoder as load_vocoder
    from melcheck.vocoders.weights import VocoderError as VocoderError
    from melcheck.vocoders.weights import VocoderUnavailable as VocoderUnavailable

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
    "VocoderError": "vocoders.weights",
    "VocoderUnavailable": "vocoders.weights",
    "check_batch": "diagnosis.batch",
    "compare": "metrics",
    "diagnose": "diagnosis.diagnose",
    "explain_waveform": "diagnosis.waveform",
    "handshake": "diagnosis.handshake",
    "identify": "diagnosis.identify",
    "judge": "sanity",
    "load_vocoder": "vocoders.load",
    "log_mel": "recipes",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'melcheck' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"melcheck.{_HOMES[name]}")
    except Exception:
        from melcheck.environment import UnfitEnvironmentError, torch_fault

        fault = torch_fault()
        if fault is None:
            raise
        raise UnfitEnvironmentError(fault) from None
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
