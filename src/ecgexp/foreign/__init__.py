"""What this project uses of other libraries beside their public API: here, and nowhere else.

One module for each library, which imports that library alone. Each function says what it does, why the public API
does not do it, and which version it was checked with. `tests/test_foreign.py` has a test of each, to be run before
an upper bound in pyproject.toml is raised.
"""
