"""Private API of other libraries; only this package uses it.

Each library has one module, which imports only that library. Each function says what it does and why the public API
does not suffice; each module names the checked version. `tests/test_foreign.py` tests each function; run it before
raising an upper bound in pyproject.toml.
"""
