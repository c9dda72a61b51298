"""Small DICOM waveforms for tests."""

import numpy as np
import pytest

from util.leads import LEADS


def made_dicom(folder, parts, name="a", fs=250, skews=None, **about):
    """A DICOM file of groups (signal (n, leads) in uV, names or codes of its leads, offset in ms).

    ``skews``: {attribute: its value for each channel}.
    """
    pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom")
    from pydicom.dataset import Dataset

    def of(**cells):
        dataset = Dataset()
        for key, value in cells.items():
            setattr(dataset, key, value)
        return dataset

    folder.mkdir(exist_ok=True)
    groups = []
    for signal, leads, offset in parts:
        channels = [
            of(
                ChannelSourceSequence=[
                    of(CodeValue=code, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
                ],
                ChannelSensitivity=1,
                ChannelSensitivityCorrectionFactor=1,
                ChannelBaseline=0,
                ChannelSensitivityUnitsSequence=[of(CodeValue="uV")],
                WaveformBitsStored=16,
                **{key: values[place] for key, values in (skews or {}).items()},
            )
            for place, (code, scheme, meaning) in enumerate(leads)
        ]
        groups.append(
            of(
                WaveformOriginality="ORIGINAL",
                NumberOfWaveformChannels=len(leads),
                NumberOfWaveformSamples=len(signal),
                SamplingFrequency=fs,
                MultiplexGroupTimeOffset=offset,
                ChannelDefinitionSequence=channels,
                WaveformBitsAllocated=16,
                WaveformSampleInterpretation="SS",
                WaveformData=np.ascontiguousarray(signal, "<i2").tobytes(),
            )
        )
    dataset = of(WaveformSequence=groups, Modality="ECG", **about)
    dataset.SOPClassUID = pydicom.uid.TwelveLeadECGWaveformStorage
    dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    return folder


NUMBERS = (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)  # of the twelve leads in MDC and SCP-ECG
CODED = {
    "MDC": [(f"2:{n}", "MDC", f"lead {n}, described") for n in NUMBERS],
    "SCPECG": [(f"5.6.3-9-{n}", "SCPECG", "a channel") for n in NUMBERS],
    "words": [("x", "99LOCAL", f"{lead}, augmented or not, by us") for lead in LEADS],
    "Einthoven": [("x", "99LOCAL", f"ECG lead {lead} (Einthoven)") for lead in LEADS],
}
