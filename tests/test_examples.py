"""The examples in the docstrings of this package are right, and the libraries have one for each function and net."""

from __future__ import annotations

import doctest
from importlib import import_module
from inspect import isfunction
from pathlib import Path

import pytest
from torch import nn

import ecgexp

PACKAGE = Path(ecgexp.__file__).parent
# Found in their text, so that nothing is imported for those without.
WITH_EXAMPLES = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples(path):
    module = import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    failed, attempted = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert attempted > 0
    assert failed == 0


@pytest.mark.parametrize("name", ["losses", "models", "statistics"])
def test_functions_and_modules_of_a_library_have_an_example(name):
    library = import_module(f"ecgexp.{name}")
    public = [getattr(library, name) for name in getattr(library, "__all__", vars(library)) if name[0] != "_"]
    without = [
        member.__name__
        for member in public
        if isfunction(member) or (isinstance(member, type) and issubclass(member, nn.Module))
        if member.__module__.startswith("ecgexp.") and ">>> " not in (member.__doc__ or "")
    ]
    assert without == []
