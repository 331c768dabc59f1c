"""Regression: the statistics of each clip's mel are those on record, before and after the loop."""

from __future__ import annotations

from melcheck.suite import (
    test_extracted_mel_is_on_record,
    test_reconstructed_mel_is_on_record,
)

__all__ = ["test_extracted_mel_is_on_record", "test_reconstructed_mel_is_on_record"]
