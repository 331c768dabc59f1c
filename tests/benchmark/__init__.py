"""Tests of the benchmark and of the speed gate."""
