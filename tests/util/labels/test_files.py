"""A CSV file of labels: what it says, and a sentence for everything that can be wrong with it."""

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from util.errors import ConfigError
from util.labels.files import load_label_file

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
        ("record;AF\na;1\n", "semicolons are between its columns"),
        ("record\na\n", "has no column of labels beside record and patient"),
        ("record,AF,AF\na,1,0\n", "has two columns named AF"),
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
        ("record,AF\na,1\nb,-1\nc,\n", "column AF holds -1 beside 1 alone; write 0 and 1"),
        ("record,AF\na,0\nb,-1\n", "column AF holds -1 beside 0 alone; write 0 and 1"),
        ('record,age\na,"1,5"\nb,"2,5"\n', "that are not plain, such as '1,5'; write digits"),
        (
            "record,AF\na,50%\nb,100 %\n",
            "column AF holds numbers that are not plain, such as '50%'",
        ),
        ('record,bnp\na,"1,234,567"\nb,10\n', "numbers that are not plain, such as '1,234,567'"),
        ("record,bnp\na,1 234\nb,1.234.567\n", "numbers that are not plain, such as '1 234'"),
        ("record,bnp\na,1'234\nb,1_234\n", 'numbers that are not plain, such as "1\'234"'),
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


# ------------------------------------------------------------------------------------------------
# columns that are no labels


@pytest.mark.parametrize(
    "name",
    [
        "patient",
        "patient_id",
        "PatientID",
        "patientId",
        "PATIENT_ID",
        "Patient-ID",
        "patientid",
        "subject_id",
        "SubjectID",
        "subject",
        "Subject_No",
        "person_id",
        "participant_id",
        "anon_patient_id",
        "id_patient",
        "PatNr",
        "MRN",
        "pid",
    ]
    + ["Patient ID", "subject number", "Patienten-Nr."],
)
def test_ids_of_patients_are_recognised_in_any_writing(write, name):
    path = write(f"record,{name},age\na,7,61\nb,7,62\nc,8,63\nd,,64\n")
    kind, classes, _, patients = read_label_file(path, RECORDS)
    assert (kind, classes, patients) == ("regression", ("age",), ["7", "7", "8", ""])


@pytest.mark.parametrize(
    "name",
    ["Unnamed: 0", "", "index", "idx", "id", "ID", "ecg_id", "ExamID", "study_id", "StudyId"]
    + ["record_name", "row_number", "level_0", "strat_fold", "fold", "Fold", "kfold", "cv_fold"]
    + ["split", "filename_hr", "file", "path", "trace_file", "uuid"],
)
def test_ids_row_numbers_folds_and_files_are_no_targets(write, sentences, name):
    path = write(f"record,{name},age\na,3,61\nb,1,62\nc,4,63\nd,1,64\n")
    assert read_label_file(path, RECORDS)[1] == ("age",)
    (said,) = sentences()
    assert f"are left out: {name or '(a column without a name)'}; --columns takes" in said
    if name:
        assert read_label_file(path, RECORDS, wanted=[name, "age"])[1] == (name, "age")
        assert sentences() == []


def test_ids_beside_labels_of_another_kind_do_no_harm(write, sentences):
    path = write("Unnamed: 0,record,subject_id,strat_fold,AF\n0,a,P1,3,1\n1,b,P1,9,0\n")
    kind, classes, _, patients = read_label_file(path, RECORDS)
    assert (kind, classes, patients) == ("multilabel", ("AF",), ["P1", "P1", "", ""])
    assert any("the column subject_id says whose record it is" in said for said in sentences())


def test_a_column_that_counts_its_rows_is_no_target_whatever_its_name(write):
    names = [f"r{i}" for i in range(12)]
    text = "record,n,age\n" + "".join(f"{r},{i + 5},{60 + i % 7}\n" for i, r in enumerate(names))
    assert read_label_file(write(text), names)[1] == ("age",)


@pytest.mark.parametrize(
    "name", ["PAT", "thyroid", "accessory path", "pathological", "STD", "AVID"]
)
def test_names_that_only_look_like_ids_are_labels(write, name):
    path = write(f"record,{name}\na,1\nb,0\n")
    assert read_label_file(path, RECORDS)[1] == (name,)


