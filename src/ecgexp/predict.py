"""``python -m ecgexp.predict``: what a trained net says of records."""

from __future__ import annotations

import sys

from ecgexp.commands.arguments import TRACKING, asks_for_help, read_words
from ecgexp.errors import UserError
from ecgexp.extras import require_train

USAGE = """\
Probabilities that a trained net gives to ECG records.

  python -m ecgexp.predict run=RUN record=RECORD [RECORD ...] [key=value ...]

  run=ID                 a run of the store (see results.csv or the MLflow UI)
  run=models:/NAME/3     a registered model; also models:/NAME@ALIAS
  run=FOLDER             config.yaml, weights.pt and data.json, or an MLflow model
  record=RECORD          a WFDB record, with or without .hea, .dat or .mat, or a pattern such as 'data/*.hea';
                         further ones follow as plain words: record=a b c, or just a b c
  uncalibrated=assume    take 200 steps per mV for leads whose header gives no gain; by default it refuses the record
  format=table|json      on the standard output; table by default
  plot=FILE.png          draw each record on ECG paper (25 mm/s, 10 mm/mV) with the result; also .pdf, .svg;
                         of several records each gets a file, FILE-RECORD.png
  trust=PACKAGE,...      let the run's config build classes of these packages, too;
                         trust=pt2 lets an exported graph be loaded, which can run code
  tracking.root=FOLDER   the folder that holds mlruns, copied from another machine or not; default: this one
  tracking=server        with tracking.uri=URI: an MLflow server, as in training

Leads are matched by name. Other sampling rates are resampled, longer records cropped to their beginning, shorter ones
padded with zeros: what was done is told. A record that cannot be used is named with the reason, and the exit status
is then 1. Not for diagnosis.
"""
KEYS = ("run", "record", "uncalibrated", "format", "plot", "trust", *TRACKING)


def main() -> None:
    """Entry point of ``python -m ecgexp.predict``."""
    words = sys.argv[1:]
    if asks_for_help(words):
        print(USAGE, end="")
        return
    require_train()
    try:
        values = read_words(words, KEYS, "ecgexp.predict", bare="record")
        from ecgexp.commands.predict import run  # which takes seconds: not for help, nor for a wrong key

        sys.exit(run(values))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
