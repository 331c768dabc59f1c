"""Comparisons with peers; not in the wheel."""
