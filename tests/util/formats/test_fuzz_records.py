"""Untrusted files: whatever the bytes, reading ends in a sound recording or in our own error.

A few hundred cases by default; the slow test runs 20,000 and more.
"""

import struct
import tracemalloc

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.wfdb_files import ecg_counts, header_text, mat_bytes, write_record
from util.data.store import quantise
from util.errors import RecordError
from util.formats.wfdb_files import read_header, read_record
from util.leads import LEADS
from util.recordings.recording import resample_to

QUICK = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SLOW = settings(QUICK, max_examples=20_000, derandomize=False)

SIGNAL = ecg_counts()
NASTY = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "1",
        "12",
        "13",
        "24",
        "16",
        "80",
        "212",
        "16x2",
        "16:1",
        "16+0",
        "16+999999999999",
        "nan",
        "inf",
        "1e999",
        "1e-320",
        "999999999999999999999",
        "2147483648",
        "-2147483648",
        "1000(99999999999)/mV",
        "0/mV",
        "-5/mV",
        "1000/V",
        "1000/mmHg",
        "1e-30/mV",
        "500/0",
        "500(0)",
        "../../x",
        "/dev/zero",
        "~",
        "A.mat",
        "B.mat",
        "A.hea",
        "=1+1",
        "\x00",
        "\x1b[2J",
        "\u0661\u0662",
        "V1",
        "#",
        "A/2",
        "#Age: 1e400",
        "#Age: --",
        "#Dx: ," * 50,
        "#Sex:",
        "\r",
        "\n",
        " ",
        "\t",
    ]
)


def mostly(usual, *others):
    """The usual value in half of the cases, so that many come through to the depths of the
    reader.
    """
    return st.booleans().flatmap(lambda plain: st.just(usual) if plain else st.one_of(*others))


HEADERS = st.builds(
    header_text,
    st.just("A"),
    mostly(1500, st.integers(0, 1700)),
    fs=mostly("500", st.sampled_from(["257", "1000/1"])),
    layout=mostly("16+24", st.sampled_from(["16x1+24", "80+24", "16", "212", "8", "24+24"])),
    gain=st.sampled_from(["1000/mV", "1000.0(0)/mV", "1/uV", "200(-3)"]),
    leads=mostly(
        LEADS,
        st.permutations([*LEADS, "vx"]),
        st.lists(st.sampled_from([*LEADS, "v1", "vx", ""]), max_size=15),
    ),
)


@st.composite
def mutated_headers(draw):
    """A header with one or two of its words replaced, or one of its bytes, or none."""
    words = draw(HEADERS).replace("\n", " \n ").split(" ")
    damage = draw(st.sampled_from(["none", "words", "bytes"]))
    for _ in range(draw(st.integers(1, 2)) if damage == "words" else 0):
        words[draw(st.integers(0, len(words) - 1))] = draw(NASTY)
    data = bytearray(" ".join(words).encode("utf-8", "surrogateescape"))
    if damage == "bytes":
        position = draw(st.integers(0, len(data)))
        data[position : position + draw(st.integers(0, 9))] = draw(
            st.one_of(
                st.binary(max_size=2),
                st.text("0123456789.+-/()#:xeV \n", max_size=4).map(str.encode),
            )
        )
    return bytes(data)


@st.composite
def mutated_mats(draw):
    """A .mat of some sample type and shape, with some of its five header integers replaced, and
    cut off somewhere.
    """
    kind, dtype = draw(
        mostly((30, "<i2"), st.sampled_from([(50, "u1"), (10, "<f4"), (0, "<f8"), (20, "<i4")]))
    )
    counts = SIGNAL[
        : draw(mostly(1500, st.sampled_from([0, 1, 300]))),
        : draw(mostly(12, st.sampled_from([0, 11]))),
    ]
    if draw(st.integers(0, 3)) == 3:
        counts = np.where(counts % 97 == 0, draw(st.sampled_from([-32768, 32767, 0])), counts)
    data = bytearray(mat_bytes(counts.astype(dtype), kind))
    damage = draw(st.sampled_from(["none", "none", "integers", "cut"]))
    for _ in range(draw(st.integers(1, 2)) if damage == "integers" else 0):
        value = draw(
            st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from([0, 1, 12, 30, 50, 1500]))
        )
        struct.pack_into("<i", data, 4 * draw(st.integers(0, 4)), value)
    return bytes(data[: draw(st.integers(0, len(data)))] if damage == "cut" else data)


