"""Tests of reports and baselines."""
