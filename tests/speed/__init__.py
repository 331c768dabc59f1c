"""Tests of optimised and batched computation."""
