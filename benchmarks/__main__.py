"""All benchmarks that this machine can run, one after another."""

import subprocess
import sys
from pathlib import Path

NAMES = ("metrics", "prepare", "trial", "train")

if __name__ == "__main__":
    for name in NAMES:
        print(f"\n## {name}\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=Path(__file__).parents[1], check=True)
