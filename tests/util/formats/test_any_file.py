"""One function that reads a recording of any file, and one that finds them."""

import shutil

import h5py
import numpy as np
import pytest

from tests.support.hospital_files import made_lead, made_record, stand_in
from tests.support.wfdb_files import ecg_counts, write_record
from util.console import begin_job, said
from util.errors import ConfigError, ECGError, RecordError
from util.formats.any_file import Place, check_fs, find_places, kind_of, read_recording
from util.leads import LEADS
from util.recordings.flags import Given
from util.recordings.recording import Recording

COUNTS = ecg_counts()
EIGHT = [0, 1, *range(6, 12)]


def write_wfdb(folder):
    return write_record(folder, "a", COUNTS), Given()


def write_npy(folder):
    np.save(folder / "a.npy", COUNTS.T)
    return folder / "a.npy", Given(fs=500, units="uV")


def write_hdf5(folder):
    with h5py.File(folder / "a.hdf5", "w") as file:
        file["x"] = COUNTS
    return folder / "a.hdf5", Given(fs=500, units="uV")


def write_csv(folder):
    rows = [",".join(map(str, row)) for row in COUNTS / 1000]
    (folder / "a.csv").write_text("\n".join([",".join(LEADS), *rows]))
    return folder / "a.csv", Given(fs=500)


def write_dicom(folder):
    pydicom = pytest.importorskip("pydicom")
    shutil.copy(pydicom.examples.get_path("waveform"), folder / "a.dcm")
    return folder / "a.dcm", Given()


WRITERS = [write_wfdb, write_npy, write_hdf5, write_csv, write_dicom]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__[6:])
@pytest.mark.parametrize("by_folder", [False, True])
def test_every_format_is_a_checked_recording(tmp_path, write, by_folder):
    path, given = write(tmp_path)
    (place,) = find_places(tmp_path if by_folder else path, given)
    recording = read_recording(place, given)
    assert isinstance(recording, Recording) and recording.name == place.name == "a"
    assert recording.leads == LEADS and recording.signal.dtype == np.float32
    if write is not write_dicom:
        assert recording.fs == 500
        np.testing.assert_allclose(recording.signal, COUNTS / 1000, atol=1e-6)
    again = read_recording(path, given)
    np.testing.assert_array_equal(again.signal, recording.signal)


def test_a_folder_of_all_formats_and_tables(tmp_path, monkeypatch):
    lead = COUNTS[:, 0] / 1000
    stand_in(monkeypatch, lambda path: made_record([made_lead("I", lead), made_lead("II", -lead)]))
    for n, write in enumerate(WRITERS[:4]):
        (tmp_path / f"{n}").mkdir()
        write(tmp_path / f"{n}")
    (tmp_path / "b.XML").write_text("<RestingECG/>")
    (tmp_path / "labels.csv").write_text("record,age\na,3\n")
    (tmp_path / "._b.xml").write_text("of macOS")
    begin_job()
    begin_job()  # the first job of a process keeps what was said before
    given = Given(fs=500, units="uV")
    places = find_places(tmp_path, given)
    assert [place.kind for place in places] == ["WFDB", "npy", "HDF5", "CSV", "hospital"]
    assert said() == [
        "CSV files whose first line names no lead, taken for tables and not for recordings: 1, "
        "such as labels.csv"
    ]
    recording = read_recording(places[-1], given)
    assert (recording.age, recording.sex, recording.patient) == (63, "Female", "M-17")
    assert recording.leads == LEADS[:6]


def test_a_recording_of_wfdb_needs_no_ending(tmp_path):
    path, given = write_wfdb(tmp_path)
    for name in (path, path.with_suffix("")):
        assert read_recording(name).name == "a"
    write_record(tmp_path, "b.1", COUNTS)
    assert read_recording(tmp_path / "b.1").name == "b.1"


