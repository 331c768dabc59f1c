"""The version of melcheck, where the ground floor can read it."""

__version__ = "0.1.0"
