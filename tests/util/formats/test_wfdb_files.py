import math
import os

import numpy as np
import pytest
import scipy.signal
import wfdb

from tests.support.wfdb_files import (
    SHARED,
    ecg_counts,
    header_text,
    mat_bytes,
    needs_broken,
    needs_real,
    write_record,
)
from util.errors import RecordError
from util.formats.wfdb_files import find_headers, read_header, read_record
from util.leads import LEADS
from util.recordings.recording import resample_to


def reason(path, **options):
    with pytest.raises(RecordError) as caught:
        read_record(path, **options)
    return str(caught.value)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


# ------------------------------------------------------------------------------------------------
# headers


@pytest.mark.parametrize(
    "layout, gain, line_gain, baseline, unit",
    [
        ("16x1+24", "1000.0(0)/mV", 1000, 0, "mV"),
        ("16+24", "1000/mV", 1000, 0, "mV"),
        ("16+24", "1000/mv", 1000, 0, "mv"),
        ("16+24", "4880.5(-12)/mV", 4880.5, -12, "mV"),
        ("16+24", "1e3/uV", 1000, 0, "uV"),
        ("16+24", "200", 200, 0, "mV"),
        ("16x1:0+24", ".5(7)", 0.5, 7, "mV"),
    ],
)
def test_signal_lines_in_all_their_forms(tmp_path, layout, gain, line_gain, baseline, unit):
    header = read_header(write_record(tmp_path, "A0001", layout=layout, gain=gain))
    assert {(line.gain, line.baseline, line.unit, line.offset) for line in header.signals} == {
        (line_gain, baseline, unit, 24)
    }
    assert header.leads == LEADS and header.flags == ()


@pytest.mark.parametrize(
    "record_line, fs, n",
    [
        ("A0001 12 500 1500", 500, 1500),
        ("A0001 12 500 1500 05-Feb-2020 11:39:16", 500, 1500),
        ("A0001 12 257.0 1500 11:39:16 05/02/2020", 257, 1500),
        ("A0001 12 500/1000(0) 1500", 500, 1500),
        ("A0001 12 500", 500, None),
    ],
)
def test_record_lines_in_all_their_forms(tmp_path, record_line, fs, n):
    path = edit(write_record(tmp_path, "A0001"), "A0001 12 500 1500", record_line)
    header = read_header(path)
    assert (header.record, header.fs, header.n_samples) == ("A0001", fs, n)
    assert read_record(path).signal.shape == (1500, 12)


@pytest.mark.parametrize(
    "text, age, flag",
    [
        ("#Age: 74", 74, ""),
        ("# Age: 74", 74, ""),
        ("#age:74.5", 74.5, ""),
        ("#Age: NaN", math.nan, ""),
        ("#Age: -1", math.nan, ""),
        ("#Age: 300", 90, "over 89"),
        ("#Age: Unknown", math.nan, ""),
        ("#Age:", math.nan, ""),
        ("#Age: 0", 0, ""),
        ("#Age: 131", math.nan, "impossible age 131"),
        ("#Age: inf", math.nan, "impossible"),
        ("#Age: old", math.nan, "unreadable age old"),
        ("#Agenda: 4", math.nan, ""),
    ],
)
def test_age(tmp_path, text, age, flag):
    header = read_header(write_record(tmp_path, "A", comments=(text, "#Dx: 426783006")))
    assert header.age == age or math.isnan(header.age) and math.isnan(age)
    assert flag in "; ".join(header.flags) and bool(flag) == bool(header.flags)


@pytest.mark.parametrize(
    "text, sex",
    [
        ("Male", "Male"),
        ("M", "Male"),
        ("female", "Female"),
        ("F", "Female"),
        ("Unknown", "Unknown"),
        ("", "Unknown"),
        ("X", "Unknown"),
    ],
)
def test_sex(tmp_path, text, sex):
    assert read_header(write_record(tmp_path, "A", comments=(f"# Sex: {text}",))).sex == sex