def test_a_file_without_an_ending_goes_by_its_first_bytes(tmp_path):
    for write, ending in ((write_npy, "npy"), (write_hdf5, "hdf5"), (write_dicom, "dcm")):
        path, given = write(tmp_path)
        path.rename(tmp_path / f"of_{ending}")
        assert kind_of(tmp_path / f"of_{ending}") == kind_of(path)
        assert read_recording(tmp_path / f"of_{ending}", given).leads == LEADS
    (tmp_path / "x").write_text("\ufeff<RestingECG/>", encoding="utf-8")
    assert kind_of(tmp_path / "x") == "hospital"
    (tmp_path / "x").write_text("what is this?")
    with pytest.raises(ECGError, match="x: its ending is none of .hea, .npy"):
        find_places(tmp_path / "x", Given())


def test_a_folder_of_dicom_files_without_endings(tmp_path):
    path, _ = write_dicom(tmp_path)
    for name in ("IM000001", "1.2.840.17", "1.2.840.18"):
        shutil.copy(path, tmp_path / name)
    path.unlink()
    (tmp_path / "README").write_text("not a recording")
    places = find_places(tmp_path, Given())
    assert [place.name for place in places] == ["1.2.840.17", "1.2.840.18", "IM000001"]
    assert read_recording(places[0]).leads == LEADS


def test_signals_of_a_wfdb_record_are_no_file_of_their_own(tmp_path):
    path, given = write_wfdb(tmp_path)
    path.with_suffix(".edf").write_bytes(b"0       ")
    (place,) = find_places(tmp_path, given)
    assert place.kind == "WFDB"


@pytest.mark.parametrize("ending", ["npy", "h5"])
def test_files_of_many_recordings(tmp_path, ending):
    many = np.stack([ecg_counts(seed=n) for n in range(3)]) / 1000
    names = ["mine-0", "mine-1", "mine-2"]
    if ending == "npy":
        np.save(tmp_path / "mine.npy", many)
    else:
        names = ["17", "18", "19"]
        with h5py.File(tmp_path / "mine.h5", "w") as file:
            file["tracings"], file["exam_id"] = many, [17, 18, 19]
    places = find_places(tmp_path, Given(fs=500))
    assert [place.name for place in places] == names
    assert str(places[1]) == f"{tmp_path}/mine.{ending}/{names[1]}"
    for n, place in enumerate(places):
        recording = read_recording(place, Given(fs=500))
        assert recording.name == names[n]
        np.testing.assert_allclose(recording.signal, many[n], atol=1e-6)


def test_eight_leads_become_twelve_unless_told_otherwise(tmp_path):
    np.save(tmp_path / "a.npy", COUNTS[:, EIGHT].T)
    leads = tuple(LEADS[k] for k in EIGHT)
    said = {"fs": 500, "units": "uV", "leads": leads}
    recording = read_recording(tmp_path / "a.npy", Given(**said))
    assert recording.leads == LEADS
    one, two = COUNTS[:, 0].astype(float), COUNTS[:, 1].astype(float)
    np.testing.assert_allclose(recording.signal[:, 2], (two - one) / 1000, atol=1e-6)
    assert recording.flags == ("III, aVR, aVL, aVF derived from I and II",)
    recording = read_recording(tmp_path / "a.npy", Given(**said, derive=False))
    assert recording.leads == leads and not recording.flags
    with pytest.raises(RecordError, match="--leads I,II,V1,V2,V3,V4,V5,V6"):
        read_recording(tmp_path / "a.npy", Given(fs=500, units="uV"))


@pytest.mark.parametrize(
    "given, error, words",
    [
        (Given(), ConfigError, "--fs is missing: npy files do not say"),
        (Given(fs=500), RecordError, "whole numbers .int16.: say --units uV or --units mV"),
        (Given(fs=500, units="uV", layout="time_leads"), RecordError, "no axis of 12 leads"),
    ],
)
def test_what_must_be_said_of_arrays(tmp_path, given, error, words):
    write_npy(tmp_path)
    with pytest.raises(error, match=words):
        read_recording(tmp_path / "a.npy", given)


