"""Chromium for tests that look at a page; skipped where it is absent.

They need Chromium and its driver (Debian: `apt-get install chromium chromium-driver`) and selenium.
Where these are absent the tests are skipped; MELCHECK_REQUIRE_BROWSER=1 in the environment makes
that a failure.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

REQUIRED = os.environ.get("MELCHECK_REQUIRE_BROWSER") == "1"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)


def absent(reason: str) -> None:
    if REQUIRED:
        pytest.fail(f"a browser is required and missing: {reason}", pytrace=False)
    pytest.skip(f"no browser: {reason}")


def screen(driver: Any, *, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(driver: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
