"""Tests of config, recipes, audio, metrics, verdicts, pipeline, plots."""
