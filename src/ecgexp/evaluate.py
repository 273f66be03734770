"""``python -m ecgexp.evaluate``: the kept weights of a run on a split, with all that can be said of it."""

from __future__ import annotations

import sys

from ecgexp.commands.arguments import TRACKING, asks_for_help, read_words
from ecgexp.errors import UserError
from ecgexp.extras import require_train
from ecgexp.paths import PLACES

USAGE = """\
Evaluates the kept weights of a run on a split.

  python -m ecgexp.evaluate run=ID split=test [key=value ...]

  run=ID                 a trial of the store (see results.csv or the MLflow UI)
  split=test|val         val rehearses: nothing is noted, and no metric is logged
  thresholds=fixed|tuned tuned: also report with a threshold per label that gives the best F1 in validation; not for
                         records with exactly one label, of which the most probable one is predicted
  dataset.root=FOLDER    where the data lie, if not where the run had them; so also dataset.cache_dir,
                         dataset.labels_csv, dataset.on_bad_record and dataset.workers
  privacy.patients=keep  write patient identifiers as the data have them; default (hash): keyed hashes
  trust=PACKAGE,...      let the run's config build classes of these packages, too
  tracking.root=FOLDER   the folder that holds mlruns, copied from another machine or not; default: this one
  tracking=server        with tracking.uri=URI: an MLflow server, as in training

Logs metrics test/... and files in evaluation/test/ to the run. Notes the test-set access on the run and on its sweep:
when, by whom, with which commit and with which records. A further access is allowed, and counted. An access with other
records than the first, or with other labels or signals of these, is kept apart, as test-HASH. Test records that the
run was trained on or used in validation are refused.
"""
KEYS = ("run", "split", "thresholds", "privacy.patients", "trust", *TRACKING, *(f"dataset.{key}" for key in PLACES))


def main() -> None:
    """Entry point of ``python -m ecgexp.evaluate``."""
    words = sys.argv[1:]
    if asks_for_help(words):
        print(USAGE, end="")
        return
    require_train()
    try:
        values = read_words(words, KEYS, "ecgexp.evaluate")
        from ecgexp.commands.evaluate import run  # which takes seconds: not for help, nor for a wrong key

        run(values)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
