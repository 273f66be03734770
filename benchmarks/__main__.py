"""All benchmarks that this machine can run, one after another."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.bench import stoppable

COMMANDS = ["metrics", "prepare", "trial", "train"]
if torch.cuda.is_available():
    COMMANDS += ["gpu train", "gpu trials", "gpu project"]


def main() -> None:
    """Run them. Where one fails, the others still run."""
    argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__).parse_args()
    failed = []
    for command in COMMANDS:
        print(f"\n## {command}\n", flush=True)
        arguments = [sys.executable, "-m", *f"benchmarks.{command}".split()]
        # figures of a CPU are measured without a GPU
        hidden = {} if command.startswith("gpu") else {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
        if subprocess.run(arguments, cwd=Path(__file__).parents[1], env={**os.environ, **hidden}).returncode:
            failed.append(command)
    if failed:
        sys.exit(f"Benchmarks that failed: {', '.join(failed)}.")


if __name__ == "__main__":
    stoppable(main)
