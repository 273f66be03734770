"""Annotation files, generated and damaged, beside what wfdb makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgexp.datasets.annotations import SYMBOLS, read_annotations
from ecgexp.datasets.headers import Problem

KNOWN = [symbol for symbol in SYMBOLS.values() if symbol != " "]


def word(code: int, number: int) -> bytes:
    return (code << 10 | number).to_bytes(2, "little")


def write(folder: Path, rng: np.random.Generator, **options: object) -> Path:
    """A file of annotations near and far, some with texts, subtypes, channels and numbers."""
    count = int(rng.integers(10, 40))
    samples = np.cumsum(rng.choice([1, 300, 1023, 1024, 70_000, 3_000_000], count))
    texts = [str(rng.choice(["", "(N", "(AFIB", "text of odd length"])) for _ in range(count)]
    wfdb.wrann(
        "r",
        "atr",
        samples,
        symbol=rng.choice(KNOWN, count).tolist(),
        subtype=rng.integers(-5, 6, count),
        chan=rng.integers(0, 3, count),
        num=rng.integers(0, 6, count),
        aux_note=texts,
        write_dir=str(folder),
        **options,
    )
    return folder / "r.atr"


@pytest.mark.parametrize("seed", range(30))
def test_files_are_read_as_wfdb_reads_them(tmp_path, seed):
    fs = [None, 250, 360, 62.5][seed % 4]
    path = write(tmp_path, np.random.default_rng(seed), **({"fs": fs} if fs else {}))
    oracle, found = wfdb.rdann(str(path.with_suffix("")), "atr"), read_annotations(path)
    first = int(fs is not None)  # the comment that gives the rate
    assert found.samples[first:].tolist() == oracle.sample.tolist()
    assert found.symbols[first:].tolist() == oracle.symbol
    assert found.rate == oracle.fs == fs


def test_real_files_are_read_as_wfdb_reads_them(mitdb):
    for path in sorted(mitdb.glob("*.atr")):
        oracle, found = wfdb.rdann(str(path.with_suffix("")), "atr"), read_annotations(path)
        assert found.samples.tolist() == oracle.sample.tolist()
        assert found.symbols.tolist() == oracle.symbol
        assert found.rate is None


def test_a_file_that_is_cut_off_anywhere_is_no_file(tmp_path):
    path = write(tmp_path, np.random.default_rng(5), fs=360)
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(
            Problem, match=r"the annotation file r\.atr is truncated or damaged \(it (ends after|has an odd)"
        ):
            read_annotations(path)
    path.write_bytes(content + bytes(20))  # as padded by a tape
    assert len(read_annotations(path).samples) > 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            word(1, 5) + bytes(2) + word(1, 5) + bytes(2),
            r"it goes on behind its end, which is marked after 1 annotations",
        ),
        (word(50, 5) + bytes(2), r"annotation 1 has the code 50, which there is none of"),
        (word(61, 5) + word(1, 5) + bytes(2), r"it begins with a field of an annotation that is not there"),
        (
            word(1, 5) + word(59, 0) + b"\xff\xff\xfe\xff" + word(1, 0) + bytes(2),
            r"annotation 2 is at sample 3, which lies before",
        ),
        (word(59, 0) + b"\xff\xff\xfe\xff" + word(1, 0) + bytes(2), r"annotation 1 is at sample -2, which lies before"),
        (word(1, 5) + word(63, 300) + bytes(302), r"annotation 1 has a text of 300 characters, where 255 is the most"),
        (word(1, 5) + word(63, 200) + bytes(20), r"it ends after 1 annotations without the mark of an end"),
        (word(1, 5) + word(59, 0) + bytes(2), r"it ends after 1 annotations without the mark of an end"),
        (b"", r"it ends after 0 annotations without the mark of an end"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, content, message):
    path = tmp_path / "r.atr"
    path.write_bytes(content)
    with pytest.raises(Problem, match=message):
        read_annotations(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(Problem, match=r"the annotation file r\.atr is missing$"):
        read_annotations(tmp_path / "r.atr")
    (tmp_path / "r.ATR").write_bytes(bytes(2))
    with pytest.raises(Problem, match=r"the annotation file r\.atr is missing \(r\.ATR is there: rename it\)"):
        read_annotations(tmp_path / "r.atr")


def test_any_changed_byte_ends_in_a_sentence_or_in_annotations(tmp_path):
    """Some of these keep wfdb.rdann from returning: the text of a comment at the beginning is one that it waits for."""
    path = write(tmp_path, np.random.default_rng(7), fs=360)
    content = path.read_bytes()
    count = len(read_annotations(path).samples)
    for place in range(0, len(content), 2 if len(content) > 400 else 1):
        for value in (0x55, 0xFC):
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                found = read_annotations(path)
            except Problem as problem:
                assert "\n" not in str(problem)
            else:
                assert len(found.samples) <= count + 300 and (np.diff(found.samples) >= 0).all()
