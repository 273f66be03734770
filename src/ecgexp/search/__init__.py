"""Searches: by stages, and with Optuna."""
