"""A corpus: every clip's round trip, audio and cached mel as a row of a table, and one verdict."""
