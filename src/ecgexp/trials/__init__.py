"""One trial: its identity, whether it was trained before, its training and its record."""
