"""The same figures sooner, or for longer audio."""
