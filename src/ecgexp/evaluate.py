"""``python -m ecgexp.evaluate``: evaluate the best weights of a run on a split."""

from __future__ import annotations

import sys

from ecgexp.commands.arguments import TRACKING, asks_for_help, read_arguments
from ecgexp.errors import UserError
from ecgexp.extras import require_train
from ecgexp.paths import PLACES

USAGE = """\
Evaluates the best weights of a run on a split.

  python -m ecgexp.evaluate run=ID split=test [key=value ...]

  run=ID                 a trial of the store (see results.csv or the MLflow UI)
  split=test|val         val is for a rehearsal: nothing is noted, and no metric is logged
  thresholds=fixed|tuned tuned: report also with the threshold per label that has the best F1 in validation; not for
                         target=multiclass, which predicts the most probable label
  dataset.root=FOLDER    folder of the data, if the run had them elsewhere; so also dataset.cache_dir,
                         dataset.labels_csv, dataset.on_bad_record and dataset.workers
  privacy.patients=keep  write patient identifiers as in the data; default (hash): keyed hashes
  trust=PACKAGE,...      allow the run's config to build classes of these packages, too
  tracking.root=FOLDER   the folder that contains mlruns, also a copy from another machine; default: this one
  tracking=server        with tracking.uri=URI: an MLflow server, as in training

Logs metrics test/... and files in evaluation/test/ to the run. Notes the test-set access on the run and on its sweep:
when, by whom, with which commit and on which records. Further accesses are allowed, and counted. Where the records,
or their labels or signals, are not those of the first access, the results are kept apart, as test-HASH. Test records
that the run was trained on or used in validation are refused.
errors.html, one of the files, shows the errors with pictures of the records.
"""
KEYS = ("run", "split", "thresholds", "privacy.patients", "trust", *TRACKING, *(f"dataset.{key}" for key in PLACES))


def main() -> None:
    """Entry point of ``python -m ecgexp.evaluate``."""
    arguments = sys.argv[1:]
    if asks_for_help(arguments):
        print(USAGE, end="")
        return
    require_train()
    try:
        values = read_arguments(arguments, KEYS, "ecgexp.evaluate")
        from ecgexp.commands.evaluate import run  # the import takes seconds, so help and wrong keys do without

        run(values)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
