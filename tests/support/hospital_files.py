"""Small exports of hospitals' systems for tests, written from descriptions of the formats, and a
stand-in for the package that reads them.
"""

import base64
import sys
import types
from types import SimpleNamespace

import numpy as np

from util.leads import LEADS

EIGHT = ("I", "II", *LEADS[6:])  # which MUSE keeps


def write_muse(path, counts, leads=EIGHT, fs=500, unit="MICROVOLTS", per_bit=4.88, crc=""):
    """GE MUSE XML of int16 (n, leads): the median beat first, then the rhythm."""

    def waveform(kind, samples):
        data = "".join(
            f"<LeadData><LeadByteCountTotal>{2 * len(samples)}</LeadByteCountTotal>"
            f"<LeadSampleCountTotal>{len(samples)}</LeadSampleCountTotal>"
            f"<LeadAmplitudeUnitsPerBit>{per_bit}</LeadAmplitudeUnitsPerBit>"
            f"<LeadAmplitudeUnits>{unit}</LeadAmplitudeUnits><LeadID>{lead}</LeadID>"
            f"<LeadSampleSize>2</LeadSampleSize>{crc}"
            f"<WaveFormData>{base64.encodebytes(samples[:, k].tobytes()).decode()}</WaveFormData>"
            "</LeadData>"
            for k, lead in enumerate(leads)
        )
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>{fs}</SampleBase>"
            f"<SampleExponent>0</SampleExponent>{data}</Waveform>"
        )

    path.write_text(
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<RestingECG><PatientDemographics>'
        "<PatientID>M-17</PatientID><PatientAge>63</PatientAge><AgeUnits>YEARS</AgeUnits>"
        "<Gender>FEMALE</Gender><PatientLastName>Müller</PatientLastName></PatientDemographics>"
        f"{waveform('Median', counts[:100])}{waveform('Rhythm', counts)}</RestingECG>",
        encoding="latin-1",
    )


def write_sierra(path, counts, fs=500, resolution=5):
    """Philips Sierra XML of int16 (n, 12), not compressed."""
    data = base64.b64encode(np.ascontiguousarray(counts.T, "<i2").tobytes()).decode()
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<restingecgdata><documentinfo>'
        "<documenttype>PhilipsECG</documenttype><documentversion>1.04</documentversion>"
        "</documentinfo><patient><generalpatientdata><patientid>M-17</patientid>"
        "<age><years>63</years></age><sex>Female</sex></generalpatientdata></patient>"
        '<dataacquisition date="2020-01-02" time="03:04:05"><signalcharacteristics>'
        f"<samplingrate>{fs}</samplingrate><resolution>{resolution}</resolution>"
        "<acquisitiontype>STD-12</acquisitiontype><numberchannelsvalid>12</numberchannelsvalid>"
        "</signalcharacteristics></dataacquisition><waveforms>"
        f'<parsedwaveforms numberofleads="12" leadlabels="{" ".join(LEADS)}" '
        f'durationperchannel="{1000 * len(counts) // fs}" samplespersecond="{fs}" '
        f'resolution="{resolution}" dataencoding="Base64" compression="Uncompressed">{data}'
        "</parsedwaveforms></waveforms></restingecgdata>",
        encoding="utf-8",
    )


def write_aecg(path, counts, fs=500, scale=2.5):
    """HL7 aECG of int16 (n, 12), with offsets."""
    sequences = "".join(
        f'<component><sequence><code code="MDC_ECG_LEAD_{lead.upper()}"/>'
        f'<value xsi:type="SLIST_PQ"><origin value="0" unit="uV"/>'
        f'<scale value="{scale}" unit="uV"/><digits>{" ".join(map(str, counts[:, k]))}</digits>'
        "</value></sequence></component>"
        for k, lead in enumerate(LEADS)
    )
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        '<effectiveTime><low value="20200102030405"/></effectiveTime>'
        "<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject>"
        '<id root="1" extension="M-17"/><subjectDemographicPerson>'
        '<administrativeGenderCode code="F"/><birthTime value="19560601"/>'
        "</subjectDemographicPerson></trialSubject></subject></subjectAssignment></componentOf>"
        '</timepointEvent></componentOf><component><series><code code="RHYTHM"/>'
        "<component><sequenceSet><component><sequence>"
        '<code code="TIME_RELATIVE"/><value xsi:type="GLIST_PQ"><head value="0" unit="s"/>'
        f'<increment value="{1 / fs}" unit="s"/></value></sequence></component>{sequences}'
        "</sequenceSet></component></series></component></AnnotatedECG>",
        encoding="utf-8",
    )


def write_edf(path, counts, fs=500, unit="uV", names=LEADS):
    """EDF+ of int16 (n, leads) in records of one second, one count a microvolt."""
    number, seconds = counts.shape[1], len(counts) // fs

    def field(width, values):
        return "".join(str(value).ljust(width)[:width] for value in values).encode("latin-1")

    header = field(8, ["0"]) + field(80, ["M-17 F 01-JUN-1956 X"])
    header += field(80, ["Startdate 02-JAN-2020 X X X"]) + b"02.01.2003.04.05"
    header += field(8, [256 * (number + 1)]) + field(44, ["EDF+C"])
    header += field(8, [seconds]) + field(8, [1]) + field(4, [number])
    header += field(16, [f"ECG {name}" for name in names]) + field(80, [""] * number)
    header += field(8, [unit] * number)
    for limit in (-32768, 32767, -32768, 32767):
        header += field(8, [limit] * number)
    header += field(80, [""] * number) + field(8, [fs] * number) + field(32, [""] * number)
    blocks = counts.reshape(seconds, fs, number).transpose(0, 2, 1)
    path.write_bytes(header + np.ascontiguousarray(blocks, "<i2").tobytes())


WRITERS = {
    "muse.xml": write_muse,
    "sierra.xml": write_sierra,
    "aecg.xml": write_aecg,
    "edf.edf": write_edf,
}


# ============ in place of ecgdatakit ============
class StandInError(Exception):
    """As the base of its errors."""


def made_lead(label, samples, fs=500, unit="mV"):
    """A lead as the package makes it."""
    return SimpleNamespace(
        label=label,
        samples=np.asarray(samples, float),
        sampling_rate=fs,
        units=unit,
        resolution_unit=unit,
        is_raw=not unit,
    )


def made_record(leads, kind="ge_muse_xml", patient="M-17", age=63, sex="F"):
    """A record as the package makes it."""
    return SimpleNamespace(
        leads=leads,
        source_format=kind,
        raw_metadata={},
        patient=SimpleNamespace(patient_id=patient, age=age, sex=sex),
    )


def stand_in(monkeypatch, parse, name="GE MUSE XML"):
    """Put a module in the place of ecgdatakit, whose FileParser.parse is ``parse(path)``."""
    module = types.ModuleType("ecgdatakit")
    module.ECGDataKitError = StandInError
    module.FileParser = SimpleNamespace(
        detect_format=lambda path: {"name": name} if name else None,
        parse=lambda path, units: parse(path),
    )
    monkeypatch.setitem(sys.modules, "ecgdatakit", module)
