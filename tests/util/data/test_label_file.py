"""A CSV file of labels: what it says, and a sentence for everything that can be wrong with it."""

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from util.data.label_file import load_label_file
from util.errors import ConfigError

RECORDS = ["a", "b", "c", "d"]


def read_label_file(path, records, **options):
    found = load_label_file(path, records, **options)
    return found.kind, found.classes, found.values, found.patients


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        (tmp_path / "mine.csv").write_bytes(text.encode(encoding))
        return tmp_path / "mine.csv"

    return write


def test_zeros_and_ones_are_multilabel_and_an_empty_cell_is_unknown(write):
    path = write("record,AF,LBBB\nc,1,0\na,,1.0\nb, 0.0 ,\nd,true,False\n")
    kind, classes, values, patients = read_label_file(path, RECORDS)
    assert (kind, classes, patients) == ("multilabel", ("AF", "LBBB"), None)
    np.testing.assert_array_equal(values, [[np.nan, 1], [0, np.nan], [1, 0], [1, 0]])


def test_one_column_of_words_is_multiclass(write):
    path = write("rhythm,record,patient\nsinus ,c,p1\nAF,a,p2\nsinus,b,\n,d,p1\n")
    kind, classes, values, patients = read_label_file(path, RECORDS)
    assert (kind, classes, patients) == ("multiclass", ("AF", "sinus"), ["p2", "", "p1", "p1"])
    assert values.dtype == np.int64 and values.tolist() == [0, 1, 1, -1]


def test_numbers_are_regression(write):
    kind, classes, values, _ = read_label_file(
        write("record,age,pr\na,61,1.5e2\nb,0.25\nc,-3,0\nd,,1\n"), RECORDS
    )
    assert (kind, classes) == ("regression", ("age", "pr"))
    np.testing.assert_array_equal(values, [[61, 150], [0.25, np.nan], [-3, 0], [np.nan, 1]])


def test_one_column_of_zeros_and_ones_is_one_class(write):
    kind, classes, values, _ = read_label_file(write("record,AF\na,1\nb,0\nc,0\nd,1\n"), RECORDS)
    assert (kind, classes, values.tolist()) == ("multilabel", ("AF",), [[1], [0], [0], [1]])


def test_words_such_as_true_among_others_are_words(write):
    assert read_label_file(write("record,seen\na,true\nb,maybe\n"), RECORDS)[1] == ("maybe", "true")


def test_rows_and_records_without_a_partner_are_counted(write, sentences):
    path = write("record,AF\nb,1\nx,0\nd,0\ny,1\n")
    file = load_label_file(path, RECORDS, ignore_unknown=True)
    assert file.has_row.tolist() == [False, True, False, True]
    assert sentences() == [
        "rows left out, whose records the store lacks: 2 of 4, such as x, y",
        "records of the store without a row, whose labels are unknown: 2 of 4",
    ]
    load_label_file(write("record,AF\na,1\nb,0\nc,1\nd,0\n"), RECORDS)
    assert sentences() == []


