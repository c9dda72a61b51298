"""Recordings of any file: which there are, and one function that reads one.

for place in find_places("ecgs", Given(fs=500)):
    recording = read_recording(place, Given(fs=500))
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from util.console import note, quietly
from util.errors import ConfigError, ECGError, RecordError
from util.files import find_files
from util.formats.array_files import (
    names_a_lead,
    open_array,
    read_array,
    read_csv,
    row_names,
    shape_of,
)
from util.formats.dicom import read_dicom
from util.formats.hospital_files import ENDINGS, read_hospital
from util.formats.wfdb_files import read_header, read_signal
from util.leads import LEADS
from util.recordings.derived_leads import with_derived_leads
from util.recordings.flags import Given
from util.recordings.plausible import POSSIBLE_MV, USUAL_MV, Looks, Told, judge
from util.recordings.recording import Recording, check_name, checked, flat_leads

WFDB, NPY, HDF5, CSV, DICOM, HOSPITAL = "WFDB", "npy", "HDF5", "CSV", "DICOM", "hospital"
KINDS = {".hea": WFDB, ".npy": NPY, ".h5": HDF5, ".hdf5": HDF5, ".csv": CSV, ".dcm": DICOM}
KINDS |= dict.fromkeys(ENDINGS, HOSPITAL)
NO_FS = "--fs is missing: {} files do not say at how many Hz they were sampled"
ARRAYS = (NPY, HDF5)
SELF_DESCRIBED = (WFDB, DICOM, HOSPITAL)  # their files say rate, unit and leads
READERS: dict[str, Callable[..., Recording]] = {
    NPY: read_array,
    HDF5: read_array,
    CSV: read_csv,
    DICOM: read_dicom,
    HOSPITAL: read_hospital,
}
_SIGNS = {b"\x93NUMPY": NPY, b"\x89HDF\r\n": HDF5, b"<": HOSPITAL, b"\xef\xbb\xbf<": HOSPITAL}


class Place(NamedTuple):
    """Where a recording lies.

    Attributes:
        file: its file.
        kind: of that, one of the values of ``KINDS``.
        name: of the recording.
        row: its place in a file of many; None where the file is its own.
    """

    file: Path
    kind: str
    name: str
    row: int | None = None

    def __str__(self) -> str:
        return str(self.file) if self.row is None else f"{self.file}/{self.name}"


# ============ which there are ============
def find_places(given: str | Path, said: Given) -> list[Place]:
    """Return the recordings of a file, or of all files in a folder, at any depth.

    Args:
        given: the file or folder; a WFDB recording is named with or without .hea.
        said: what is said of them.

    Raises:
        ECGError: there is none; ConfigError: ``said`` says what they say themselves.
    """
    path = Path(given)
    kinds = _recordings_in(path, said) if path.is_dir() else {_file(path): kind_of(_file(path))}
    if not kinds:
        raise ECGError(f"{given}: no recording there; files may end in {', '.join(KINDS)}")
    needless = needless_flags(said) if {*kinds.values()} <= {*SELF_DESCRIBED} else []
    if needless:
        raise ConfigError(
            f"{', '.join(needless)}: the files of {given} say themselves what they hold; leave it "
            "out"
        )
    return [place for file, kind in kinds.items() for place in _places(file, kind, said)]


def check_fs(places: Iterable[Place], said: Given) -> None:
    """Raise a ConfigError where no recording can be read without --fs, which is missing.

    Of a folder that is watched each file is asked when it comes: others may follow.
    """
    kinds = {place.kind for place in places}
    if said.fs is None and kinds.isdisjoint(SELF_DESCRIBED):
        raise ConfigError(NO_FS.format(" and ".join(sorted(kinds))))


def needless_flags(said: Given) -> list[str]:
    """Return the flags given that say of files what some say themselves."""
    names = ("fs", "units", "leads", "layout", "dataset")
    return [f"--{name}" for name in names if getattr(said, name)]


def kind_of(path: Path) -> str:
    """Return which of the values of KINDS a file is, by its ending, else by its first bytes.

    Raises:
        ECGError: it is none.
    """
    kind = KINDS.get(path.suffix.lower()) or _kind_inside(path)
    if not kind:
        raise ECGError(f"{path}: its ending is none of {', '.join(KINDS)}")
    return kind


def _kind_inside(path: Path) -> str | None:
    """Which kind the first bytes of a file tell, if any."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return DICOM
    return next((kind for sign, kind in _SIGNS.items() if start.startswith(sign)), None)


def name_of(path: str | Path) -> str:
    """Return the name of a recording in a file of its own: without its ending, if that is one."""
    path = Path(path)
    return path.stem if path.suffix.lower() in KINDS else path.name


