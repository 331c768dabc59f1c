"""Rows of an invented corpus, the same for the same seed."""

from __future__ import annotations

import numpy as np

from melcheck.audit.model import Row


def rows(count: int, *, seed: int = 0, failing: float = 0.01, groups: int = 0) -> list[Row]:
    """Return rows of which a share fails; the last group fails ten times as often."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        group = index % groups if groups else 0
        often = failing * (10 if groups and group == groups - 1 else 1)
        failed = bool(rng.random() < often)
        mae = rng.gamma(60, 0.0022) + 0.1 * failed
        level = rng.normal(-24, 5)
        found.append(
            Row(
                index=index,
                name=f"clip-{index:05d}",
                path=f"clips/clip-{index:05d}.wav",
                group=f"speaker-{group:02d}" if groups else "",
                duration_seconds=float(rng.gamma(4, 1.5)),
                sample_rate=24_000,
                channels=1,
                outcome="failed" if failed else "passed",
                cause=("level" if rng.random() < 0.3 else "silence") if failed else "",
                reason="MAE 0.213 must be below 0.2" if failed else "",
                mae=float(mae),
                mse=float(2 * mae**2),
                max_abs_diff=float(20 * mae),
                snr_db=float(24 - 20 * np.log10(mae / 0.13) - (level + 24) / 5),
                pearson=float(1 - mae / 50),
                centred_snr_db=float(18 - 20 * np.log10(mae / 0.13)),
                reference_floor_share=float(rng.beta(1, 30)),
                stft_distance=float(5 * mae),
                bandwidth_hz=float(rng.choice([8_000.0, 11_025.0, 12_000.0], p=[0.1, 0.3, 0.6])),
                level_dbfs=float(level),
            )
        )
    return found
