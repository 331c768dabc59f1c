"""The plan and the round trips of a run, which its tests share through pytest's configuration."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from melcheck.clips import Clip
    from melcheck.config import MelCheckConfig
    from melcheck.diagnosis.causes import Explanation
    from melcheck.pipeline import MelPipeline, RoundTrip
    from melcheck.plan import Plan

PLAN = pytest.StashKey["Plan"]()
REFUSED = pytest.StashKey[str]()
TRIPS = pytest.StashKey[OrderedDict[tuple["MelCheckConfig", str, str], "RoundTrip"]]()

FOUND = pytest.StashKey[bool]()
"""Set on a test whose fixture has found something of a clip or a stored mel."""
_SAID = pytest.StashKey[set[tuple[str, str]]]()

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


def fail_case(item: pytest.Item, message: str) -> NoReturn:
    """Fail a test from one of its fixtures for what was found of its clip: a failure, no error."""
    item.stash[FOUND] = True
    pytest.fail(message, pytrace=False)


def said_once(config: pytest.Config, cause: Explanation) -> str:
    """Return a cause with what to do about it the first time, and without it from then on."""
    said = config.stash.setdefault(_SAID, set())
    evidence = f" ({cause.evidence})" if cause.evidence else ""
    if (cause.title, cause.fix) in said:
        return f"{cause.title}{evidence}, as above"
    said.add((cause.title, cause.fix))
    return f"{cause.title}{evidence}. {cause.fix}"


def round_trip_of(item: pytest.Item, pipeline: MelPipeline, clip: Clip) -> RoundTrip:
    """Return the round trip of a clip, made once; fail the test where it fails."""
    config = item.config
    from melcheck.files import error_text, one_line, place
    from melcheck.speed.long_audio import round_trip_of_file

    trips = config.stash.setdefault(TRIPS, OrderedDict())
    key = (pipeline.config, pipeline.vocoder.info.name, str(pipeline.device))
    if key not in trips:
        try:
            trips[key] = round_trip_of_file(pipeline)
            trips[key].metrics()  # mels that do not line up cannot be measured
        except (ValueError, OSError) as error:
            trips.pop(key, None)
            reason = clip.problem or error_text(error)
        else:
            reason = ""
        if reason:
            plan, path = plan_of(config), one_line(clip.path)
            cause = plan.stage_fault(pipeline)
            lines = [
                f"{clip.name}: {reason.removeprefix(f'{path}: ')}",
                f"file: {place(clip.source)}, vocoder: {plan.label(pipeline.vocoder.info.name)}",
            ]
            lines += [] if cause is None else [f"likely cause: {said_once(config, cause)}"]
            fail_case(item, "\n".join(lines))
        while len(trips) > _CACHED_TRIPS:
            trips.popitem(last=False)
    return trips[key]
