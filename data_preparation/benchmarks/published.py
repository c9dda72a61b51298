"""What is known of each public data set: names of its records, folds and how many there are.

``sets.py`` turns the metadata into labels and splits.
"""

from dataclasses import dataclass

TENTHS = {"train": [0, 1, 2, 3, 4, 5, 6, 7], "valid": [8], "test": [9]}  # of folds that we make
CPSC_COUNTS = {
    "cpsc2018 normal": 918,
    "cpsc2018 AF": 1221,
    "cpsc2018 I-AVB": 722,
    "cpsc2018 LBBB": 236,
    "cpsc2018 RBBB": 1857,
    "cpsc2018 PAC": 616,
    "cpsc2018 PVC": 700,
    "cpsc2018 STD": 869,
    "cpsc2018 STE": 220,
}
_PTBXL_CLASSES = {
    "ptbxl_all classes": 71,
    "ptbxl_diagnostic classes": 44,
    "ptbxl_subdiagnostic classes": 23,
    "ptbxl_superdiagnostic classes": 5,
    "ptbxl_form classes": 19,
    "ptbxl_rhythm classes": 12,
}
_PTBXL_PARTS = {
    "superdiagnostic": (17084, 2146, 2158),
    "subdiagnostic": (17084, 2146, 2158),
    "form": (7197, 901, 880),
    "rhythm": (16832, 2100, 2098),
}


@dataclass(frozen=True)
class Benchmark:
    """A data set.

    Attributes:
        name_of: a pattern; its first group is the key of a record of that name.
        versions: {version: {quantity: count}}, quantities as ``tables.count`` names them.
        given: folds of each part, None where the splits say train, valid and test themselves.
        numbered: whether keys are numbers, so that leading zeros in names do not count.
        databases: of a store, which hold its recordings, as ``known_sets.SETS`` calls them.
    """

    name_of: str
    versions: dict[str, dict[str, int]]
    given: dict[str, list[int]] | None = None
    numbered: bool = False
    databases: tuple[str, ...] = ()


BENCHMARKS = {
    "ptbxl": Benchmark(
        r"(?:HR)?(\d+)(?:_[hl]r)?",
        {
            "1.0.3": {
                "records": 21799,
                **_PTBXL_CLASSES,
                **{
                    f"ptbxl_{task} {part}": count
                    for task, counts in _PTBXL_PARTS.items()
                    for part, count in zip(("train", "valid", "test"), counts)
                },
            },
            "1.0.1": {"records": 21837, "patients": 18885, **_PTBXL_CLASSES},
        },
        {"train": [1, 2, 3, 4, 5, 6, 7, 8], "valid": [9], "test": [10]},
        numbered=True,
        databases=("ptb-xl",),
    ),
    "code15": Benchmark(
        r"(\d+)",
        {"2021": {"records": 345779, "patients": 233770}},
        TENTHS,
        numbered=True,
        databases=("code15",),
    ),
    "cpsc2018": Benchmark(
        r"(A\d{4})",
        {"2018": {"records": 6877, **CPSC_COUNTS}},
        TENTHS,
        databases=("cpsc_2018",),
    ),
    "chapman_ningbo": Benchmark(
        r"(JS\d+)",
        {"1.0.0": {"records": 45152}},
        TENTHS,
        databases=("chapman_ningbo", "chapman_shaoxing", "ningbo"),
    ),
    "sph": Benchmark(
        r"(A\d{5})",
        {"1": {"records": 25770, "patients": 24666, "sph classes": 44}},
        databases=("sph",),
    ),
    "physionet2017": Benchmark(
        r"(A\d{5})",
        {
            # by class (m); both sum to the 8,528 records
            "v3": {
                "records": 8528,
                "physionet2017 normal": 5076,
                "physionet2017 AF": 758,
                "physionet2017 other": 2415,
                "physionet2017 noisy": 279,
            },
            "v1": {
                "records": 8528,
                "physionet2017 normal": 5154,
                "physionet2017 AF": 771,
                "physionet2017 other": 2557,
                "physionet2017 noisy": 46,
            },
        },
        TENTHS,
        databases=("physionet2017",),
    ),
    "mimic_iv_ecg": Benchmark(
        r"(\d+)", {"1.0": {"records": 800035}}, TENTHS, databases=("mimic_iv_ecg",)
    ),
}
