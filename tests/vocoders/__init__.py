"""Tests of loading and running vocoders."""