def test_only_ids_are_a_sentence_and_go_if_asked_for(write):
    path = write("record,subject_id,strat_fold\na,P1,3\nb,P1,9\n")
    with pytest.raises(ConfigError, match=r"\(strat_fold: ids, row numbers, folds or files; --col"):
        read_label_file(path, RECORDS)
    assert read_label_file(path, RECORDS, wanted=["strat_fold"])[1] == ("strat_fold",)
    assert read_label_file(path, RECORDS, wanted=["strat_fold"])[3] == ["P1", "P1", "", ""]
    path = write("record,subject_id\na,1.5\nb,2.5\n")
    assert read_label_file(path, RECORDS, wanted=["subject_id"])[1] == ("subject_id",)
    with pytest.raises(ConfigError, match="has no column of labels AF; it has record, patient"):
        read_label_file(path, RECORDS, wanted=["AF"])


def test_ids_that_a_spreadsheet_shortened_are_said(write, sentences):
    """The defect: 123456789012 and 123456999999 were written as one, and nobody told."""
    rows = "a,1.23457E+11,61\nb,1.23457e+11,62\nc,7,63\nd,P1E+3,1\n"
    assert len(read_label_file(write("record,patient,age\n" + rows), RECORDS)[3]) == 4
    assert sentences()[0].endswith(
        "mine.csv: patients whose numbers were shortened, such as 1.23457E+11: 2 of 4; several may "
        "have become one: write the ids as text, with all digits"
    )


def test_two_columns_of_patients_must_agree(write, sentences):
    path = write("record,subject_id,PatientID,age\na,1,x,61\nb,1,x,62\nc,2,y,63\n")
    assert read_label_file(path, RECORDS)[3] == ["1", "1", "2", ""]
    assert "PatientID, which says the same, is left out" in sentences()[0]
    path = write("record,subject_id,PatientID,age\na,1,x,61\nb,1,y,62\nc,2,y,63\n")
    with pytest.raises(ConfigError, match="both columns subject_id and PatientID, which tell pat"):
        read_label_file(path, RECORDS)


@pytest.mark.parametrize(
    "one, other", [("AF", "af"), ("bloc \u00e9", "bloc e\u0301"), ("grade 01", "Grade  1")]
)
def test_classes_that_differ_in_writing_alone_are_said(write, sentences, one, other):
    expected = (
        f"in writing alone, and count as several: 1, such as {' and '.join(sorted((one, other)))};"
    )
    read_label_file(write(f"record,rhythm\na,{one}\nb,{other}\nc,SR\n"), RECORDS)
    assert expected in sentences()[-1]
    read_label_file(write(f"record,{one},{other}\na,1,0\nb,0,1\nc,0,0\n"), RECORDS)
    assert expected in sentences()[-1]


def test_ages_that_nobody_has_are_said(write, sentences):
    read_label_file(write("record,age_years,pr\na,300,300\nb,61,1\nc,-1,2\nd,,3\n"), RECORDS)
    assert "column age_years: 2 of 3 ages are below 0 or above 130, such as 300" in sentences()[0]
    read_label_file(write("record,age,stage\na,100,300\nb,61,1\nc,0,2\nd,,3\n"), RECORDS)
    assert sentences() == []


@pytest.mark.parametrize("code", ["-9999", "29999", "999.0"])
def test_a_number_far_from_all_others_is_said(write, sentences, code):
    """The defect: MIMIC-IV-ECG's 29999, which means "not measured", was learned as milliseconds."""
    names = [f"r{i}" for i in range(14)]
    cells = [str(100 + 7 * i % 30) for i in range(12)] + [code, code]
    rows = "".join(f"{name},{cell}\n" for name, cell in zip(names, cells))
    assert read_label_file(write("record,pr_ms\n" + rows), names)[0] == "regression"
    words = f"column pr_ms: 2 of 14 numbers are {float(code):g}, all others lie from 100 to 128"
    assert f"{words}; empty the cell where a value is unknown" in sentences()[0]


@pytest.mark.parametrize("cells", [range(14), [1, 1.5] * 7, [*range(13), 20], [0, 1000] * 7])
def test_numbers_among_their_like_are_not_mentioned(write, sentences, cells):
    names = [f"r{i}" for i in range(14)]
    rows = "".join(f"{name},{cell}\n" for name, cell in zip(names, cells))
    read_label_file(write("record,pr_ms\n" + rows), names, wanted=["pr_ms"])
    assert sentences() == []


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
