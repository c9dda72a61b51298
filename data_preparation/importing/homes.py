"""Where public data sets are published."""

from dataclasses import dataclass

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Home:
    """Where a set is published.

    Attributes:
        url: of a folder with a SHA256SUMS.txt (PhysioNet), of a record in Zenodo's API, or of a
            collection's articles in figshare's.
        only: beginnings of the paths that are wanted, all where empty.
    """

    url: str
    only: tuple[str, ...] = ()


SETS = {
    "ptbxl": Home(
        "https://physionet.org/files/ptb-xl/1.0.3/",
        ("records500/", "ptbxl_database.csv", "scp_statements.csv", "LICENSE.txt"),
    ),
    "challenge2020": Home("https://physionet.org/files/challenge-2020/1.0.2/", ("training/",)),
    "challenge2021": Home("https://physionet.org/files/challenge-2021/1.0.3/", ("training/",)),
    "cpsc2018": Home("https://physionet.org/files/challenge-2021/1.0.3/", ("training/cpsc_2018/",)),
    "chapman_ningbo": Home("https://physionet.org/files/ecg-arrhythmia/1.0.0/"),
    "physionet2017": Home(
        "https://physionet.org/files/challenge-2017/1.0.0/",
        ("training2017.zip", "REFERENCE-v3.csv"),
    ),
    "mimic_iv_ecg": Home("https://physionet.org/files/mimic-iv-ecg/1.0/"),
    "code15": Home("https://zenodo.org/api/records/4916206"),
    "sph": Home("https://api.figshare.com/v2/collections/5779802/articles?page_size=100"),
}
