"""Statistics of a user's own over the results of a sweep."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from ecgexp.commands.report import read_report
from ecgexp.config.build import build_statistics
from ecgexp.errors import UserError
from ecgexp.reports.page import write_report
from ecgexp.reports.statistics import compute_statistics, lines_of, read_statistics, write_statistics
from ecgexp.reports.tables import sweep_results
from ecgexp.sweeps import session
from ecgexp.sweeps.session import _Plan
from ecgexp.tracking.names import File
from ecgexp.tracking.run import Run
from ecgexp.tracking.runs import find_sweeps
from sweeps import Sweep, new_store

F1 = "best/val/mlcm_f1_macro"
RESULTS = pd.DataFrame({"trial": [0, 1, 2], F1: [0.5, 0.7, 0.6]})


class Spread:
    """How far the trials are apart."""

    def __init__(self, digits: int = 2) -> None:
        self.digits = digits

    def __call__(self, results, objective):
        return f"{objective} spreads over {results[objective].max() - results[objective].min():.{self.digits}f}."


def by_half(results, objective):
    return results.groupby(results["trial"] > 0)[[objective]].mean().rename_axis("later").assign(n=[1, 2], sd=np.nan)


def breaks(results, objective):
    results[objective] = 0.0  # it changes only a copy of the table
    raise ArithmeticError("no\nvariance")


def leaves(results, objective):
    sys.exit("gone")


def test_a_sentence_and_a_table_are_saved_and_shown(tmp_path):
    found = compute_statistics({"spread": Spread(), "halves": by_half}, RESULTS, F1)
    write_statistics(tmp_path / File.STATISTICS, found)
    assert read_statistics(tmp_path / File.STATISTICS) == found
    spread, halves = found.found
    assert (found.trials, spread.sentence) == (3, f"{F1} spreads over 0.20.")
    assert halves.columns == ["later", F1, "n", "sd"]
    assert halves.rows == [["False", pytest.approx(0.5), 1, None], ["True", pytest.approx(0.65), 2, None]]
    message = lines_of(found.found)
    assert f"spread: {F1} spreads over 0.20." in message
    assert "0.65" in message


@pytest.mark.parametrize(
    ("statistic", "sentence"),
    [
        (breaks, "The statistic 'mine' failed: ArithmeticError: no."),
        (leaves, "The statistic 'mine' failed: SystemExit: gone."),
        (lambda results, objective: 0.5, "The statistic 'mine' returned float: return a sentence"),
        (lambda results, objective: " ", "The statistic 'mine' returned str: return a sentence"),
        (lambda results, objective: pd.DataFrame({"a": range(51)}), "a table of 51 rows and 1 columns: return 1 to 50"),
        (lambda results, objective: results[:0], "a table of 0 rows and 2 columns"),
    ],
)
def test_a_failing_statistic_is_reported_and_the_others_are_computed(statistic, sentence):
    before = RESULTS.copy()
    first, second = compute_statistics({"mine": statistic, "spread": Spread()}, RESULTS, F1).found
    assert sentence in first.sentence
    assert not first.columns
    assert second.sentence.startswith(F1)
    pd.testing.assert_frame_equal(RESULTS, before)


@pytest.mark.parametrize("content", ["", "[]", '{"trials": 1}', '{"trials": 1, "found": [{"name": "a"}]}', "\xff"])
def test_a_damaged_file_is_reported(tmp_path, content):
    (tmp_path / File.STATISTICS).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"statistics\.json is damaged"):
        read_statistics(tmp_path / File.STATISTICS)


@pytest.mark.parametrize(
    ("component", "message"),
    [({"_target_": "builtins.dict"}, "dict, which cannot be called"), ({"_target_": "builtins.int", "base": 3}, "int")],
)
def test_what_cannot_be_built_or_called_is_named_before_a_trial(component, message):
    with pytest.raises(UserError, match=message):
        build_statistics(OmegaConf.create({"statistics": {"mine": component}}))


def report_at_end(sweep, statistics):
    cfg = {"objective": F1, "tracking": {"log_model": "none"}, "statistics": statistics}
    plan = _Plan(OmegaConf.create(cfg), "made", [["lr=0.1"], ["lr=0.2"]], None)
    with Run(sweep.store, "made", {}, continues=sweep.store.client.get_run(sweep.parent)) as run:
        session._report(run, plan)


@pytest.mark.slow
def test_a_sweep_computes_them_at_its_end_and_the_report_reads_them(tmp_path, capsys):
    sweep = Sweep(new_store(tmp_path))
    for number in (1, 2):
        sweep.trial(f"lr=0.{number}", skill=number / 2)
    values = sweep_results(sweep.store, sweep.parent)[F1]
    spread = f"spread: {F1} spreads over {values.max() - values.min():.3f}."
    here = {"_target_": f"{__name__}.Spread", "digits": 3}
    broken = {"_target_": f"{__name__}.breaks", "_partial_": True}
    report_at_end(sweep, {"spread": here, "<b>broken": broken})
    printed = capsys.readouterr().out
    assert spread in printed
    assert "The statistic '<b>broken' failed: ArithmeticError: no." in printed
    assert "Best: trial 1" in printed
    page = page_of(sweep, tmp_path / "first")
    assert "from its 2 trials" in page
    assert page.count(spread) == 1
    assert "&lt;b&gt;broken" in page
    assert "<b>broken" not in page

    report_at_end(sweep, {})  # whose table may be another one
    assert "Statistics of your own" not in page_of(sweep, tmp_path / "second")


def page_of(sweep, folder):
    folder.mkdir(exist_ok=True)
    write_report(folder, read_report(sweep.store, find_sweeps(sweep.store, [])))
    return (folder / "report.html").read_text()
