"""Runs in MLflow: names, store, files, trained models and test-set access."""
