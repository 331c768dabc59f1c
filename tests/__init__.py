"""Tests of melcheck, and in `suite` the suite that it gives to its users, on its own clips."""
