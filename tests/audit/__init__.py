"""The audit of a corpus."""