@pytest.mark.parametrize(
    "text, dx, unknown",
    [
        ("426783006", ["426783006"], []),
        ("67741000119109,426177001", ["67741000119109", "426177001"], []),
        (" 1234567 , 426177001 ,1234567", ["1234567", "426177001"], []),
        ("1234567 426177001", ["1234567", "426177001"], []),
        ("Unknown", [], []),
        ("", [], []),
        ("426783006,AFIB,RBBB", ["426783006"], ["AFIB", "RBBB"]),
        ("atrial fibrillation", [], ["atrial fibrillation"]),
        ("٤٢٦٧٨٣٠٠٦", [], ["٤٢٦٧٨٣٠٠٦"]),
    ],
)
def test_diagnoses(tmp_path, text, dx, unknown):
    header = read_header(write_record(tmp_path, "A", comments=(f"#Dx: {text}",)))
    assert (list(header.dx), list(header.unknown_dx)) == (dx, unknown)
    flags = "; ".join(header.flags)
    assert all(token in flags for token in unknown) and ("no diagnosis" in flags) == (not dx)


def test_header_text_oddities(tmp_path):
    """CRLF, a byte order mark, blank lines, a comment before the record line, bytes that are no
    UTF-8 in a comment.
    """
    path = write_record(tmp_path, "A0001")
    text = "# first\n\n" + path.read_text().replace("#Sex: Male", "#Sex: Male\n#Hx: \udcff\udc81")
    path.write_bytes(
        b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode("utf-8", "surrogateescape")
    )
    header = read_header(path)
    assert (header.age, header.sex, header.dx, header.leads) == (50, "Male", ("426783006",), LEADS)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("A0001 12 500", "A0001 12 0", "invalid sampling rate: 0"),
        ("A0001 12 500", "A0001 12 -500", "invalid sampling rate"),
        ("A0001 12 500", "A0001 12 nan", "invalid sampling rate"),
        ("A0001 12 500 1500", "A0001 12", "invalid sampling rate"),
        ("A0001 12 500 1500", "A0001 12 1e-9 1500", "invalid sampling rate"),
        ("A0001 12 500 1500", "A0001 12 500 0", "zero-length record"),
        ("A0001 12 500", "A0001 13 500", "header unreadable"),
        ("A0001 12 500", "A0001 0 500", "header unreadable"),
        ("A0001 12 500 1500", "A0001 12 500 abc", "header unreadable"),
        ("A0001 12 500", "A0001/3 12 500", "multi-segment"),
        ("A0001 12 500", "../../x 12 500", "unsafe record name"),
        ("A0001.mat 16+24", "A0001.mat 17+24", "sample format 17"),
        ("A0001.mat 16+24", "A0001.mat 16x4+24", "samples per frame"),
        ("1000/mV", "abc/mV", "header unreadable"),
        ("1000/mV", "1e999/mV", "gain"),
        ("1000/mV", "1000/mmHg", "unit mmHg of lead I is no voltage"),
        ("0 V6", "0 V5", "lead V5 appears twice"),
        ("#Sex", "\0Sex", "header unreadable"),
        ("A0001.mat 16+24 1000/mV", "A0001.mat\x01 16+24 1000/mV", "header unreadable"),
        ("A0001.mat 16+24", "../A0001.mat 16+24", "unsafe signal file name"),
        ("A0001.mat 16+24", "/etc/passwd 16+24", "unsafe signal file name"),
        ("A0001.mat 16+24", "..\\x.mat 16+24", "unsafe signal file name"),
        ("1000/mV", "1e-5/mV", "impossible amplitude"),
        (
            "A0001 12 500 1500",
            "A0001 12 500 999999999999",
            "signal file shorter than the header says",
        ),
        ("A0001 12 500 1500", "A0001 12 500 1499", "signal file longer than the header says"),
    ],
)
def test_reasons_of_bad_headers(tmp_path, old, new, words):
    assert words in reason(edit(write_record(tmp_path, "A0001"), old, new))


def test_unsafe_header_file_names(tmp_path):
    path = write_record(tmp_path, "ok")
    for name in ("=cmd|x", "-rf", "a b", "ä"):
        path.rename(tmp_path / f"{name}.hea")
        path = tmp_path / f"{name}.hea"
        assert "unsafe record name" in reason(path)


def test_a_name_in_the_header_that_differs_from_the_file_is_flagged(tmp_path):
    path = edit(write_record(tmp_path, "A0001"), "A0001 12", "B7 12")
    header = read_header(path)
    assert header.record == "A0001" and header.flags == ("header calls the record B7",)


