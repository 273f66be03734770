"""``python -m ecgexp.report``: the results of a sweep as tables, pictures and one page to read or print."""

from __future__ import annotations

import sys

from ecgexp.commands.arguments import TRACKING, read_arguments
from ecgexp.errors import UserError
from ecgexp.extras import require_train

USAGE = """\
Reports a sweep: finished, unfinished or still running.

  python -m ecgexp.report [key=value ...]

  sweep=NAME,...         name of a sweep, or id of its run; several sweeps share one table; default: the latest sweep
  out=FOLDER             folder for the files; default: reports/NAME
  trust=PACKAGE,...      your own packages with targets or metrics of the trials, needed for their intervals
  tracking.root=FOLDER   the folder that contains mlruns, also a copy from another machine; default: this one
  tracking=server        with tracking.uri=URI: an MLflow server, as in training

Writes report.html, results.csv, tables, pictures and experiment/best.yaml. To train the best trial again:
  python -m ecgexp --config-dir FOLDER experiment=best
The same files are logged to the run of the sweep, under reports/.
"""
KEYS = ("sweep", "out", "trust", *TRACKING)


def main() -> None:
    """Entry point of ``python -m ecgexp.report``."""
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE, end="")
        return
    require_train()
    try:
        values = read_arguments(arguments, KEYS, "ecgexp.report")
        from ecgexp.commands.report import run  # the import takes seconds, so help and wrong keys do without

        run(values)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
