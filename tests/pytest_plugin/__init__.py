"""Tests of the pytest plugin, in projects of a user's."""
