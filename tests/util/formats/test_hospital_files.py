"""Exports of hospitals' systems: by ecgdatakit where it is installed, else by a stand-in."""

import sys
import warnings

import numpy as np
import pytest

from tests.support.hospital_files import (
    EIGHT,
    WRITERS,
    StandInError,
    made_lead,
    made_record,
    stand_in,
    write_edf,
    write_muse,
)
from tests.support.wfdb_files import ecg_counts
from util.errors import ECGError, RecordError
from util.formats.any_file import read_recording
from util.formats.hospital_files import read_hospital
from util.leads import LEADS
from util.recordings.flags import Given

COUNTS = ecg_counts(2500)
PER_BIT = {"muse.xml": 4.88, "sierra.xml": 5, "aecg.xml": 2.5, "edf.edf": 1}


def read(path):
    return read_hospital(path, None, None)


def real():
    """Skip where the package is not installed."""
    pytest.importorskip("ecgdatakit", reason="hospital exports need ecgdatakit")


# ============ the package itself ============
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_its_millivolts_age_and_sex(tmp_path, name):
    real()
    columns = [LEADS.index(lead) for lead in EIGHT] if name == "muse.xml" else [*range(12)]
    WRITERS[name](tmp_path / name, COUNTS[:, columns])
    recording = read_recording(tmp_path / name)
    assert (recording.leads, recording.fs, recording.name) == (LEADS, 500, name.split(".")[0])
    assert (recording.age, recording.sex, recording.patient) == (63, "Female", "M-17")
    expected = COUNTS[:, columns] * PER_BIT[name] / 1000
    assert np.abs(recording.signal[:, columns] - expected).max() < PER_BIT[name] / 2000
    derived = ("III, aVR, aVL, aVF derived from I and II",)
    assert recording.flags == (derived if name == "muse.xml" else ())


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("part", [0, 0.1, 0.6, 0.97])
def test_a_file_cut_short_is_refused(tmp_path, name, part):
    real()
    columns = [LEADS.index(lead) for lead in EIGHT] if name == "muse.xml" else [*range(12)]
    WRITERS[name](tmp_path / name, COUNTS[:, columns])
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(part * len(data))])
    with pytest.raises(RecordError, match="damaged|no hospital export") as caught:
        read_recording(tmp_path / name)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "text, said",
    [
        ("<html/>", "no hospital export in a format that ecgdatakit knows"),
        ("no XML at all", "no hospital export"),
        (
            '<!DOCTYPE x [<!ENTITY a "aa">]><RestingECG>&a;</RestingECG>',
            "damaged: XML entity declarations",
        ),
        ("<RestingECG></RestingECG>", "damaged: No rhythm waveform"),
    ],
)
def test_other_xml_is_refused(tmp_path, text, said):
    real()
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(RecordError, match=said):
        read_recording(tmp_path / "a.xml")


def test_wrong_checksums_and_units_of_muse_are_refused(tmp_path):
    real()
    eight = COUNTS[:, [0, 1, *range(6, 12)]]
    write_muse(tmp_path / "a.xml", eight, crc="<LeadDataCRC32>17</LeadDataCRC32>")
    with pytest.raises(RecordError, match="damaged: CRC32 mismatch in lead I"):
        read_recording(tmp_path / "a.xml")
    write_muse(tmp_path / "a.xml", eight, unit="")
    with pytest.raises(RecordError, match="unit none given of lead I is no voltage"):
        read_recording(tmp_path / "a.xml")
    write_muse(tmp_path / "a.xml", eight, unit="MILLIVOLTS", per_bit=0.001)
    recording = read_recording(tmp_path / "a.xml")
    assert np.abs(recording.signal[:, [0, 1, *range(6, 12)]] - eight / 1000).max() < 1e-6


def test_micro_signs_and_other_channels_of_edf(tmp_path):
    real()
    names = (*LEADS, "Resp")
    counts = np.concatenate([COUNTS, COUNTS[:, :1]], axis=1)
    write_edf(tmp_path / "a.edf", counts, unit="\u00b5V", names=names)
    recording = read_recording(tmp_path / "a.edf")
    assert recording.leads == LEADS and recording.flags == ("left out: ECG Resp",)
    assert np.abs(recording.signal - COUNTS / 1000).max() < 0.5e-3


