"""What the plugin keeps with pytest's configuration, and how its parts find it."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from melcheck.config import MelCheckConfig
    from melcheck.diagnosis.handshake import Handshake
    from melcheck.pipeline import RoundTrip
    from melcheck.pytest_plugin.plan import Plan
    from melcheck.recipes import MelRecipe

__all__ = [
    "HANDSHAKES",
    "PLAN",
    "REFUSED",
    "TRIPS",
    "Handshakes",
    "RoundTrips",
    "is_worker",
    "plan_of",
]

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
