"""A dataset of full size: generated, read into the cache and opened again; compared with wfdb and plain reading."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.bench import (
    Figure,
    alternate,
    figure,
    finish,
    median,
    package,
    parse,
    parser,
    positive,
    seconds,
    stoppable,
)
from ecgexp.datasets import Synthetic


def main() -> None:
    """Measure, print, write."""
    found = parser(__doc__, runs=3)
    found.add_argument("--records", type=positive, default=21_799, help="records (default 21,799, as PTB-XL)")
    arguments = parse(found)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        finish(measure(Path(folder), arguments.records, arguments.runs))


def measure(folder: Path, records: int, runs: int) -> list[Figure]:
    """Figures of passes over new files, which the system still has in its file cache."""
    import wfdb

    def dataset() -> Synthetic:
        return Synthetic(folder / "data", cache_dir=folder / "cache", records=records)

    def prepare() -> float:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return seconds(lambda: dataset().prepare())

    generated = seconds(lambda: _generate(folder, records))
    files = sorted(next((folder / "data").iterdir()).rglob("*.hea"))
    times = alternate(
        runs,
        lambda: seconds(lambda: [file.with_suffix(".dat").read_bytes() for file in files]),
        # the usual loop
        lambda: seconds(lambda: np.array([wfdb.rdsamp(str(file.with_suffix("")))[0] for file in files])),
        prepare,
        lambda: seconds(lambda: dataset().load("train")),
    )
    read, looped, prepared, opened = map(median, times)
    name = f"{len(files):,} records"
    target = {"prepare": "40 s", "open": "1 s"} if records >= 21_799 else {"prepare": "", "open": ""}
    return [
        figure("prepare", f"{name} read and cached", prepared, looped, package("wfdb"), "s", target=target["prepare"]),
        figure("prepare", f"{name} read and cached", prepared, read, "bytes read", "s"),
        figure("prepare", f"{name} opened again", opened, unit="s", target=target["open"]),
        figure("prepare", f"{name} generated", generated, unit="s"),
    ]


def _generate(folder: Path, records: int) -> None:
    from ecgexp.datasets.ecg.synthetic import VERSION, generate

    generate(folder / "data" / f"v{VERSION}-{records}-seed0-100hz", records, 0, 100)


if __name__ == "__main__":
    stoppable(main)
