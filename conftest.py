"""Hooks of this repository only; what users get is in `melcheck.plugin`."""

pytest_plugins = ["pytester"]
