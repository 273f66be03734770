"""Which hyperparameters, for which net, on which ECG data? Answered with evidence."""

from pathlib import Path

__version__ = "0.1.0"

_PACKAGE = Path(__file__).resolve().parent
# A wheel carries conf/ inside the package; in a checkout it stands at the top level.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The folder of the primary configuration."""
