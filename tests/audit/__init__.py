"""Tests of audits of a corpus."""