# ============ a stand-in ============
def test_names_of_leads_that_the_user_gives(tmp_path, monkeypatch):
    """Channels of the leads' own rate and length are kept for --lead_names, if of a voltage."""
    signal = COUNTS[:, :3] / 1000
    others = [
        made_lead("Ableitung 2", signal[:, 1]),
        made_lead("Resp", signal[:, 2], unit="ohm"),
        made_lead("short", signal[:100, 2]),
    ]
    for own in ([made_lead("I", signal[:, 0])], []):
        stand_in(monkeypatch, lambda path, own=own: made_record([*own, *others[: 3 if own else 2]]))
        (tmp_path / "a.scp").write_bytes(b"x")
        said = Given(lead_names={"ableitung 2": "II"}, derive=False)
        recording = read_recording(tmp_path / "a.scp", said)
        assert recording.leads == (("I", "II") if own else ("II",))
        np.testing.assert_allclose(recording.signal[:, -1], signal[:, 1], atol=1e-6)
        assert recording.flags[0] == ("left out: Resp, short" if own else "left out: Resp")
    stand_in(monkeypatch, lambda path: made_record(others[:2]))
    with pytest.raises(RecordError, match="none of the twelve leads: Ableitung 2; say by --lead"):
        read_recording(tmp_path / "a.scp")


def test_leads_in_any_unit_with_remarks(tmp_path, monkeypatch):
    signal = COUNTS[:, :3] / 1000

    def parse(path):
        warnings.warn("Additional rhythm waveform ignored; in it", stacklevel=1)
        leads = [made_lead(name, signal[:, k]) for k, name in enumerate(("i", "II", "X"))]
        leads.append(made_lead("V1", COUNTS[:, 6], unit="uV"))
        return made_record(leads, kind="scp_ecg", patient="UNKNOWN", age=None, sex="U")

    stand_in(monkeypatch, parse)
    (tmp_path / "a.scp").write_bytes(b"x")
    recording = read(tmp_path / "a.scp")
    assert recording.leads == ("i", "II", "V1", "X") and np.isnan(recording.age)
    assert (recording.sex, recording.patient) == ("Unknown", "")
    np.testing.assert_allclose(recording.signal, COUNTS[:, [0, 1, 6, 2]] / 1000, atol=1e-6)
    assert recording.flags == (
        "read as scp_ecg, in which the reader is not proven",
        "Additional rhythm waveform ignored? in it",
    )


@pytest.mark.parametrize(
    "leads, said",
    [
        ([], "none of the twelve leads: no lead at all"),
        ([("X", 9, 500, "mmHg")], "none of the twelve leads: X"),
        ([("I", 9, 500, "mV"), ("II", 9, 250, "mV")], "several sampling rates: 250, 500"),
        ([("I", 9, 500, "mV"), ("II", 8, 500, "mV")], "several lengths: 8, 9"),
        ([("I", 9, 500, "")], "unit none given of lead I is no voltage"),
        ([("I", 9, 500, "mmHg")], "unit mmHg of lead I is no voltage"),
    ],
)
def test_leads_that_make_no_recording(tmp_path, monkeypatch, leads, said):
    made = [made_lead(name, np.arange(n), fs, unit) for name, n, fs, unit in leads]
    stand_in(monkeypatch, lambda path: made_record(made))
    with pytest.raises(RecordError, match=said):
        read(tmp_path / "a.xml")


@pytest.mark.parametrize(
    "error, said",
    [
        (StandInError("Lead I has no data in {path}"), "damaged: Lead I has no data in a.xml"),
        (KeyError("x"), "ecgdatakit cannot read it: KeyError"),
        (UserWarning("EDF file truncated: 3 of 9"), "damaged: EDF file truncated"),
        (UserWarning("EDF+D file has gaps between data records"), "damaged: EDF.D file has gaps"),
    ],
)
def test_damage_is_refused_by_name(tmp_path, monkeypatch, error, said):
    def parse(path):
        if isinstance(error, UserWarning):
            warnings.warn(error, stacklevel=1)
            return made_record([made_lead("I", np.arange(9))])
        raise type(error)(str(error).format(path=path))

    stand_in(monkeypatch, parse)
    with pytest.raises(RecordError, match=said):
        read(tmp_path / "a.xml")


@pytest.mark.parametrize("name", [None, "WFDB (PhysioNet)", "DICOM Waveform", "EDAN ARC Holter"])
def test_formats_that_are_none_of_these_are_refused(tmp_path, monkeypatch, name):
    stand_in(monkeypatch, lambda path: made_record([]), name=name)
    with pytest.raises(RecordError, match="no hospital export in a format"):
        read(tmp_path / "a.xml")


def test_ages_that_nobody_has_are_unknown(tmp_path, monkeypatch):
    for age in (-1, 300):
        stand_in(monkeypatch, lambda path: made_record([made_lead("I", np.arange(9))], age=age))
        assert np.isnan(read(tmp_path / "a.xml").age)


def test_without_the_package_a_sentence_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ecgdatakit", None)
    (tmp_path / "a.xml").write_text("<RestingECG/>")
    with pytest.raises(ECGError, match="python -m pip install 'ecgdatakit>=2.0.3,<3'"):
        read_recording(tmp_path / "a.xml")
