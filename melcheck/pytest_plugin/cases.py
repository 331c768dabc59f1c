"""What the fixtures of several cases share: round trips, handshakes, and what is absent.

What the plugin keeps with pytest's configuration, and how its parts find it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from melcheck.config import MelCheckConfig
    from melcheck.diagnosis.causes import Explanation
    from melcheck.diagnosis.handshake import Handshake
    from melcheck.pipeline import MelPipeline, RoundTrip
    from melcheck.pytest_plugin.plan import Plan
    from melcheck.recipes import MelRecipe
    from melcheck.vocoders.base import Vocoder


RoundTrips = OrderedDict[tuple["MelCheckConfig", str, str], "RoundTrip"]
"""Round trips that tests share, by configuration, vocoder and device."""

Handshakes = dict["MelRecipe", "Handshake"]
"""Handshakes of the run's front end, by the recipe of the vocoder."""

PLAN = pytest.StashKey["Plan"]()
TRIPS = pytest.StashKey[RoundTrips]()
HANDSHAKES = pytest.StashKey[Handshakes]()
REFUSED = pytest.StashKey[str]()


def plan_of(config: pytest.Config) -> Plan:
    """Return the plan of a run that has one."""
    return config.stash[PLAN]


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


# One round trip of 3 s takes about 1 MB.
_CACHED_TRIPS = 64


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


def round_trip_of(config: pytest.Config, pipeline: MelPipeline) -> RoundTrip:
    """Return the round trip of a pipeline's clip, made once; fails where there can be none."""
    from melcheck.speed.long_audio import round_trip_of_file

    trips = config.stash.setdefault(TRIPS, OrderedDict())
    key = (pipeline.config, pipeline.vocoder.info.name, str(pipeline.device))
    if key not in trips:
        try:
            trips[key] = round_trip_of_file(pipeline)
            trips[key].metrics()  # mels that do not line up cannot be measured
        except (ValueError, OSError) as error:
            trips.pop(key, None)
            reason = str(error)
        else:
            reason = ""
        if reason:
            told = front_end_fault(config, pipeline.vocoder)
            pytest.fail(f"{reason}\nlikely cause: {told}" if told else reason, pytrace=False)
        while len(trips) > _CACHED_TRIPS:
            trips.popitem(last=False)
    return trips[key]


def handshake_of(config: pytest.Config, vocoder: Vocoder) -> Handshake:
    """Return the front end's handshake with the recipe of a vocoder, made once."""
    from melcheck.diagnosis.handshake import handshake

    frontend = plan_of(config).frontend
    if frontend is None:
        pytest.fail("no front end to try. Name one with --mel-frontend MODULE:NAME.", pytrace=False)
    found: Handshakes = config.stash.setdefault(HANDSHAKES, {})
    recipe = vocoder.recipe
    if recipe not in found:
        speech = plan_of(config).speech(recipe)
        found[recipe] = handshake(frontend, expected=recipe, speech=speech)
    return found[recipe]


def front_end_fault(config: pytest.Config, vocoder: Vocoder) -> Explanation | None:
    """Return what is wrong with the front end; None where nothing is, or where there is none."""
    from melcheck.diagnosis.handshake import explain_front_end

    frontend = plan_of(config).frontend
    if frontend is None:
        return None
    return explain_front_end(frontend.name, handshake_of(config, vocoder))