def check_reading(folder, header, mat):
    """The property: our error, or a finite signal no larger than the file, which goes on to be
    stored.
    """
    (folder / "A.hea").write_bytes(header)
    (folder / "A.mat").write_bytes(mat)
    try:
        recording = read_record(folder / "A.hea")
        stored = resample_to(recording.signal, recording.fs, [100, 250])
    except RecordError as error:
        assert str(error).isprintable() and len(str(error)) < 300
        return
    signal = recording.signal
    assert (
        signal.dtype == np.float32
        and signal.shape[1] == len(recording.leads) > 0
        and np.isfinite(signal).all()
    )
    assert 0 < signal.size <= 2 * len(mat)
    assert all(flag.isprintable() for flag in recording.flags)
    assert all(code.isdecimal() and code.isascii() for code in recording.dx)
    for resampled in stored.values():
        counts, scale = quantise(resampled)
        assert (
            np.abs(counts * (scale / 1000) - resampled).max()
            <= scale / 1000 * 0.51 + 1e-6 * np.abs(resampled).max()
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def test_mutated_records(folder):
    @QUICK
    @given(mutated_headers(), mutated_mats())
    def run(header, mat):
        check_reading(folder, header, mat)

    run()


def test_arbitrary_bytes(folder):
    @QUICK
    @given(st.binary(max_size=300), st.binary(max_size=300))
    def run(header, mat):
        check_reading(folder, header, mat)
        check_reading(folder, header_text("A", 1500).encode()[:100] + header, mat)
        check_reading(folder, header_text("A", 1500).encode(), mat_bytes(SIGNAL)[:20] + mat)

    run()


@pytest.mark.slow
def test_20000_mutated_records(folder):
    @SLOW
    @given(mutated_headers(), mutated_mats())
    def run(header, mat):
        check_reading(folder, header, mat)

    run()


@pytest.mark.slow
def test_20000_mutated_headers_of_a_sound_signal(folder):
    mat = mat_bytes(SIGNAL)

    @SLOW
    @given(mutated_headers())
    def run(header):
        check_reading(folder, header, mat)

    run()


def valid_headers():
    """Headers in the standard's own words, which the wfdb package reads too."""
    gain = st.builds(
        "{}{}/{}".format,
        st.sampled_from(["1000", "1000.0", "0.5", "4.88e2"]),
        st.one_of(st.just(""), st.integers(-999, 999).map("({})".format)),
        st.sampled_from(["mV", "uV", "mv"]),
    )
    comments = st.lists(
        st.sampled_from(["#Age: 74", "# Age: 5", "#Dx: 1,2", "# anything # else", "#"]), max_size=3
    )
    return st.builds(
        header_text,
        st.just("A"),
        st.integers(1, 10**6),
        gain=gain,
        comments=comments,
        fs=st.sampled_from(["500", "257", "1000.5", "360/720(3)"]),
        layout=st.sampled_from(["16+24", "16x1+24", "80+24", "212", "16:0+24"]),
        leads=st.lists(st.sampled_from([*LEADS, "vx", "ECG II"]), min_size=1, max_size=15),
    )


def test_valid_headers_are_parsed_as_wfdb_does(folder):
    @settings(QUICK, max_examples=150)
    @given(valid_headers(), st.sampled_from(["", " 11:39:16", " 11:39:16 05/02/2020"]))
    def run(text, time):
        lines = text.splitlines()
        (folder / "A.hea").write_text("\n".join([lines[0] + time, *lines[1:]]) + "\n")
        ours, theirs = read_header(folder / "A.hea"), wfdb.rdheader(str(folder / "A"))
        assert (ours.fs, ours.n_samples) == (theirs.fs, theirs.sig_len)
        assert list(ours.leads) == theirs.sig_name
        for key, field in {
            "gain": "adc_gain",
            "baseline": "baseline",
            "format": "fmt",
            "unit": "units",
            "file": "file_name",
        }.items():
            assert [getattr(line, key) for line in ours.signals] == getattr(theirs, field), key
        assert [line.offset for line in ours.signals] == [
            offset or 0 for offset in theirs.byte_offset
        ]

    run()


@pytest.mark.parametrize("claim", [10**6, 10**9, 2**31 - 1])
def test_claims_do_not_allocate(tmp_path, claim):
    """A 36 kB file that claims gigabytes, in the header, in the .mat or in both, costs what it
    weighs.
    """
    path = write_record(tmp_path, "A")
    whole = (tmp_path / "A.mat").read_bytes()
    for layout in ("16+24", "16", "212"):
        for columns in (claim, 1500):
            path.write_text(header_text("A", claim, layout=layout))
            (tmp_path / "A.mat").write_bytes(whole[:8] + struct.pack("<i", columns) + whole[12:])
            tracemalloc.start()
            with pytest.raises(RecordError, match="signal file shorter than the header says"):
                read_record(path)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 20e6  # mostly wfdb being imported
