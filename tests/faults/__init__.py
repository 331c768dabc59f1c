"""The catalogue of faults, and the gates that must see them."""
