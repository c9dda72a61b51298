"""DICOM waveforms: which groups make the recording, whose it is, and what is damaged."""

import warnings

import numpy as np
import pytest

from tests.support.dicom_files import CODED, made_dicom
from tests.support.wfdb_files import ecg_counts
from util.errors import RecordError
from util.formats.any_file import read_recording
from util.formats.dicom import read_dicom
from util.leads import LEADS
from util.recordings.flags import Given

COUNTS = ecg_counts(2500)
MDC = CODED["MDC"]


def read(folder, parts, **about):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # when it is written
        made_dicom(folder, parts, **about)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_dicom(folder / "a.dcm", None, None)


def strips(seconds, fs=250):
    """Four groups of three leads that follow one another."""
    n = int(seconds * fs)
    return [
        (COUNTS[n * k : n * k + n, 3 * k : 3 * k + 3], MDC[3 * k : 3 * k + 3], 1000 * seconds * k)
        for k in range(4)
    ]


@pytest.mark.parametrize("fs, seconds", [(500, 1), (250, 2.5), (100, 6)])
def test_strips_are_refused_with_that_word(tmp_path, fs, seconds):
    with pytest.raises(RecordError, match=f"4 strips of {seconds:g} s that follow one another"):
        read(tmp_path, strips(seconds, fs), fs=fs)


@pytest.mark.parametrize("seconds, number", [(2.5, 1), (2.5, 3), (6, 1)])
def test_strips_beside_a_rhythm_strip_are_left_out(tmp_path, seconds, number):
    rhythm = [(COUNTS[:, [k]], [MDC[k]], 0) for k in (1, 6, 10)[:number]]
    recording = read(tmp_path, [*strips(seconds, 100), *rhythm], fs=100)
    assert recording.leads == ("II", "V1", "V5")[:number] and len(recording.signal) == 2500
    assert recording.flags[0].startswith("other waveforms left out: 4 strips that follow")


def test_strips_beside_a_median_beat_are_refused(tmp_path):
    with pytest.raises(RecordError, match="4 strips of 2.5 s"):
        read(tmp_path, [*strips(2.5), (COUNTS[:300], MDC, 0)])


def test_twelve_leads_count_more_than_one_that_is_longer(tmp_path):
    long = (np.tile(COUNTS[:, [1]], (6, 1)), [MDC[1]], 0)
    median = (COUNTS[:300], MDC, 0)
    recording = read(tmp_path, [median, long, (COUNTS, MDC, 0)])
    assert recording.leads == LEADS and len(recording.signal) == 2500
    np.testing.assert_allclose(recording.signal, COUNTS / 1000, atol=1e-6)


@pytest.mark.parametrize(
    "channel",
    [
        lambda lead: (f"MDC_ECG_LEAD_{lead.upper()}", "MDC", "a channel"),
        lambda lead: (dict(zip(LEADS, [c[0] for c in CODED["SCPECG"]]))[lead], "SCP-ECG", "x"),
        lambda lead: (lead, "99LOCAL", ""),
        lambda lead: ("17", "99LOCAL", f"Lead {lead.lower()}"),
    ],
)
def test_leads_by_other_writings_of_their_codes(tmp_path, channel):
    recording = read(tmp_path, [(COUNTS, [channel(lead) for lead in LEADS], 0)])
    assert recording.leads == LEADS


@pytest.mark.parametrize(
    "about, years",
    [
        ({"PatientAge": "61Y"}, 61),
        ({"PatientAge": " 061y"}, 61),
        ({"PatientAge": "061"}, 61),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "999Y"}, None),
        ({"PatientBirthDate": "19560601", "StudyDate": "20200102"}, 63),
        ({"PatientBirthDate": "19560102", "AcquisitionDateTime": "20200102030405.5+0100"}, 64),
        ({"PatientBirthDate": "19560601"}, None),
        ({"PatientAge": "", "PatientBirthDate": ""}, None),
    ],
)
def test_ages(tmp_path, about, years):
    age = read(tmp_path, [(COUNTS, MDC, 0)], **about).age
    assert np.isnan(age) if years is None else age == years


@pytest.mark.parametrize(
    "sex, word", [("f", "Female"), ("F ", "Female"), ("male", "Male"), ("O", "Unknown")]
)
def test_sexes(tmp_path, sex, word):
    assert read(tmp_path, [(COUNTS, MDC, 0)], PatientSex=sex).sex == word


@pytest.mark.parametrize(
    "patient, own",
    [
        *[("P 17", "P 17"), ("", ""), ("unknown", ""), ("Anonymous", ""), ("0", "0")],
        # two that differ at the end alone, as long as DICOM lets them be
        *[(f"1.2.840.113619.2.404.3.2831164.{'5' * 31}.{n}", None) for n in (1, 2)],
    ],
)
def test_patients(tmp_path, patient, own):
    own = patient if own is None else own
    assert read(tmp_path, [(COUNTS, MDC, 0)], PatientID=patient).patient == own


