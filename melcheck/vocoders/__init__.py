"""Load and run a vocoder."""