def test_excels_utf8_and_names_that_look_like_numbers(write):
    kind, _, values, _ = read_label_file(
        write("record,AF\n007,1\n12,0\n", "utf-8-sig"), ["007", "12"]
    )
    assert kind == "multilabel" and values.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is empty; write a CSV file"),
        ("record,AF\n", "has no row below its header"),
        (
            "name,AF\na,1\n",
            "lacks the column record; its columns are name, AF; rename the one with the records' "
            "names",
        ),
        ("record;AF\na;1\n", "cells are separated by commas"),
        ("record\na\n", "has no column of labels beside record and patient"),
        ("record,AF,AF\na,1,0\n", "has two columns named AF"),
        ("record,AF,\na,1,0\n", "a column cannot be called ''"),
        (
            'record,"AF, new"\na,1\n',
            "cannot be called 'AF, new': a class needs a name without commas",
        ),
        ("record,=AF\na,1\n", "cannot be called '=AF'"),
        ('record,"A\nF"\na,1\n', r"cannot be called 'A\\nF'"),
        ("record,rhythm\na,AF\nb,=SUM\n", "class of column rhythm cannot be called '=SUM'"),
        (
            "record,AF\na,1\nx,0\n",
            "names 1 records that the store lacks, such as x; .*--ignore_unknown",
        ),
        (
            "record,AF\nv,1\nw,0\nx,0\ny,1\n",
            r"names 4 records that the store lacks, such as v, w, x, \.\.\., whose names are such as a",
        ),
        (
            "record,AF\na,1\nb,0\na,0\n",
            "names 1 records more than once, such as a; keep one row a record",
        ),
        ("record,AF\na,1\n,0\n", "1 rows name no record"),
        (
            "record,AF\na,1,0\n",
            "line 2 has 3 cells, but the first line names 2 columns; put quotes around a text with",
        ),
        ("record,AF\na,1\nb,0,1\n", "line 3 has 3 cells, but the first"),
        (
            "record,age\na,50\nb,old\n",
            "column age mixes numbers, such as '50', and words, such as 'old'",
        ),
        (
            "record,age\na,50\nb,NaN\n",
            "column age holds 'NaN', which is no label; leave the cell empty",
        ),
        ("record,age\na,50\nb,-inf\n", "column age holds '-inf'"),
        (
            "record,age\na,50\nb,1e999\n",
            "column age mixes numbers, such as '50', and words, such as '1e999'",
        ),
        ("record,rhythm\na,AF\nb,N/A\n", "column rhythm holds 'N/A'"),
        ("record,rhythm\na,AF\nb,<NA>\n", "column rhythm holds '<NA>'"),
        ("record,rhythm\na,AF\nb,SR\nc,None\n", "column rhythm holds 'None'"),
        ("record,AF\na,1\nb,0\nc,-1\n", "column AF holds -1 beside 0 and 1; leave the cell"),
        ('record,age\na,"1,5"\nb,"2,5"\n', "decimal comma, such as '1,5'"),
        ("record,AF\na,\nb,\n", "column AF is empty throughout"),
        (
            "record,AF,age,rhythm\na,1,50,sinus\nb,0,60,AF\n",
            r"mixes kinds of labels \(AF: 0/1 \(multi-label\); rhythm: words \(multi-class\); "
            r"age: numbers \(regression\)\); "
            "write a file for each kind",
        ),
        ("record,one,two\na,x,y\nb,z,w\n", "has 2 columns of words, one, two"),
        ("record,rhythm\na,AF\nb,AF\n", "column rhythm holds 1 different words"),
    ],
)
def test_wrong_files_have_a_sentence(write, text, words):
    with pytest.raises(ConfigError, match=words) as error:
        read_label_file(write(text), RECORDS)
    assert "mine.csv" in str(error.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_wrong_encoding_has_a_sentence(write, encoding):
    with pytest.raises(ConfigError, match="mine.csv is not UTF-8 text; save it as CSV in UTF-8"):
        read_label_file(write("record,Müdigkeit\na,1\n", encoding), RECORDS)


def test_files_that_are_not_there_or_meet_no_record_have_a_sentence(write, tmp_path):
    with pytest.raises(ConfigError, match="cannot read .*none.csv: No such file"):
        read_label_file(tmp_path / "none.csv", RECORDS)
    with pytest.raises(ConfigError, match="cannot read .*: Is a directory"):
        read_label_file(tmp_path, RECORDS)
    with pytest.raises(
        ConfigError,
        match="names none of the store's 4 records, which are called such as a, b, c, ...",
    ):
        read_label_file(write("record,AF\nx,1\n"), RECORDS, ignore_unknown=True)


def test_free_text_is_no_class(write):
    text = "record,remark\n" + "".join(f"r{i},text {i}\n" for i in range(1001))
    with pytest.raises(ConfigError, match="column remark holds 1001 different words"):
        read_label_file(write(text), [f"r{i}" for i in range(1001)])


PIECES = st.sampled_from(
    [
        "record",
        "patient",
        "AF",
        ",",
        ",",
        ",",
        "\n",
        "\n",
        "a",
        "b",
        "c",
        "1",
        "0",
        "",
        " ",
        "1.5",
        "true",
        "-",
        "1e400",
        "nan",
        '"',
        "'",
        ";",
        "\t",
        "\r",
        "\0",
        "é",
        "=1",
        "0x1",
        "\ufeff",
        "1_0",
        "٣",
    ]
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.lists(PIECES, max_size=16)
    .map(lambda pieces: "record,AF\n" * (len(pieces) % 2) + "".join(pieces))
    .map(str.encode)
    | st.binary(max_size=40)
)
def test_whatever_a_file_holds_it_is_read_or_explained(tmp_path, text):
    (tmp_path / "any.csv").write_bytes(text)
    with contextlib.suppress(ConfigError):
        kind, classes, values, _ = read_label_file(
            tmp_path / "any.csv", RECORDS, ignore_unknown=True
        )
        assert values.shape == ((4,) if kind == "multiclass" else (4, len(classes))) and len(
            set(classes)
        ) == len(classes)
        known = values[values >= 0] if kind == "multiclass" else values[~np.isnan(values)]
        assert np.isfinite(known).all()
        assert kind != "multilabel" or np.isin(known, (0, 1)).all()
