"""``python -m ecgexp.convert_keras``: a run from the weights of a Keras file."""

from __future__ import annotations

import sys

from ecgexp.commands.arguments import asks_for_help
from ecgexp.errors import UserError
from ecgexp.extras import require_train

USAGE = """\
Makes a run from the weights of a Keras file, which predict, evaluate and report then use like one that was trained.

  python -m ecgexp.convert_keras file=FILE model=NET dataset=DATASET [key=value ...]

  file=FILE              a whole net (.keras, .h5) or its weights (.weights.h5, .h5), of Keras 2 or 3; needs
                         pip install 'ecgexp[keras]', not Keras or TensorFlow
  model=NET              the same net here; model.KEY=VALUE gives it the sizes of the file
  dataset=DATASET        the data that the net was trained on, in the units and the scale that it took
  sweep.name=NAME        the sweep that gets the run, for the report; default: a sweep of its own
  --config-dir FOLDER    a folder with configurations of your own

All other keys are those of python -m ecgexp. Layers are matched in order, by kind and shape; each difference is refused
with the name of the layer, and what the file does not say is listed as assumed.
"""


def main() -> None:
    """Entry point of ``python -m ecgexp.convert_keras``."""
    arguments = sys.argv[1:]
    if asks_for_help(arguments):
        print(USAGE, end="")
        return
    require_train()
    try:
        from ecgexp.commands.convert_keras import run  # the import takes seconds, so help does without

        run(arguments)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
