"""Annotation files, generated and damaged, compared with what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgexp.datasets.ecg.annotations import read_annotations
from ecgexp.datasets.ecg.headers import Problem

SYMBOLS = ' NLRaVFJASEj/Q~ | sT*D"=pB^t+u?![]en@xf()r'
"""By code; ' ' for codes without one."""
KNOWN = [symbol for symbol in SYMBOLS if symbol != " "]


def word(code: int, number: int) -> bytes:
    return (code << 10 | number).to_bytes(2, "little")


def write(folder: Path, rng: np.random.Generator, **options: object) -> tuple[Path, list[int], list[str]]:
    """A file of annotations near and far, some with texts, subtypes, channels and numbers; where and what they are."""
    count = int(rng.integers(10, 40))
    samples = np.cumsum(rng.choice([1, 300, 1023, 1024, 70_000, 3_000_000], count))
    texts = [str(rng.choice(["", "(N", "(AFIB", "text of odd length"])) for _ in range(count)]
    symbols = rng.choice(KNOWN, count).tolist()
    wfdb.wrann(
        "r",
        "atr",
        samples,
        symbol=symbols,
        subtype=rng.integers(-5, 6, count),
        chan=rng.integers(0, 3, count),
        num=rng.integers(0, 6, count),
        aux_note=texts,
        write_dir=str(folder),
        **options,
    )
    return folder / "r.atr", samples.tolist(), symbols


def decoded(content: bytes) -> tuple[list[int], list[str]]:
    """Annotations of a sound file, decoded word by word."""
    words, samples, symbols, here, at = np.frombuffer(content, "<u2").tolist(), [], [], 0, 0
    while words[at]:
        code, number = divmod(words[at], 1024)
        at += 1
        if code == 59:
            here, at = here + (words[at] << 16 | words[at + 1]), at + 2
        elif code == 63:
            at += (number + 1) // 2
        elif code < 50:
            here += number
            samples.append(here)
            symbols.append(SYMBOLS[code])
    return samples, symbols


@pytest.mark.parametrize("seed", range(30))
def test_files_are_read_as_they_were_written(tmp_path, seed):
    fs = [None, 250, 360, 62.5][seed % 4]
    path, samples, symbols = write(tmp_path, np.random.default_rng(seed), **({"fs": fs} if fs else {}))
    found = read_annotations(path)
    assert found.samples.tolist() == samples
    assert found.symbols.tolist() == symbols
    assert found.rate == fs


@pytest.mark.slow
def test_real_files_are_read_as_they_are(mitdb):
    for path in sorted(mitdb.glob("*.atr")):
        found = read_annotations(path)
        samples, symbols = decoded(path.read_bytes())
        assert found.samples.tolist() == samples
        assert found.symbols.tolist() == symbols
        assert found.rate is None


def test_codes_without_a_sign_and_files_without_an_annotation(tmp_path):
    path = tmp_path / "r.atr"
    path.write_bytes(b"".join(word(code, 7) for code in range(1, 50)) + bytes(2))
    found = read_annotations(path)
    assert found.samples.tolist() == list(range(7, 7 * 50, 7))
    assert found.symbols.tolist() == [*SYMBOLS[1:], *" " * (50 - len(SYMBOLS))]
    path.write_bytes(bytes(2))
    assert not len(read_annotations(path).samples) and not len(read_annotations(path).symbols)


def test_a_header_beside_the_file_does_not_give_its_rate(tmp_path):
    path, *_ = write(tmp_path, np.random.default_rng(0))
    path.with_suffix(".hea").write_text("r 1 250 1000\nr.dat 16 200 12 0 0 0 0 I\n")
    assert read_annotations(path).rate is None


def test_a_file_that_is_cut_off_anywhere_is_no_file(tmp_path):
    path, *_ = write(tmp_path, np.random.default_rng(5), fs=360)
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
            r"it has more data after its end mark, which follows 1 annotations",
        ),
        (word(50, 5) + bytes(2), r"annotation 1 has the unknown code 50"),
        (word(61, 5) + word(1, 5) + bytes(2), r"it begins with a field of an annotation that is not there"),
        (word(63, 2) + b"ab" + word(1, 5) + bytes(2), r"it begins with a field of an annotation that is not there"),
        (
            word(1, 5) + word(59, 0) + bytes(4) + word(61, 5) + bytes(2),
            r"annotation 2 begins with a field, where a code is expected",
        ),
        (
            word(1, 5) + word(59, 0) + b"\xff\xff\xfe\xff" + word(1, 0) + bytes(2),
            r"annotation 2 is at sample 3, before the previous annotation",
        ),
        (
            word(59, 0) + b"\xff\xff\xfe\xff" + word(1, 0) + bytes(2),
            r"annotation 1 is at sample -2, before the previous annotation",
        ),
        (
            word(1, 5) + word(63, 300) + bytes(302),
            r"annotation 1 has a text of 300 characters, where at most 255 are allowed",
        ),
        (word(1, 5) + word(63, 200) + bytes(20), r"it ends after 1 annotations without an end mark"),
        (word(1, 5) + word(59, 0) + bytes(2), r"it ends after 1 annotations without an end mark"),
        (b"", r"it ends after 0 annotations without an end mark"),
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


@pytest.mark.slow
def test_any_changed_byte_ends_in_a_sentence_or_in_annotations(tmp_path):
    """Some of these would keep wfdb.rdann from returning, which waits for a text in a comment at the beginning."""
    path, *_ = write(tmp_path, np.random.default_rng(7), fs=360)
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
