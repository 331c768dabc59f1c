"""The product's own suite on the fixtures: `pytest -m sanity`, `shapes`, `golden`, `artifacts`."""
