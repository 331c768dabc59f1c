"""Comparisons of melcheck with other packages, for who develops it; not in the wheel."""