@pytest.mark.parametrize(
    "channel",
    [
        ("2:65", "MDC", "-aVR"),
        ("5.6.3-9-65", "SCPECG", "aVR"),
        ("x", "99LOCAL", "Lead -aVR"),
        ("x", "99LOCAL", "Lead aVR (inverted)"),
        ("x", "99LOCAL", "aVR, negative"),
    ],
)
def test_a_lead_whose_sign_is_turned_is_derived_anew(tmp_path, channel):
    """The defect: -aVR, which Cabrera's order has, was taken for aVR."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = np.column_stack([COUNTS[:, :3], -COUNTS[:, 3], COUNTS[:, 4:]])
        made_dicom(tmp_path, [(counts, [*MDC[:3], channel, *MDC[4:]], 0)])
    recording = read_recording(tmp_path / "a.dcm", Given())
    assert recording.leads == LEADS and "aVR derived from I and II" in recording.flags
    limb = recording.signal[:, [0, 1]].mean(1)
    np.testing.assert_allclose(recording.signal[:, 3], -limb, atol=1e-6)


@pytest.mark.parametrize("how", ["MB", "AB"])
def test_companded_samples_are_refused(tmp_path, how):
    """The defect: 8 bits that stand for 14, by a curve, were taken for amplitudes."""
    pydicom = pytest.importorskip("pydicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made_dicom(tmp_path, [(COUNTS, MDC, 0)])
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        group = dataset.WaveformSequence[0]
        group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 8, how
        group.WaveformData = (COUNTS // 64).astype("i1").tobytes()
        dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(RecordError, match=f"samples in the companded form {how}, which is not re"):
        read_dicom(tmp_path / "a.dcm", None, None)


@pytest.mark.parametrize(
    "skews, refused",
    [
        ({"ChannelSampleSkew": [0, 5]}, True),
        ({"ChannelTimeSkew": [0, 0.02]}, True),  # s, 5 samples
        ({"ChannelTimeSkew": [0, 0.001]}, False),  # a quarter of a sample
        ({"ChannelSampleSkew": [2, 2]}, False),
    ],
)
def test_leads_that_were_delayed_are_refused(tmp_path, skews, refused):
    """The defect: the delay of a channel was not looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made_dicom(tmp_path, [(COUNTS[:, :2], MDC[:2], 0)], skews=skews)
    if refused:
        with pytest.raises(RecordError, match="leads that were sampled at different times"):
            read_dicom(tmp_path / "a.dcm", None, None)
    else:
        assert read_dicom(tmp_path / "a.dcm", None, None).leads == ("I", "II")


@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, part):
    made_dicom(tmp_path, [(COUNTS, MDC, 0)])
    data = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data[: int(part * len(data))])
    with pytest.raises(RecordError, match="damaged DICOM file|no DICOM file|without waveforms"):
        read_dicom(tmp_path / "a.dcm", None, None)


def test_counts_that_mark_missing_samples_are_missing(tmp_path):
    pydicom, counts = pytest.importorskip("pydicom"), COUNTS.copy()
    counts[100:120, 3] = -32768
    made_dicom(tmp_path, [(counts, MDC, 0)])
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    padding = np.int16(-32768).tobytes()
    dataset.WaveformSequence[0].add_new("WaveformPaddingValue", "OW", padding)
    dataset.save_as(tmp_path / "a.dcm")
    signal = read_dicom(tmp_path / "a.dcm", None, None).signal
    np.testing.assert_array_equal(np.isnan(signal), counts == -32768)


@pytest.mark.parametrize("cut", [(6, 5), (6, 0), (1, 0)])
def test_groups_that_share_a_lead_are_joined(tmp_path, cut):
    end, begin = cut
    parts = [(COUNTS[:, :end], MDC[:end], 0), (COUNTS[:, begin:], MDC[begin:], 0)]
    recording = read(tmp_path, parts)
    assert sorted(recording.leads) == sorted(LEADS) and not recording.flags
    order = [recording.leads.index(lead) for lead in LEADS]
    np.testing.assert_allclose(recording.signal[:, order], COUNTS / 1000, atol=1e-6)


def test_leads_of_a_group_that_is_shorter_are_named(tmp_path):
    recording = read(tmp_path, [(COUNTS[:, :6], MDC[:6], 0), (COUNTS[:2000, 5:], MDC[5:], 0)])
    assert recording.leads == LEADS[6:][:0] + LEADS[5:]
    assert recording.flags == ("other waveforms left out: without a name (I II III aVR aVL)",)


def test_another_name_of_a_lead(tmp_path):
    """The defect: a channel that --lead_names calls a lead was read as no sample at all."""
    channels = [("I", "99LOCAL", ""), ("MLII", "99LOCAL", "MLII")]
    made_dicom(tmp_path / "in", [(COUNTS[:, :2], channels, 0)])
    said = Given(lead_names={"mlii": "II"}, derive=False)
    recording = read_recording(tmp_path / "in" / "a.dcm", said)
    assert recording.leads == ("I", "II")
    np.testing.assert_allclose(recording.signal, COUNTS[:, :2] / 1000, atol=1e-6)