def test_huge_header_is_not_loaded(tmp_path):
    path = write_record(tmp_path, "A0001")
    with open(path, "ab") as file:
        file.truncate(1 << 32)  # sparse: 4 GiB of NULs
    assert "header unreadable" in reason(path)


# ------------------------------------------------------------------------------------------------
# signals


def same_as_wfdb(path):
    """Our signal equals wfdb's, sample by sample, in standard order; returns it."""
    signal = read_record(path).signal
    expected, fields = wfdb.rdsamp(str(path.with_suffix("")))
    columns = [[name.lower() for name in fields["sig_name"]].index(lead.lower()) for lead in LEADS]
    assert signal.dtype == np.float32 and signal.shape == (len(expected), 12)
    np.testing.assert_allclose(signal, expected[:, columns], rtol=3e-7, atol=1e-7)
    return signal


def test_gain_and_baseline_of_each_lead_are_its_own(tmp_path):
    path = write_record(tmp_path, "A0001")
    lines = path.read_text().splitlines()
    for k in range(12):
        lines[k + 1] = lines[k + 1].replace("1000/mV", f"{200 + 37.5 * k}({100 * k - 500})/mV")
    path.write_text("\n".join(lines))
    signal = same_as_wfdb(path)
    np.testing.assert_allclose(signal[:, 3], (ecg_counts()[:, 3] + 200) / 312.5, rtol=1e-6)


def test_microvolt_header(tmp_path):
    signal = read_record(write_record(tmp_path, "A", gain="2/uV")).signal
    np.testing.assert_allclose(signal, ecg_counts() / 2000, rtol=1e-6)


def test_adc_zero_is_the_baseline_where_none_is_given(tmp_path):
    path = write_record(tmp_path, "A")
    path.write_text(path.read_text().replace("1000/mV 16 0 ", "1000/mV 16 -300 "))
    np.testing.assert_allclose(same_as_wfdb(path), (ecg_counts() + 300) / 1000, rtol=1e-6)


def test_leads_go_by_name_whatever_order_and_case(tmp_path):
    shuffled = [LEADS[k] for k in np.random.default_rng(1).permutation(12)]
    counts = ecg_counts(leads=15)
    leads = ["vx", *(name.upper() for name in shuffled), "vy", "vz"]
    signal = same_as_wfdb(write_record(tmp_path, "S0001", counts, leads=leads))
    for k, lead in enumerate(LEADS):
        own = counts[:, leads.index(lead.upper())]
        np.testing.assert_array_equal(signal[:, k], own.astype(np.float32) * np.float32(1e-3))


def test_format_80_mat_equals_wfdb(tmp_path):
    """Offset binary: 128 is zero.  Reading it as 16-bit, or without subtracting 128, is a known
    bug.
    """
    counts = np.random.default_rng(0).integers(1, 256, (1000, 12)).astype(np.uint8)
    path = write_record(tmp_path, "I1", counts, layout="80+24", gain="100(3)/mV")
    (tmp_path / "I1.mat").write_bytes(mat_bytes(counts, kind=50))
    np.testing.assert_allclose(
        same_as_wfdb(path), (counts.astype(float) - 131) / 100, rtol=1e-6, atol=1e-7
    )
    counts[5, 2] = 0  # the marker of a missing sample
    (tmp_path / "I1.mat").write_bytes(mat_bytes(counts, kind=50))
    assert reason(path) == "non-finite samples: 1 in III"


@pytest.mark.parametrize("fmt", ["16", "212", "32", "24", "80"])
def test_other_formats_go_through_wfdb(tmp_path, fmt):
    values = ecg_counts()[:, ::-1] / (8000.0 if fmt == "80" else 1000.0)
    wfdb.wrsamp(
        "r1",
        fs=360,
        units=["mV"] * 12,
        sig_name=list(LEADS[::-1]),
        p_signal=values,
        fmt=[fmt] * 12,
        write_dir=str(tmp_path),
    )
    signal = same_as_wfdb(tmp_path / "r1.hea")
    assert np.corrcoef(signal[:, 0], values[:, 11])[0, 1] > 0.99


