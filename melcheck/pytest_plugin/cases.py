"""The plan and the round trips of a run, which its tests share through pytest's configuration."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from melcheck.config import MelCheckConfig
    from melcheck.diagnosis.causes import Explanation
    from melcheck.pipeline import MelPipeline, RoundTrip
    from melcheck.plan import Plan

PLAN = pytest.StashKey["Plan"]()
REFUSED = pytest.StashKey[str]()
TRIPS = pytest.StashKey[OrderedDict[tuple["MelCheckConfig", str, str], "RoundTrip"]]()

# One round trip of 3 s takes about 1 MB.
_CACHED_TRIPS = 64


def plan_of(config: pytest.Config) -> Plan:
    """Return the plan of a run that has one."""
    return config.stash[PLAN]


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def absent(request: pytest.FixtureRequest, names: tuple[str, ...], reason: str) -> NoReturn:
    """Fail where one of `names` is required, and skip elsewhere, each with the reason."""
    required = plan_of(request.config).required
    wanted = [name for name in names if name in required or name.split(":")[0] in required]
    if wanted:
        pytest.fail(f"{wanted[0]} is required and missing: {reason}", pytrace=False)
    hint = ""
    if names[0] == "official":
        from melcheck.vocoders.hub import official_in_cache

        hint = "" if official_in_cache() else " `--mel-vocoder official` downloads it."
    pytest.skip(f"{names[0]}: {reason}{hint}")


def _stage_fault(plan: Plan, pipeline: MelPipeline) -> Explanation | None:
    from melcheck.frontends import VocoderWithFrontend

    vocoder = pipeline.vocoder
    if isinstance(vocoder, VocoderWithFrontend):
        vocoder = vocoder.inner
    return plan.stage_fault(vocoder, str(pipeline.device))


def round_trip_of(config: pytest.Config, pipeline: MelPipeline) -> RoundTrip:
    """Return the round trip of a pipeline's clip, made once; fail the test where it fails."""
    from melcheck.files import error_text
    from melcheck.speed.long_audio import round_trip_of_file

    trips = config.stash.setdefault(TRIPS, OrderedDict())
    key = (pipeline.config, pipeline.vocoder.info.name, str(pipeline.device))
    if key not in trips:
        try:
            trips[key] = round_trip_of_file(pipeline)
            trips[key].metrics()  # mels that do not line up cannot be measured
        except (ValueError, OSError) as error:
            trips.pop(key, None)
            reason = error_text(error)
        else:
            reason = ""
        if reason:
            cause = _stage_fault(plan_of(config), pipeline)
            pytest.fail(f"{reason}\nlikely cause: {cause}" if cause else reason, pytrace=False)
        while len(trips) > _CACHED_TRIPS:
            trips.popitem(last=False)
    return trips[key]
