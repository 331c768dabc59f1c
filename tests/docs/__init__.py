"""README and docs, held against the code."""
