"""``python -m ecgexp.report``: what a sweep found, as tables, pictures, and one page to read and to print."""

from __future__ import annotations

import sys

from ecgexp.commands.arguments import TRACKING, read_words
from ecgexp.errors import UserError
from ecgexp.extras import require_train

USAGE = """\
Reports a sweep: finished, unfinished or still running.

  python -m ecgexp.report [key=value ...]

  sweep=NAME,...         name of a sweep, or id of its run; several make one table; default: the latest sweep
  out=FOLDER             where the files are put; default: reports/NAME
  trust=PACKAGE,...      packages of your own that define targets or metrics of the trials, for their intervals
  tracking.root=FOLDER   the folder that holds mlruns, copied from another machine or not; default: this one
  tracking=server        with tracking.uri=URI: an MLflow server, as in training

Writes report.html, results.csv, tables, pictures, and experiment/best.yaml, with which
  python -m ecgexp --config-dir FOLDER experiment=best
trains the best trial again. The same files are put into the run of the sweep, under reports/.
"""
KEYS = ("sweep", "out", "trust", *TRACKING)


def main() -> None:
    """Entry point of ``python -m ecgexp.report``."""
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return
    require_train()
    try:
        values = read_words(words, KEYS, "ecgexp.report")
        from ecgexp.commands.report import run  # which takes seconds: not for help, nor for a wrong key

        run(values)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
