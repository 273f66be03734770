"""``python -m ecgexp.predict``: predictions of a trained net for single records."""

from __future__ import annotations

import sys

from ecgexp.commands.arguments import TRACKING, asks_for_help, read_arguments
from ecgexp.errors import UserError
from ecgexp.extras import require_train

USAGE = """\
Predicts probabilities for ECG records or images with a trained net.

  python -m ecgexp.predict run=RUN record=RECORD [RECORD ...] [key=value ...]

  run=ID                 a run of the store (see results.csv or the MLflow UI)
  run=models:/NAME/3     a registered model; also models:/NAME@ALIAS
  run=FOLDER             config.yaml, weights.pt and data.json, or an MLflow model
  record=RECORD          a WFDB record, with or without .hea, .dat or .mat, or a pattern such as 'data/*.hea';
                         further records need no key: record=a b c, or just a b c;
                         of a net for images: a JPEG, PNG or TIFF file
  uncalibrated=assume    assume 200 steps per mV for leads whose header gives no gain; default: refuse the record
  crop=N                 of images: keep a square of N pixels in the middle; default: as the run's dataset did
  format=table|json      format of the standard output; default: table
  plot=FILE.png          draw each record on ECG paper (25 mm/s, 10 mm/mV) with the result; also .pdf, .svg;
                         several records get a file each, FILE-RECORD.png
  trust=PACKAGE,...      allow the run's config to build classes of these packages, too;
                         trust=pt2 allows loading an exported graph, which can run code
  tracking.root=FOLDER   the folder that contains mlruns, also a copy from another machine; default: this one
  tracking=server        with tracking.uri=URI: an MLflow server, as in training

Leads are matched by name. Records of another sampling rate are resampled, longer ones cropped at their end, shorter
ones padded with zeros. Images are resized. Each change is reported. A record that cannot be used is named with the
reason, and the exit status is then 1. Not for diagnosis.
"""
KEYS = ("run", "record", "uncalibrated", "crop", "format", "plot", "trust", *TRACKING)


def main() -> None:
    """Entry point of ``python -m ecgexp.predict``."""
    arguments = sys.argv[1:]
    if asks_for_help(arguments):
        print(USAGE, end="")
        return
    require_train()
    try:
        values = read_arguments(arguments, KEYS, "ecgexp.predict", bare="record")
        from ecgexp.commands.predict import run  # the import takes seconds, so help and wrong keys do without

        sys.exit(run(values))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
