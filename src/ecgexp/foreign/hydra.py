"""Private API of Hydra, checked with 1.3.8 (pyproject: ~=1.3.2)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn

GRID_SWEEPER = BasicSweeper.__name__
"""Name of Hydra's default sweeper, which runs a grid; configurations name it by its private path."""


def argument_parser() -> argparse.ArgumentParser:
    """The parser of Hydra's command line: we need its result before `hydra.main` acts on it."""
    return get_args_parser()


def grid_cells(overrides: Sequence[Override]) -> list[list[str]]:
    """Overrides of each job that Hydra's own sweeper would launch, in order; no public function lists them."""
    (cells,) = BasicSweeper.split_arguments(list(overrides), None)
    return cells


def outcome(job: JobReturn) -> Any:
    """The return value or the exception of a job; `JobReturn.return_value` would print the exception."""
    return job._return_value