def test_a_folder_that_is_watched_may_hold_arrays_without_their_rate(tmp_path):
    """The defect: a stray array among what comes in ended predict.py --watch."""
    write_npy(tmp_path)
    places = find_places(tmp_path, Given())
    assert len(places) == 1
    with pytest.raises(ConfigError, match="^--fs is missing: npy files do not say"):
        check_fs(places, Given())


@pytest.mark.parametrize("factor, unit", [(1, "uV"), (1e-6, "V")])
def test_an_amplitude_that_no_ecg_has_is_refused_unless_the_unit_is_said(tmp_path, factor, unit):
    np.save(tmp_path / "a.npy", COUNTS.T * float(factor))
    with pytest.raises(RecordError, match=f"no ECG has that.*say --units {unit}"):
        read_recording(tmp_path / "a.npy", Given(fs=500))
    recording = read_recording(tmp_path / "a.npy", Given(fs=500, units=unit))
    np.testing.assert_allclose(recording.signal, COUNTS / 1000, atol=1e-5)


@pytest.mark.parametrize("ending", ["npy", "h5", "csv", "dcm", "hea"])
def test_damaged_files_are_refused_and_found(tmp_path, ending):
    (tmp_path / f"a.{ending}").write_bytes(b"\x00damaged, and no lead I\x93")
    given = Given(fs=500) if ending in ("npy", "h5", "csv") else Given()
    (place,) = find_places(tmp_path / f"a.{ending}", given)
    with pytest.raises(RecordError):
        read_recording(place, given)


def test_names_that_may_not_become_files_are_refused(tmp_path):
    path, given = write_npy(tmp_path)
    path.rename(tmp_path / "sp ace.npy")
    with pytest.raises(RecordError, match="unsafe record name sp ace"):
        read_recording(Place(tmp_path / "sp ace.npy", "npy", "sp ace"), given)


def test_flags_without_effect_and_nothing_to_read(tmp_path):
    write_wfdb(tmp_path)
    with pytest.raises(ConfigError, match="--fs, --units: the files of .* say themselves"):
        find_places(tmp_path, Given(fs=500, units="uV"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ECGError, match="no recording there; files may end in .hea, .npy"):
        find_places(tmp_path / "empty", Given())
    with pytest.raises(ECGError, match="no such file or folder"):
        find_places(tmp_path / "none", Given())


def test_a_csv_of_latin_1_is_read(tmp_path):
    path, given = write_csv(tmp_path)
    lines = path.read_text().split("\n")
    lines = [lines[0] + ",unit", *(f"{line},\u00b5V" for line in lines[1:])]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    recording = read_recording(path, given)
    np.testing.assert_allclose(recording.signal, COUNTS / 1000, atol=1e-6)
    assert recording.flags == ("left out: unit",)


@pytest.mark.parametrize(
    "units, factor, odd", [("uV", 1, True), ("mV", 1000, True), ("mV", 1, False)]
)
def test_an_amplitude_that_no_ecg_has_is_remarked_though_the_unit_was_said(
    tmp_path, units, factor, odd
):
    np.save(tmp_path / "a.npy", COUNTS[:, :2] / 1000 * factor)
    given = Given(fs=500, units=units, leads=("V1", "V2"))
    flags = read_recording(tmp_path / "a.npy", given).flags
    assert any("which no ECG has: is --units right?" in flag for flag in flags) == odd


def test_what_assume_overrules_is_remarked(tmp_path):
    """The defect: --assume was not to look at all."""
    order = ("I", "II", "III", "aVR", "aVF", "aVL")  # as MIMIC has them
    turned = [LEADS.index(lead) for lead in order]
    whole = {lead: COUNTS[:, LEADS.index(lead)] / 1000 for lead in ("I", "II")}
    one, two = whole["I"], whole["II"]
    limb = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2], axis=1)
    np.save(tmp_path / "a.npy", limb[:, turned])
    said = Given(fs=500, units="mV", leads=LEADS[:6], assume=True)
    flags = read_recording(tmp_path / "a.npy", said).flags
    assert any("the leads are not in this order" in flag for flag in flags)
