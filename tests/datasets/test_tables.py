"""Tables as spreadsheets and pandas write them: each is read correctly, or refused in one sentence."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import write_record

from ecgexp.datasets import WFDBFolder
from ecgexp.datasets.tables import plain_id, read_patients, read_table
from ecgexp.errors import UserError

RECORDS = ["00100", "00101", "sub/102", "sub/103"]
TABLE = pd.DataFrame(
    {
        "record": RECORDS,
        "patient": ["7", "8", "9", "10"],
        "AF": [1, 0, 1, 0],
        "PVC": [0, 0, 1, 1],
        "codes": ["164889003", "", "164889003;164884008", "164884008"],
        "use": ["train", "train", "val", "test"],
    }
)
TARGETS = {"00100": [1, 0], "00101": [0, 0], "sub/102": [1, 1], "sub/103": [0, 1]}
CODES = [164889003, 164884008]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for k, record in enumerate(RECORDS):
        write_record(folder / record, k + np.arange(20)[:, None] / 100, ["I"], 100)
    return folder


@pytest.fixture
def dataset(root, tmp_path):
    def make(**options) -> WFDBFolder:
        given = {"labels": ["AF", "PVC"], "patient_column": "patient", "split_column": "use", **options}
        return WFDBFolder(
            root,
            cache_dir=tmp_path / "cache",
            labels_csv=tmp_path / "labels.csv",
            lead_names=["I"],
            sampling_rate=100,
            samples=20,
            **given,
        )

    return make


def read(dataset) -> dict[str, tuple[str, str, list[int], float]]:
    """Split, patient, labels and first sample of each record."""
    found = {}
    for name in ("train", "val", "test"):
        split = dataset.load(name)
        for i, record in enumerate(split.ids.tolist()):
            first = float(split.inputs["signal"][split.rows[i], 0, 0])
            found[record] = (name, str(split.patients[i]), split.targets[i].tolist(), round(first, 3))
    return found


EXPECTED = {
    record: (use, patient, TARGETS[record], float(k))
    for k, (record, patient, use) in enumerate(zip(RECORDS, TABLE.patient, TABLE.use, strict=True))
}


def as_text(**options) -> bytes:
    return TABLE.to_csv(index=False, **options).encode()


def with_column(name: str, values: list) -> bytes:
    return TABLE.assign(**{name: values}).to_csv(index=False).encode()


SAME = {
    "comma": as_text(),
    "semicolon": as_text(sep=";"),
    "tab": as_text(sep="\t"),
    "sep= as Excel writes it": b"sep=;\r\n" + as_text(sep=";", lineterminator="\r\n"),
    "sep= in quotes": b'"sep=,"\n' + as_text(),
    "byte order mark": b"\xef\xbb\xbf" + as_text(),
    "UTF-16, Excel's Unicode text": as_text(sep="\t", lineterminator="\r\n").decode().encode("utf-16"),
    "CRLF": as_text(lineterminator="\r\n"),
    "CR": as_text(lineterminator="\r"),
    "all quoted": as_text(quoting=csv.QUOTE_ALL),
    "with the index": TABLE.to_csv().encode(),
    "with an index of the same name": TABLE.set_index("record", drop=False).to_csv(index_label="id").encode(),
    "floats": TABLE.astype({"AF": float, "PVC": float, "patient": float}).to_csv(index=False).encode(),
    "truth values": TABLE.astype({"AF": bool, "PVC": bool}).to_csv(index=False).encode(),
    "truth values in capitals": TABLE.replace({"AF": {1: "TRUE", 0: "FALSE"}}).to_csv(index=False).encode(),
    "one patient as a float": with_column("patient", ["7", " 8.0 ", "9", "10"]),
    "blanks around cells": as_text().replace(b",", b" , ").replace(b"\n", b" \n"),
    "blanks that do not break": as_text().replace(b",", "\u00a0,".encode()),
    "blank lines": as_text().replace(b"\n", b"\n\n") + b"\n\n",
    "rows of separators": as_text() + b",,,,,\n,,,,,\n",
    "columns without text at the end": as_text().replace(b"\n", b",,\n"),
    "rows longer by nothing": b"".join(
        line + (b",," if i else b"") + b"\n" for i, line in enumerate(as_text().splitlines())
    ),
    "digits as a formula": with_column("record", ['="00100"', '="00101"', "sub/102", "sub/103"]),
    "record files": with_column("record", ["00100.hea", "00101.DAT", "sub/102.mat", "sub/103.HEA"]),
    "paths": with_column("record", ["./00100", "x/../00101", "sub//102", ".\\sub\\103"]),
    "splits in capitals": with_column("use", ["Train", "TRAIN", "Val ", "test"]),
    "a column twice that is not read": TABLE.assign(a=1, b=2).rename(columns={"b": "a"}).to_csv(index=False).encode(),
    "line ends in a text": TABLE.assign(report="one\nor, two").to_csv(index=False).encode(),
}


@pytest.mark.parametrize("case", SAME)
def test_what_spreadsheets_and_pandas_do_is_read_right(dataset, tmp_path, case):
    (tmp_path / "labels.csv").write_bytes(SAME[case])
    assert read(dataset()) == EXPECTED


def test_a_record_by_its_bare_name_or_as_a_float(dataset, tmp_path):
    (tmp_path / "labels.csv").write_bytes(with_column("record", ["00100", "00101", "102.0", "103"]))
    found = read(dataset())
    assert list(found) == ["00100", "00101", "102", "103"]
    assert [one[3] for one in found.values()] == [0, 1, 2, 3]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("labels", [CODES, [str(code) for code in CODES]])
def test_codes_that_are_numbers_are_labels(dataset, tmp_path, labels, separator):
    table = TABLE.assign(**{str(code): TABLE[name] for code, name in zip(CODES, ("AF", "PVC"), strict=True)})
    table.to_csv(tmp_path / "labels.csv", index=False, sep=separator)
    for options in ({}, {"label_column": "codes"}):
        one = dataset(labels=labels, **options)
        assert one.label_names == ("164889003", "164884008")
        assert read(one) == EXPECTED


def test_codes_that_pandas_wrote_as_floats(dataset, tmp_path):
    TABLE.assign(codes=[164889003.0, None, 164889003.0, 164884008.0]).to_csv(tmp_path / "labels.csv", index=False)
    found = read(dataset(labels=CODES, label_column="codes"))
    assert [one[2] for one in found.values()] == [[1, 0], [0, 0], [1, 0], [0, 1]]


LINE = b"sub/103,10,0,1,164884008,test\n"
REFUSED = {
    "no comma, semicolon or tab": (as_text(sep="|"), r"has no column 'record', only record\|patient"),
    "another separator than the header's": (
        as_text().split(b"\n")[0] + b"\n" + as_text(sep=";").split(b"\n", 1)[1],
        r"has 1 cells in line 2, but its header has 6: .*quotes\.$",
    ),
    "a separator in a text without quotes": (
        as_text(sep=";").replace(b'"', b""),
        r"has 7 cells in line 4, but its header has 6: correct the line, and put a text that contains ';' in quotes\.",
    ),
    "a cell too few": (as_text().replace(LINE, b"sub/103,10,0,1,164884008\n"), r"has 5 cells in line 5, but .* has 6"),
    "an index without a heading": (
        b"\n".join([TABLE.to_csv(index=False).encode().split(b"\n")[0], *TABLE.to_csv().encode().split(b"\n")[1:]]),
        r"has 7 cells in line 2, but its header has 6",
    ),
    "quotes that do not end": (as_text().replace(b"164884008,test", b'"164884008,test'), r"line 5: unexpected end"),
    "a column twice": (as_text().replace(b"codes", b"AF"), r"has 2 columns 'AF': keep one\."),
    "a column twice but for blanks": (as_text().replace(b"codes", b" AF "), r"has 2 columns 'AF': keep one\."),
    "a workbook": (b"PK\x03\x04" + b"\0" * 100, r"is a workbook, not a CSV table: save it as CSV UTF-8\."),
    "another encoding": (
        with_column("record", ["é"] * 4).decode().encode("latin-1"),
        r"labels\.csv is not in UTF-8 \(the byte 0xe9 in line 2\): save it as CSV UTF-8, or restore it\.$",
    ),
    "UTF-16 that ends amid a letter": (
        as_text().decode().encode("utf-16")[:-1],
        r"is not in UTF-16 \(the byte 0x0a in",
    ),
    "UTF-16 without a byte order mark": (
        as_text().decode().encode("utf-16-le"),
        r"is in UTF-16 without its byte order mark",
    ),
    "UTF-16 the other way": (as_text().decode().encode("utf-16-be"), r"is in UTF-16 without its byte order mark"),
    "UTF-32": (as_text().decode().encode("utf-32"), r"or in UTF-32: save it as CSV UTF-8\.$"),
    "nothing": (b"", r"labels\.csv is empty: restore it\."),
    "blank lines alone": (b"\n\n", r"labels\.csv is empty: restore it\."),
    "a header alone": (as_text().split(b"\n")[0], r"has no rows"),
    "a record twice": (as_text() + LINE, r"has record sub/103 in line 5 \('sub/103'\) and in line 6 \('sub/103'\)"),
    "a record with and without extension": (
        with_column("record", ["00100", "00100.hea", "sub/102", "sub/103"]),
        r"has record 00100 in line 2 \('00100'\) and in line 3 \('00100\.hea'\): keep one\.",
    ),
    "a record by two paths": (
        with_column("record", ["00100", "./00100", "sub/102", "sub/103"]),
        r"has record 00100 in line 2 \('00100'\) and in line 3 \('\./00100'\): keep one\.",
    ),
    "a record by path and name": (
        with_column("record", ["00100", "102", "sub/102", "sub/103"]),
        r"has one record twice, as 102 and as sub/102: keep one of the rows\.",
    ),
    "leading zeros that were dropped": (
        with_column("record", [100, 101, "sub/102", "sub/103"]),
        r"has record 100 where .* has 00100: spreadsheets drop leading zeros, so write the column as text\.",
    ),
    "records rounded": (
        with_column("record", ["00100", "1.23457E+12", "sub/102", "sub/103"]),
        r"has '1\.23457E\+12' in line 3, column 'record', which a program has rounded: .* as text\.",
    ),
    "patients rounded by a spreadsheet": (
        with_column("patient", ["1,23457E+12", "8", "9", "10"]),
        r"has '1,23457E\+12' in line 2, column 'patient', which a program has rounded",
    ),
    "patients rounded by pandas": (
        with_column("patient", ["9007199254740992.0", "8", "9", "10"]),
        r"has '9007199254740992\.0' in line 2, column 'patient', which a program has rounded",
    ),
    "a patient with and without leading zeros": (
        with_column("patient", ["7", "8", "007", "10"]),
        r"has '7' and '007' \(line 4\) in column 'patient', which may be one patient: write each patient always in the "
        r"same way\.",
    ),
    "a patient in capitals": (with_column("patient", ["p7", "8", "P7", "10"]), r"has 'p7' and 'P7' \(line 4\)"),
    "a patient with a blank": (with_column("patient", ["p 7", "8", "p7", "10"]), r"has 'p 7' and 'p7' \(line 4\)"),
    "a split misspelt": (with_column("use", ["train", "dev", "val", "test"]), r"has the split 'dev' in line 3: write"),
    "no split": (with_column("use", ["train", None, "val", "test"]), r"has the split '' in line 3: write"),
    "no record": (with_column("record", ["00100", None, "sub/102", "sub/103"]), r"names no record in line 3"),
    **{
        f"patient {text!r}": (
            with_column("patient", ["7", text, "9", "10"]),
            rf"names no patient in line 3, column 'patient' \('{text}'\): fill it in\.",
        )
        for text in ("", "nan", "NA", "NULL", "#N/A", "None")
    },
    "patients of a formula": (with_column("patient", ["7", "#REF!", "9", "#REF!"]), r"no patient .*\('#REF!'\): fill"),
    "patients in two spellings of a number": (
        with_column("patient", ["1001", "8", "1,001", "10"]),
        r"has '1001' and '1,001' \(line 4\) in column 'patient', which may be one patient",
    ),
    "patients of which digits are lost": (
        with_column("patient", ["7", "12345678901230000000", "12345678901230000000", "10"]),
        r"has '12345678901230000000' in line 3, column 'patient'; a spreadsheet may have kept only 15 digits of it",
    ),
    "a label of text": (with_column("AF", [1, "yes", 1, 0]), r"its column 'AF' in labels\.csv is 'yes', not 0 or 1"),
    "a label that is missing": (
        with_column("AF", [1, None, 1, 0]),
        r"its column 'AF' in labels\.csv is '', not 0 or 1",
    ),
    "a label with a decimal comma": (
        with_column("AF", [1, "0,0", 1, 0]),
        r"is '0,0', not 0 or 1, for its decimal comma",
    ),
    "a label that is a share": (with_column("AF", [1, 0.5, 1, 0]), r"is '0\.5', not 0 or 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_ambiguous_is_refused_by_one_sentence(dataset, tmp_path, case):
    content, message = REFUSED[case]
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read(dataset())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "label"), [("1.64889E+08", "1.64889E+08"), ("nan", "nan"), ("164889003,164884008", "164889003,164884008")]
)
def test_a_text_that_is_no_label_is_refused(dataset, tmp_path, cell, label):
    TABLE.assign(codes=["", cell, "", ""]).to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(
        UserError, match=rf"its label '{label.replace('+', '.')}' in labels\.csv is not in dataset\.labels"
    ):
        read(dataset(labels=CODES, label_column="codes"))


def test_a_table_that_cannot_be_read(dataset, tmp_path):
    (tmp_path / "labels.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(UserError, match=r"labels\.csv is a broken link to .*gone\.csv: restore it"):
        read(dataset())


@pytest.mark.parametrize("seed", range(20))
def test_any_text_comes_back_from_what_pandas_writes(tmp_path, seed):
    rng = np.random.default_rng(seed)
    letters = list("ab07.,;\t\"'\n =-é")
    cells = ["".join(rng.choice(letters, rng.integers(1, 8))) for _ in range(60)]
    table = pd.DataFrame({"x": [f"r{cell}r" for cell in cells], "y": [f"s{cell}s" for cell in cells[::-1]]})
    options = {"sep": ",;\t"[seed % 3], "quoting": [csv.QUOTE_ALL, csv.QUOTE_MINIMAL][seed % 2]}
    table.to_csv(tmp_path / "table.csv", index=bool(seed % 5), **options)
    read_back = read_table(tmp_path / "table.csv", ["x", "y"])
    assert read_back.to_numpy().tolist() == table.to_numpy().tolist()


@pytest.mark.parametrize(
    ("text", "expected"), [("15709.0", "15709"), (" 15709.0 ", "15709"), ("007", "007"), ("1.5", "1.5"), ("a.0", "a.0")]
)
def test_plain_id(text, expected):
    assert plain_id(text) == expected


def patients(*cells: str) -> list[str]:
    return read_patients(Path("labels.csv"), "patient", pd.Series(cells, index=range(2, 2 + len(cells)), dtype=object))


NUMBERS = [
    "1001",
    "+1001",
    "1,001",
    "1.001",
    "1'001",
    "1\u2019001",
    "1 001",
    "1\u202f001",
    "1,001.0",
    "1001.00",
    "'1001",
]
NUMBERS += ["1001e0", "1.001e3", "10010e-1", "0001001", "1001\u200b", "\ufeff1001", "10\u00ad01", "\uff11001", "1001,0"]


@pytest.mark.parametrize("one", NUMBERS)
def test_two_spellings_of_a_number_are_not_two_patients(one):
    others = ["1000", "1002", "10010", "-1001", "1001.5", "P1001", "0", "00.10", "0.1"]
    if one != "1.001e3":  # which is refused by itself
        assert len(set(patients(one, *others))) == len(others) + 1
    for other in NUMBERS:
        if other != one:
            with pytest.raises(UserError, match=r"may be one patient|has rounded"):
                patients(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("p-7", "p\u20137"), ("p-7", "p\u22127"), ("p7", "p\u200d7"), ("p7", "'P7"), ("-7", "\u22127.0")]
)
def test_two_spellings_of_a_text_are_not_two_patients(one, other):
    with pytest.raises(UserError, match=r"may be one patient: write each patient always in the same way\.$"):
        patients(one, "8", other)


@pytest.mark.parametrize(
    "cells",
    [
        ["1.1", "1.10", "1.01", "1.100001", "2"],  # site and number
        ["00e0", "00e1", "00e2", "01e2", "0100", "0064", "00ff"],  # a counter in base 16
        ["-7", "7", "+8", "P7", "P-7", "P+7", "7a", "7e", "e7", "7e100", "7e1"],
        ["1234567890123450", "1234567890123461", "1234567890123470"],
        ["1234567890123450", "7"],
        ["#1", "a#", "anna", "nancy", "naomi", "0", "unknown1"],
    ],
)
def test_different_patients_stay_different(cells):
    assert patients(*cells) == cells


@pytest.mark.parametrize(
    "cell",
    ["#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!", "#NV", "#BEZUG!", "Err:502", "####", "########",
     "n.a.", "N. A.", "N.A", "unknown", "Unknown ", "UNKNOWN\u200b",
     "'NA", "--", "?", "\u2013", "\u200b", "-nan", "<NA>"],
)  # fmt: skip
def test_placeholders_are_not_patients(cell):
    with pytest.raises(UserError, match=r"names no patient in line 3, column 'patient' \(.*\): fill it in\.$"):
        patients("7", cell, cell)


@pytest.mark.parametrize(
    "cells",
    [
        ["12345678901230000000"],
        ["1234567890123450", "1234567890123460", "1234567890123470", "7"],
        ["123456789012345000", "1234567890123451"],
    ],
)
def test_long_numbers_that_end_in_zeros_were_rounded(cells):
    with pytest.raises(UserError, match=rf"has '{cells[0]}' in line 2, .* kept only 15 digits of it: .* as text\. If"):
        patients(*cells)


@pytest.mark.parametrize("cell", ["1.23457E+12", "1,23457E12", "1.23457e12", "1E+12", "-1.2E+12"])
def test_a_number_with_an_exponent_was_rounded(cell):
    with pytest.raises(UserError, match=r"which a program has rounded"):
        patients("7", cell)
