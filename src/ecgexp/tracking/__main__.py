"""Prints the tracking URI of the store in this folder, for ``mlflow ui --backend-store-uri``; makes what is missing."""

from __future__ import annotations

import sys

from ecgexp.extras import require_train

if __name__ == "__main__":
    require_train()  # before the imports that would fail

from omegaconf import OmegaConf

from ecgexp import CONF
from ecgexp.errors import UserError
from ecgexp.tracking.store import open_store

if __name__ == "__main__":
    try:
        print(open_store(OmegaConf.load(CONF / "tracking" / "local.yaml")).uri)
    except UserError as error:
        sys.exit(str(error))
