"""Where a run's figures come from: the audio, the vocoder, the mel's recipe, the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["AudioSource", "Environment", "RecipeSource", "VocoderSource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSource:
    """The file of a case.

    Attributes:
        file: Its name, without folders.
        sha256: Hash of the file.
        sample_rate: Hz of the file.
        channels: Of the file; their mean went round.
        seconds: Length of the whole file; NaN where its header does not say.
        checked_seconds: How much of it went round.
        decoder: What read it.
    """

    file: str
    sha256: str
    sample_rate: int
    channels: int
    seconds: float
    checked_seconds: float
    decoder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderSource:
    """Which vocoder exactly; fields as in `melcheck.vocoders.base.VocoderInfo`, and its label."""

    label: str
    name: str
    source: str
    revision: str | None
    weights_sha256: str | None
    config_sha256: str | None
    num_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSource:
    """What the mels of a run mean.

    Attributes:
        digest: Names it in `CaseResult.recipe`.
        text: Every number, in words.
        sample_rate: Hz.
        frames_per_second: Of the mel.
        log_floor: Its smallest value, nats.
        band_centres_hz: Where each band peaks, lowest first.
    """

    digest: str
    text: str
    sample_rate: int
    frames_per_second: float
    log_floor: float
    band_centres_hz: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where, when and how a run was made.

    Attributes:
        command: The command line.
        finished: Time in UTC, ISO 8601 with seconds.
        platform: Operating system and architecture.
        versions: Of melcheck, Python, torch, torchaudio and vocos, by name.
        devices: What each device of the run is called, by its name in the cases.
    """

    command: str
    finished: str
    platform: str
    versions: Mapping[str, str]
    devices: Mapping[str, str]
