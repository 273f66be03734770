"""The names of tags, metrics and files of runs are defined in one module; no other module has them as texts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from ecgexp.tracking import names
from ecgexp.tracking.names import Tag, best_metric, metric_of, short, split_metric, split_of, where

SOURCE = Path(__file__).resolve().parents[2] / "src"
NAMES = SOURCE / "ecgexp" / "tracking" / "names.py"
MODULES = {
    path.relative_to(SOURCE).as_posix().removeprefix("ecgexp/"): path
    for path in sorted(set(SOURCE.rglob("*.py")) - {NAMES})
}
# Where a word is the name of something else. A module's path begins with one of those given.
SAME_WORD: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "a column of a table of trials, some of which hold a tag": (
        ("reports/", "commands/report.py", "sweeps/session.py"),
        {"diverged", "epochs", "error", "pruned", "reused_from_commit", "run_id", "sweep", "trial", "warning"},
    ),
    "a line of a report, or a key of a file, that no run has": (
        ("reports/", "commands/"),
        {"device", "error", "objective", "reported", "warning"},
    ),
    "a key of the configuration, or an argument of a command": (
        ("commands/", "config/", "reports/", "report.py", "search/", "training/", "trials/"),
        {"fixed", "lr", "objective", "precision", "seed", "sweep", "threads", "trial"},
    ),
    "how a trial stands on the board of a running sweep": (("sweeps/",), {"diverged", "pruned"}),
    "a part of what is hashed": (("trials/identity.py",), {"cell", "code", "device"}),
    "a key of a checkpoint": (("training/callbacks.py",), {"best_epoch", "epochs"}),
    "a word of a sentence": (
        ("tracking/runs.py", "tracking/test_access.py"),
        {"code", "device", "precision", "sweep", "threads"},
    ),
    "a file of conf/": (("tracking/trust.py",), {"config.yaml"}),
    "a package": (("tracking/",), {"torch"}),
    "a column of a data set, or a word of its files": (("datasets/",), {"device", "identity", "seed", "warning"}),
    "a metric": (("metrics/", "targets/", "commands/evaluate.py"), {"precision"}),
}
# A part of a name that functions of the module put together, where it begins a text or follows no letter.
PARTS = re.compile(
    r"(?<!\w)((best|tuned|system|train|val|test|look|looks|evaluation|params)/|reports/\w|labels_left_out/"
    r"|predictions_|tags\.|attributes\.status)"
)


def values() -> set[str]:
    """All names: public constants of the module, and of its classes."""
    holders = [names, *(value for value in vars(names).values() if isinstance(value, type))]
    found = {value for one in holders for key, value in vars(one).items() if not key.startswith("__")}
    return {value for value in found if isinstance(value, str)}


KNOWN = values()
# Such a name is no word of a sentence, so it may stand in no longer text either.
WITHIN = re.compile(
    rf"(?<!\w)({'|'.join(re.escape(name) for name in sorted(KNOWN) if re.search('[._/]', name))})(?![\w.])"
)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Texts in a module's code, also those within f-strings; neither docstrings nor what a door's --help prints."""
    tree = ast.parse(path.read_text())
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in told:
            continue
        if "\n\n  python -m ecgexp" not in node.value:
            yield node.lineno, node.value


def same_word(module: str, text: str) -> str | None:
    return next((why for why, (where, words) in SAME_WORD.items() if text in words and module.startswith(where)), None)


@pytest.mark.parametrize("module", MODULES)
def test_no_other_module_contains_such_a_name(module):
    found = [
        f"line {line}: {text!r}"
        for line, text in texts(MODULES[module])
        if (text in KNOWN and same_word(module, text) is None)
        or (text not in KNOWN and (WITHIN.search(text) or PARTS.search(text)))
    ]
    assert not found, f"{module}: take these from ecgexp.tracking.names: {'; '.join(found)}"


def test_each_exception_is_needed():
    used = {
        (why, text)
        for module, path in MODULES.items()
        for _, text in texts(path)
        if text in KNOWN and (why := same_word(module, text)) is not None
    }
    assert {(why, word) for why, (_, words) in SAME_WORD.items() for word in words} - used == set()


@pytest.mark.parametrize("holder", [names.Kind, names.Status, names.Tag, names.File, names.Attribute])
def test_no_two_names_are_one(holder):
    kept = [value for key, value in vars(holder).items() if not key.startswith("__")]
    assert len(set(kept)) == len(kept)


def test_mlflows_own_tags_are_those_of_mlflow():
    assert Tag.PARENT == MLFLOW_PARENT_RUN_ID


@pytest.mark.parametrize("metric", ["loss", "mlcm_f1_macro", "f1/NORM"])
def test_a_metric_is_found_in_its_name(metric):
    for name in (split_metric("val", metric), best_metric("val", metric)):
        assert (split_of(name), metric_of(name)) == ("val", metric)
    assert short(best_metric("val", metric)) == split_metric("val", metric)


def test_what_is_of_no_split_has_no_metric_of_one():
    assert metric_of("parameters") == ""


def test_filters_find_runs_by_tags_and_status():
    assert (
        where({"a": "1", "b.c": "2"}, "KILLED")
        == "tags.`a` = '1' and tags.`b.c` = '2' and attributes.status = 'KILLED'"
    )