@pytest.mark.parametrize("fmt", ["16", "212", "24"])
def test_every_lead_has_its_own_unit_gain_and_baseline_in_other_formats(tmp_path, fmt):
    units = ["uV", "mV", "V", "nV", *["mV"] * 7, "uV", "mV"]
    in_mv = np.array([1e-3, 1, 1e3, 1e-6, *[1] * 7, 1e-3, 1])
    gain = np.array([1.5, 900, 1e6, 1e-3, *range(300, 1000, 100), 2, 500])
    baseline, counts = 10 * np.arange(13) - 60, (ecg_counts(leads=13) // 32).astype(np.int64)
    wfdb.wrsamp(
        "r1",
        fs=360,
        units=units,
        sig_name=[*LEADS, "vx"],
        d_signal=counts,
        fmt=[fmt] * 13,
        adc_gain=gain.tolist(),
        baseline=baseline.tolist(),
        write_dir=str(tmp_path),
    )
    expected = ((counts - baseline) / gain * in_mv)[:, :12]
    np.testing.assert_allclose(
        read_record(tmp_path / "r1.hea").signal, expected, rtol=1e-5, atol=1e-7
    )


def test_every_lead_has_its_own_unit_in_a_mat(tmp_path):
    path = write_record(tmp_path, "A1")
    lines = path.read_text().splitlines()
    for k in range(0, 12, 2):
        lines[k + 1] = lines[k + 1].replace("1000/mV", "2/uV")
    path.write_text("\n".join(lines))
    np.testing.assert_allclose(
        read_record(path).signal, ecg_counts() / np.tile([2000, 1000], 6), rtol=1e-6
    )


def test_truncated_dat_and_missing_dat(tmp_path):
    wfdb.wrsamp(
        "r1",
        fs=360,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        p_signal=ecg_counts() / 1000.0,
        fmt=["16"] * 12,
        write_dir=str(tmp_path),
    )
    data = (tmp_path / "r1.dat").read_bytes()
    (tmp_path / "r1.dat").write_bytes(data[:-1000])
    assert "signal file shorter than the header says" in reason(tmp_path / "r1.hea")
    (tmp_path / "r1.dat").write_bytes(b"")
    assert "signal file empty" in reason(tmp_path / "r1.hea")
    (tmp_path / "r1.dat").unlink()
    assert reason(tmp_path / "r1.hea") == "signal file missing: r1.dat"


def test_reasons_of_bad_mat_files(tmp_path):
    path, counts = write_record(tmp_path, "A9"), ecg_counts()
    mat = tmp_path / "A9.mat"
    whole = mat.read_bytes()
    for content, words in [
        (
            whole[: len(whole) // 2 + 1],
            "signal file shorter than the header says: 749 samples of 1500",
        ),
        (whole[:20], "signal file shorter than the header says"),
        (b"", "signal file empty"),
        (
            mat_bytes(counts.astype("<f4"), kind=10),
            "sample type of the .mat does not match the header: float32",
        ),
        (np.array([10 + 1000], "<i4").tobytes() + whole[4:], "no little-endian MATLAB v4"),
        (b"MATLAB 5.0 MAT-file" + whole, "no little-endian MATLAB v4"),
        (mat_bytes(counts[:, :11]), "11 rows for 12 signals"),
        (mat_bytes(counts[:0]), "zero-length record"),
        (np.array([30, 12, -5, 0, 4], "<i4").tobytes() + whole[20:], "signal file shorter"),
        (np.array([30, 12, 2**31 - 1, 0, 4], "<i4").tobytes() + whole[20:], "signal file shorter"),
    ]:
        mat.write_bytes(content)
        assert words in reason(path), words
    mat.unlink()
    assert reason(path) == "signal file missing: A9.mat"
    mat.mkdir()
    assert "not a regular file" in reason(path)


def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path):
    path = write_record(tmp_path, "A9")
    (tmp_path / "A9.mat").unlink()
    os.mkfifo(tmp_path / "A9.mat")
    os.mkfifo(tmp_path / "B9.hea")
    assert "not a regular file" in reason(path)
    assert "not a regular file" in reason(tmp_path / "B9.hea")


def test_missing_samples_are_never_minus_32_millivolts(tmp_path):
    counts = ecg_counts()
    counts[100:200, [1, 6]] = -32768
    assert reason(write_record(tmp_path, "A1", counts)) == "non-finite samples: 200 in II, V1"


def test_flat_leads_are_flagged_and_a_flat_record_is_refused(tmp_path):
    counts = ecg_counts()
    counts[:, 8] = 0
    recording = read_record(write_record(tmp_path, "A1", counts))
    assert recording.flags == ("flat lead V3",)
    assert reason(write_record(tmp_path, "A2", np.zeros_like(counts))) == "every lead is flat"


def test_a_recording_with_fewer_leads_has_those_in_standard_order(tmp_path):
    counts = ecg_counts(leads=4)
    recording = read_record(write_record(tmp_path, "A1", counts, leads=("v2", "vx", "II", "I")))
    assert recording.leads == ("I", "II", "V2") and recording.flags == ("left out: vx",)
    np.testing.assert_allclose(recording.signal, counts[:, [3, 2, 0]] / 1000, rtol=1e-6)


def test_a_lead_by_another_name(tmp_path):
    """PhysioNet 2017 calls its one lead, lead I, ECG."""
    path = write_record(tmp_path, "A00001", ecg_counts(leads=1), leads=("ECG",), fs="300")
    assert (
        reason(path)
        == "none of the twelve leads: ECG; say by --lead_names which lead a name stands for"
    )
    recording = read_record(path, lead_names={"ecg": "I"})
    assert recording.leads == ("I",) and recording.flags == ()
    np.testing.assert_allclose(recording.signal, ecg_counts(leads=1) / 1000, rtol=1e-6)
    path = write_record(tmp_path, "A2", ecg_counts(leads=2), leads=("ECG", "I"))
    assert reason(path, lead_names={"ecg": "I"}) == "lead I appears twice"


def test_the_one_lead_is_flat(tmp_path):
    assert (
        reason(write_record(tmp_path, "A1", ecg_counts(leads=1) * 0, leads=("I",)))
        == "every lead is flat"
    )
    counts = ecg_counts(leads=2)
    counts[:, 1] = 7
    assert read_record(write_record(tmp_path, "A2", counts, leads=("I", "V6"))).flags == (
        "flat lead V6",
    )


def test_minimum_length(tmp_path):
    path = write_record(tmp_path, "A1", ecg_counts(500))
    assert reason(path, min_seconds=2.0) == "shorter than the minimum length: 1 s of 2 s"
    assert read_record(path, min_seconds=1.0).signal.shape == (500, 12)


def test_find_headers_any_depth_sorted_and_through_links(tmp_path):
    for folder, name in (("b/g2", "X2"), ("b", "X1"), ("b", "X0"), ("a/deep/er", "X3")):
        write_record(tmp_path / "data" / folder, name)
    write_record(tmp_path / "elsewhere", "X4")
    (tmp_path / "data" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "b" / "loop").symlink_to(tmp_path / "data")
    result = [
        path.relative_to(tmp_path / "data").as_posix() for path in find_headers(tmp_path / "data")
    ]
    assert result == ["a/deep/er/X3.hea", "b/X0.hea", "b/X1.hea", "b/g2/X2.hea", "c/X4.hea"]


# ------------------------------------------------------------------------------------------------
# resampling


@pytest.mark.parametrize(
    "n, fs, target",
    [
        (5000, 500, 100),
        (5000, 500, 250),
        (2500, 250, 100),
        (1000, 100, 250),
        (4999, 500, 250),
        (4997, 257, 100),
        (4998, 257, 250),
        (10001, 1000, 100),
        (1285, 257, 500),
        (1001, 100, 250),
        (1002, 100, 101),
    ],
)
def test_resampling_equals_scipy(n, fs, target):
    signal = ecg_counts(n, seed=n).astype(np.float64) / 1000
    expected = scipy.signal.resample(signal, int(n * target / fs), axis=0)
    result = resample_to(signal.astype(np.float32), fs, [target])[target]
    assert result.dtype == np.float32 and result.shape == expected.shape
    # 2.5e-6 mV for ECGs of a few millivolts; these wander up to ten
    assert np.abs(result - expected).max() < 2.5e-6 * max(1, np.abs(signal).max() / 4)


def test_equal_rates_change_nothing():
    signal = ecg_counts().astype(np.float32)
    assert resample_to(signal, 250.0, [100, 250])[250] is signal


def test_resampled_length_is_the_published_one():
    assert len(resample_to(ecg_counts(4999).astype(np.float32), 500, [100])[100]) == 999


# ------------------------------------------------------------------------------------------------
# real recordings


@needs_real
def test_real_records_equal_wfdb():
    headers = find_headers(SHARED / "real_ecg")
    for path in headers[::60]:
        same_as_wfdb(path)


@needs_broken
def test_30_minutes_of_format_80_equal_wfdb():
    assert same_as_wfdb(SHARED / "broken/14_long_257hz/I9114.hea").shape == (462600, 12)


def test_helper_writes_what_wfdb_reads(tmp_path):
    """The recordings that these tests make are real WFDB."""
    path = write_record(tmp_path, "A1")
    np.testing.assert_allclose(wfdb.rdsamp(str(path.with_suffix("")))[0], ecg_counts() / 1000)
    assert header_text("A1", 1500) == path.read_text()


# ------------------------------------------------------------------------------------------------
# signals that are no leads, and units with a micro sign


def monitor_record(folder, extra, name="m1", leads=("I", "II")):
    """A record of format 16 whose leads are in one .dat and ``extra`` signal lines behind them."""
    counts = ecg_counts(1000, leads=len(leads) + 1)
    counts.tofile(folder / f"{name}.dat")
    lines = [f"{name} {len(leads) + 1} 250 1000"]
    lines += [f"{name}.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in leads]
    (folder / f"{name}.hea").write_text("\n".join([*lines, extra.format(name=name)]) + "\n")
    return folder / f"{name}.hea", counts


@pytest.mark.parametrize(
    "extra, left_out",
    [
        ("{name}.dat 16 6042/NU 16 0 0 0 0 PLETH", "PLETH"),
        ("{name}.dat 16 10/mmHg 16 0 0 0 0 ABP", "ABP"),
        ("{name}.dat 16 100/Ohm 16 0 0 0 0 RESP", "RESP"),
        ("{name}.dat 16 100/% 16 0 0 0 0", "one without a name"),
    ],
)
def test_a_signal_that_is_no_lead_needs_no_voltage(tmp_path, extra, left_out):
    path, counts = monitor_record(tmp_path, extra)
    recording = read_record(path)
    assert recording.leads == ("I", "II") and f"left out: {left_out}" in recording.flags
    np.testing.assert_allclose(recording.signal, counts[:, :2] / 1000, atol=1e-6)


def test_a_signal_that_is_no_lead_in_the_challenge_s_format(tmp_path):
    counts = ecg_counts(1500, leads=3)
    path = write_record(tmp_path, "A1", counts, leads=("II", "V", "PLETH"))
    edit(path, "1000/mV 16 0 0 0 0 PLETH", "12530/NU 16 0 0 0 0 PLETH")
    recording = read_record(path)
    assert recording.leads == ("II",) and "left out: V, PLETH" in recording.flags
    np.testing.assert_allclose(recording.signal[:, 0], counts[:, 0] / 1000, atol=1e-6)


@pytest.mark.parametrize("line", ["pulse.dat 16 6042/NU", "pulse.dat 16x4 6042/NU", "p.dat 16:9 1"])
def test_a_signal_that_is_no_lead_needs_no_file_and_no_rate(tmp_path, line):
    path, _ = monitor_record(tmp_path, line + " 16 0 0 0 0 PLETH")
    counts = ecg_counts(1000, leads=2)
    counts.tofile(tmp_path / "m1.dat")
    np.testing.assert_allclose(read_record(path).signal, counts / 1000, atol=1e-6)


def test_a_lead_by_another_name_needs_a_voltage_and_its_file(tmp_path):
    path, counts = monitor_record(tmp_path, "{name}.dat 16 1000/uV 16 0 0 0 0 MLII", leads=("V1",))
    recording = read_record(path, lead_names={"mlii": "II"})
    assert recording.leads == ("II", "V1")
    np.testing.assert_allclose(recording.signal[:, 0], counts[:, 1] / 1e6, atol=1e-9)
    edit(path, "1000/uV", "1000/NU")
    assert reason(path, lead_names={"mlii": "II"}) == "unit NU of lead MLII is no voltage"
    assert read_record(path).leads == ("V1",)


def test_a_record_without_a_lead_says_so(tmp_path):
    path, _ = monitor_record(tmp_path, "{name}.dat 16 10/mmHg 16 0 0 0 0 ABP", leads=("PLETH",))
    assert reason(path).startswith("none of the twelve leads: PLETH, ABP; say by --lead_names")


@pytest.mark.parametrize("layout", ["16+24", "dat"])
@pytest.mark.parametrize(
    "unit, encoding",
    [
        ("\u00b5V", "utf-8"),
        ("\u00b5V", "latin-1"),
        ("\u03bcV", "utf-8"),
        ("\u00b5v", "utf-8-sig"),
    ],
)
def test_a_micro_sign_is_a_u(tmp_path, layout, unit, encoding):
    counts = ecg_counts()
    path = write_record(tmp_path, "A1", counts)
    text = path.read_text().replace("1000/mV", f"1/{unit}")
    if layout == "dat":
        counts.tofile(tmp_path / "A1.dat")
        text = text.replace(".mat 16+24", ".dat 16")
    path.write_bytes(text.encode(encoding))
    np.testing.assert_allclose(read_record(path).signal, counts / 1000, atol=1e-6)


@pytest.mark.parametrize("name", ["Br\u00fccke", "\u65e5"])
def test_a_description_that_is_not_ascii_does_not_lose_the_record(tmp_path, name):
    path = write_record(tmp_path, "A1", ecg_counts(leads=2), leads=("I", name))
    assert read_record(path).flags[-1] == f"left out: {name}"


# ------------------------------------------------------------------------------------------------
# headers as people have them


def write_dat(folder, name="A", counts=None, comments=()):
    """A record with its signals in a .dat of format 16, as most of PhysioNet has them."""
    counts = ecg_counts(1500) if counts is None else counts
    counts.astype("<i2").tofile(folder / f"{name}.dat")
    lines = [f"{name} 12 500 {len(counts)}"]
    lines += [f"{name}.dat 16 1000(0)/mV 16 0 0 0 0 {lead}" for lead in LEADS]
    (folder / f"{name}.hea").write_text("\n".join([*lines, *comments]) + "\n")
    return folder / f"{name}.hea"


@pytest.mark.parametrize("name", ["A.B", "2026.11.30-A", "A.dat.1"])
def test_a_dot_in_a_name(tmp_path, name):
    expected = read_record(write_dat(tmp_path, "A")).signal
    recording = read_record(write_dat(tmp_path, name))
    np.testing.assert_array_equal(recording.signal, expected)
    assert recording.flags == ()


def test_a_header_in_upper_case_letters(tmp_path):
    expected = read_record(write_dat(tmp_path, "A")).signal
    path = write_dat(tmp_path, "B")
    path.rename(tmp_path / "B.HEA")
    assert find_headers(tmp_path) == [tmp_path / "A.hea", tmp_path / "B.HEA"]
    np.testing.assert_array_equal(read_record(tmp_path / "B.HEA").signal, expected)


@pytest.mark.parametrize("announced", [1, 11, 13, 24])
@pytest.mark.parametrize("write", [write_record, write_dat])
def test_more_or_fewer_signal_lines_than_announced(tmp_path, announced, write):
    path = edit(write(tmp_path, "A"), "A 12 500", f"A {announced} 500")
    words = f"header unreadable: {announced} signals announced, 12 signal lines"
    assert reason(path) == words


@pytest.mark.parametrize(
    "comments, age, sex",
    [
        (["# <age>: 65 <sex>: F"], 65, "Female"),
        (["#<age>: 65 <sex>: M <diagnoses> Coronary artery disease"], 65, "Male"),
        (["#<age>: 41 <sex>: f <diagnoses>: WPW", "#patient 3"], 41, "Female"),
        (["# Age: 65 Sex: F"], 65, "Female"),
        (["#Age: 65, Sex: Female"], 65, "Female"),
        (["#Sex: M; Age: 65 years"], 65, "Male"),
        (["#age: 61Y", "#sex: F"], 61, "Female"),
        (["# seen at the age: 65"], math.nan, "Unknown"),
    ],
)
def test_age_and_sex_in_one_comment(tmp_path, comments, age, sex):
    header = read_header(write_dat(tmp_path, comments=comments))
    assert header.age == age or math.isnan(age) and math.isnan(header.age)
    assert (header.sex, header.flags) == (sex, ())


def test_a_record_without_a_line_of_diagnoses_is_not_told_that_it_has_none(tmp_path):
    assert read_header(write_dat(tmp_path)).flags == ()
    assert read_header(write_dat(tmp_path, comments=["#Dx: "])).flags == ("no diagnosis",)
