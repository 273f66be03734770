"""Whether the optional packages of the framework are installed. Imports nothing heavy."""

import sys
from importlib.util import find_spec

# Packages of the extra `train` that every command imports.
_FRAMEWORK = ("hydra", "mlflow", "optuna", "pandas", "pytorch_lightning")


def require_train() -> None:
    """End the command with one sentence if packages of the extra ``train`` are not installed."""
    if missing := [name for name in _FRAMEWORK if find_spec(name) is None]:
        sys.exit(
            f"This command needs packages that are not installed ({', '.join(missing)}): "
            "run pip install 'ecgexp[train]'."
        )
