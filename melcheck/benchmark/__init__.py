"""How fast the loop runs."""
