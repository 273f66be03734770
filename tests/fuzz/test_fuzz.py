"""Damaged files and odd command lines: one sentence or the right result, and nothing else.

Each input is made by a generator that is seeded by its name and number, so that every failure can be had again. Inputs
are read in processes of their own: one that never returns, or ends the process, is a failure like any other.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random

import command_lines
import pytest
from _pytest.mark import ParameterSet
from fuzzed import TARGETS, Damage, Target
from hydra._internal.utils import get_args_parser

from ecgexp import CONF
from ecgexp.commands.plan import plan
from ecgexp.config.resolvers import register_resolvers
from ecgexp.config.schema import check
from ecgexp.errors import UserError

CHUNK = 30
COMMAND_LINES = 120
WORDS_AT_DOORS = 30
SHARE = 3  # of the chunks that are too many for `make test`, every third is in it
LIMIT = 30  # seconds for one input: an idle machine needs 1.5 for the longest
QUICK = ("headers", "signals", "segments", "tables of labels", "caches", "predictions", "journals", "keys")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str], tuple[Path, object]]:
    """Whole files of a target, and what is read from them; made once per process."""
    made: dict[str, tuple[Path, object]] = {}

    def get(name: str) -> tuple[Path, object]:
        if name not in made:
            folder = tmp_path_factory.mktemp("whole") / "files"
            folder.mkdir()
            TARGETS[name].make(folder)
            made[name] = folder, TARGETS[name].read(shutil.copytree(folder, folder.with_name("read")))
        return made[name]

    return get


def chunks(inputs: int, *more: object) -> Iterator[ParameterSet]:
    for number, start in enumerate(range(0, inputs, CHUNK)):
        marks = (pytest.mark.full,) if number % SHARE else ()
        yield pytest.param(*more, start, min(start + CHUNK, inputs), marks=marks)


DAMAGED = [chunk for name, target in TARGETS.items() for chunk in chunks(target.inputs, name)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "start", "end"), DAMAGED)
def test_damaged_files(name, start, end, whole, tmp_path):
    check_all(range(start, end), partial(problem_with_file, name, *whole(name), tmp_path))


@pytest.mark.parametrize("name", QUICK)
def test_some_damaged_files(name, whole, tmp_path):
    check_all(range(-4, 0), partial(problem_with_file, name, *whole(name), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("start", "end"), chunks(COMMAND_LINES))
def test_odd_command_lines(start, end, tmp_path):
    check_all(range(start, end), partial(problem_with_words, command_lines.training, compose, tmp_path))


def test_some_odd_command_lines(tmp_path):
    check_all(range(-4, 0), partial(problem_with_words, command_lines.training, compose, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("door", command_lines.DOORS)
def test_odd_words_at_other_doors(door, tmp_path):
    for name in (door, "reports.page", "tracking.restore"):  # which takes longer than any input
        import_module(f"ecgexp.{name}")
    words, enter = partial(command_lines.door, door), partial(open_door, door)
    check_all(range(WORDS_AT_DOORS), partial(problem_with_words, words, enter, tmp_path))


# --- one input


def problem_with_file(name: str, whole: Path, right: object, scratch: Path, number: int) -> str | None:
    """What is wrong with how a damaged file is met; None where nothing is."""
    target, rng = TARGETS[name], Random(f"{name} {number}")
    folder = shutil.copytree(whole, scratch / str(number))
    damage = rng.choice(target.damage)
    path = rng.choice(sorted(path for path in folder.glob(damage.files) if path.is_file()))
    mutator = rng.choice(damage.mutators)
    path.write_bytes(mutator(rng, path.read_bytes()))
    os.chdir(scratch)
    problem = _met(lambda: _read(target, damage, folder, right), path)
    shutil.rmtree(folder)
    return problem and f"{name} {number}, {mutator.__name__} of {path.relative_to(folder)}: {problem}"


def _read(target: Target, damage: Damage, folder: Path, right: object) -> None:
    try:
        found = target.read(folder)
    except UserError as error:
        assert not damage.same, f"refused, although it means the same: {error}"
        raise
    assert found == right or not (damage.same or damage.checked), "another result, without a word"


def problem_with_words(
    words: Callable[[Random], list[str]], enter: Callable[[list[str]], object], folder: Path, number: int
) -> str | None:
    """What is wrong with how a command line is met; None where nothing is, as of a good one."""
    given = words(Random(f"{number}"))
    os.chdir(folder)
    problem = _met(lambda: enter(given), None)
    return problem and f"{number}, {given}: {problem}"


def compose(words: list[str]) -> None:
    """What the command does before it trains anything."""
    register_resolvers()
    asked = plan(CONF, get_args_parser().parse_args(words))
    for cfg in asked.configurations:
        check(cfg)
        if asked.search is not None:
            asked.search.check_together(cfg)


def open_door(door: str, words: list[str]) -> None:
    module = import_module(f"ecgexp.{door}")
    if door == "datasets.download":
        module.__dict__["download"] = lambda *_, **__: sys.exit("Nothing is downloaded here.")
    sys.argv[:] = [door, *words]
    sys.exit(module.main())


def _met(act: Callable[[], object], path: Path | None) -> str | None:
    """What is wrong with how something ends."""
    try:
        with limit(LIMIT):
            act()
    except UserError as error:
        return _lacking(str(error), path)
    except AssertionError as error:
        return str(error) or _where(error)
    except SystemExit as stop:
        return _lacking(stop.code, path) if isinstance(stop.code, str) else None
    except BaseException as error:
        return _where(error)
    return None


def _lacking(text: str, path: Path | None) -> str | None:
    """What a sentence lacks."""
    if not text.isprintable() or not 20 < len(text) < 2100:
        return f"not one printable line of 20 to 2100 characters: {text!r}"
    if "Traceback" in text or "<class" in text:
        return f"words of Python: {text}"
    if path is not None and not re.search(rf"{re.escape(path.stem)}|{re.escape(path.parent.name)}|'[\w.]+'", text):
        return f"names neither file nor key: {text}"
    return None


def _where(error: BaseException) -> str:
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/ecgexp/" in frame.filename]
    place = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}: {error}{place}"


class Hang(BaseException):
    """More time than any input may take."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    def stop(*_):
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# --- many inputs


def check_all(numbers: range, find_problem: Callable[[int], str | None]) -> None:
    """Fail with the problems of all numbers, found in a process of their own, or in several where one ends it."""
    problems: list[str] = []
    left = list(numbers)
    while left:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(writer, left, find_problem)
        os.close(writer)
        for problem in _answers(reader):
            left.pop(0)
            problems += [problem] if problem else []
        if left:
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if left:
            problems.append(f"{left.pop(0)} ended its process, or never returned ({status})")
    assert not problems, f"{len(problems)} of {len(numbers)}\n" + "\n".join(problems)


def _work(writer: int, numbers: list[int], find_problem: Callable[[int], str | None]) -> None:
    try:
        logging.disable()
        for number in numbers:
            os.write(writer, (json.dumps(find_problem(number)) + "\n").encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _answers(reader: int) -> Iterator[str | None]:
    """What is written to a pipe, until that is closed, or for too long nothing is."""
    text = b""
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], 2 * LIMIT)[0] and (part := pipe.read(1 << 16)):
            *lines, text = (text + part).split(b"\n")
            yield from map(json.loads, lines)