def kinds_in(folder: Path) -> dict[str, str]:
    """Return {path relative to a folder: kind} of the files in it that hold recordings.

    They go by their endings; where no file has one of KINDS, by their first bytes, as DICOM files
    are often named by a number.  A file of signals beside its WFDB header is none of its own.
    """
    names = find_files(folder, (*KINDS, *map(str.upper, KINDS)))
    kinds = {name: KINDS[name[name.rindex(".") :].lower()] for name in names}
    for name in names:
        if kinds[name] == HOSPITAL and f"{name.rpartition('.')[0]}.hea" in kinds:
            del kinds[name]
    if kinds:
        return kinds
    inside = {name: _kind_inside(folder / name) for name in find_files(folder, "")}
    return {name: kind for name, kind in inside.items() if kind}


def _file(path: Path) -> Path:
    """The file of one recording, named with or without .hea."""
    header = path.with_name(f"{path.name}.hea")
    for file in (header, path) if path.suffix.lower() not in KINDS else (path, header):
        if file.is_file():
            return file
    raise ECGError(f"{path}: there is no such file or folder")


def _recordings_in(folder: Path, said: Given) -> dict[Path, str]:
    """{file: kind} of a folder; CSV files without leads in their first line are tables."""
    kinds = {folder / name: kind for name, kind in kinds_in(folder).items()}
    tables = [
        file
        for file, kind in kinds.items()
        if kind == CSV and not names_a_lead(file, said.lead_names)
    ]
    if tables:
        note(
            "CSV files whose first line names no lead, taken for tables and not for recordings: "
            f"{len(tables)}, such as {tables[0].name}"
        )
    for file in tables:
        del kinds[file]
    return kinds


def _places(file: Path, kind: str, said: Given) -> Iterator[Place]:
    """The recordings of a file; a damaged one has one, for its reader to say so."""
    number, named = 0, None
    if kind in ARRAYS:
        try:
            array = open_array(file, said.dataset)
            if shape_of(array, said.leads or LEADS, said.layout)[0]:
                number, named = array.shape[0], row_names(array, None, file.stem)
        except (RecordError, OSError):
            pass
    if named is None:
        yield Place(file, kind, name_of(file))
    else:
        for row in range(number):
            yield Place(file, kind, named(row), row)


# ============ reading one ============
def read_recording(
    place: Place | str | Path, said: Given | None = None, *, min_seconds: float = 0.0
) -> Recording:
    """Read a recording: checked, named, with the limb leads that follow from others.

    Args:
        place: where it lies, see ``find_places``, or the file that holds it alone.
        said: what is said of it.
        min_seconds: shorter ones are refused.

    Raises:
        RecordError: why it cannot be used.
        ECGError: --fs or a package is missing.
    """
    said = said or Given()
    if not isinstance(place, Place):
        file = _file(Path(place))
        place = Place(file, kind_of(file), name_of(file))
    check_name(place.name, "record name")
    recording = _read(place, said, min_seconds)
    recording = checked(recording, min_seconds, said.lead_names, trim=said.trim)
    remarks: tuple[str, ...] = ()
    if place.kind not in SELF_DESCRIBED:
        remarks = _judge(recording, place, said)
    if said.derive:
        recording = with_derived_leads(recording)
    flags = recording.flags + flat_leads(recording.signal, recording.leads) + remarks
    return replace(recording, name=place.name, flags=flags)


def _judge(recording: Recording, place: Place, said: Given) -> tuple[str, ...]:
    """Look whether a recording can be what was said of it, see ``plausible``; return remarks on
    what --assume overrules, and on an amplitude that ECGs hardly have.
    """
    looks = Looks()
    looks.add(place.name, "", recording)
    flags = ("fs", "units", "leads") if place.kind in ARRAYS else ("fs", "units")
    try:
        with quietly():
            overruled = judge(
                looks, Told(frozenset(flags), bool(said.units), said.leads or (), said.assume)
            )
    except ECGError as error:
        raise RecordError(str(error)) from None
    (span,), (low, high), (least, most) = looks.spans, USUAL_MV, POSSIBLE_MV
    if low <= span <= high:
        return tuple(overruled)
    kind = "few ECGs have" if least <= span <= most else "no ECG has"
    return (*overruled, f"peak to peak {span:.3g} mV, which {kind}: is --units right?")


def _read(place: Place, said: Given, min_seconds: float) -> Recording:
    """A recording as its reader makes it."""
    if place.kind == WFDB:
        return read_signal(read_header(place.file), min_seconds, said.lead_names)
    options: dict = {}
    if place.kind not in SELF_DESCRIBED:
        if said.fs is None:
            raise ConfigError(NO_FS.format(place.kind))
        options = {"fs": said.fs, "units": said.units}
    if place.kind in ARRAYS:
        options |= {"leads": said.leads or LEADS, "layout": said.layout, "dataset": said.dataset}
    return READERS[place.kind](place.file, place.row, None, **options)
