"""Which hyperparameters, for which net, on which ECG data? Answered with evidence."""

import os
from pathlib import Path

# No usage data are sent. MLflow and Ray read these variables when they are imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

__version__ = "0.1.0"

_PACKAGE = Path(__file__).resolve().parent
# A wheel has conf/ inside the package; a checkout has it at the top level.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The folder of the primary configuration."""
