from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from commands import SENTENCE, SMALL, Done, ecgexp, once

GENERATED = "mlruns/\noutputs/\nmultirun/\ndata/\n"


@pytest.fixture(scope="session")
def sentence(session_folder) -> Done:
    """The sentence of the project with a small net on few records, in a git checkout."""

    def run(folder: Path) -> Done:
        folder.mkdir()
        (folder / ".gitignore").write_text(GENERATED)
        git = ["git", "-C", str(folder), "-c", "user.name=someone", "-c", "user.email=someone@example.org"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
            subprocess.run([*git, *command], check=True, capture_output=True)
        net = ("model=ribeiro", "model.width=4", "model.depth=2")
        return ecgexp(folder, *SENTENCE, *SMALL, *net, "tracking.log_model=best")

    return once(session_folder, "sentence", run).expect()
