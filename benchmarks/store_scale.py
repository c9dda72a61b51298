"""A store of a million records: how long it takes to open, and how the memory of an import and of
the building of a store grows with the records.

    python benchmarks/store_scale.py
    python benchmarks/store_scale.py --records 0 --import_records 10000 100000 1000000 --forms npy

Opening is measured in a process of its own, wall clock and processor time, the best of three, on
a store of tiny signals of which every fifth record has one lead.  Imports take 12 leads of 2 s,
random, out of an .npy file, an HDF5 file with names (exam_id), or a folder of a file each; then
reformat_memmap.py builds the store.  What counts is the peak resident size of the one process
that works (VmHWM, so on Linux alone), and how much of it each further record costs between two
sizes.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from util.data.store import spread, write_store
from util.flags import Parser

FS, SAMPLES = 20, 40
FORMS = ("npy", "h5", "folder")
STATUS = r"""
import json, re, sys, time
def peak():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\s*(\d+)", file.read())[1]) / 1024
"""
OPEN = (
    STATUS
    + r"""
import pandas
from util.data.store import RecordStore
wall, cpu = time.perf_counter(), time.process_time()
store = RecordStore(sys.argv[1])
opened = time.perf_counter() - wall, time.process_time() - cpu
wall = time.perf_counter()
one = store.has_leads(["I", "II"]).sum()
print(json.dumps([*opened, time.perf_counter() - wall, peak()]))
"""
)
WORK = (
    STATUS
    + r"""
import importlib
program, wall = importlib.import_module(f"data_preparation.{sys.argv[1]}"), time.perf_counter()
assert not program.main(sys.argv[2:])
print(json.dumps([time.perf_counter() - wall, peak()]))
"""
)


def in_process(code, *arguments):
    """The last line that a program prints, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def rows(n):
    """Rows of a store as MIMIC-IV-ECG's: unique names, paths and patients, two codes each."""
    counts = np.random.default_rng(0).integers(-500, 500, (4, 12)).astype("<i2")
    codes, one_lead = ["426783006", "164889003", "427084000", "111"], spread(counts[:, :1], ("I",))
    for i in range(n):
        row = {
            "record": f"R{i:07d}",
            "database": ("code15", "mimic", "ptb-xl")[i % 3],
            "fs_original": 500.0,
            "scale_uv": 1,
            "age": float(20 + i % 70),
            "sex": "Male",
            "dx": [codes[i % 4], codes[(i // 3) % 4]],
            "fold": i % 10,
            "patient": f"p{i // 2}",
            "path": f"files/p{i // 1000}/R{i:07d}.hea",
        }
        yield (row | {"leads": "I"}, one_lead) if i % 5 == 0 else (row, counts)


def write_recordings(path, n):
    """n recordings of shape (SAMPLES, 12), written in parts: as an .npy or HDF5 file, or a folder
    of .npy files.
    """
    import h5py

    def parts():
        random = np.random.default_rng(0)
        for first in range(0, n, 1000):
            yield first, random.normal(0, 0.3, (min(1000, n - first), SAMPLES, 12)).astype("<f4")

    if path.suffix == ".npy":
        array = np.lib.format.open_memmap(path, "w+", "<f4", (n, SAMPLES, 12))
        for first, values in parts():
            array[first : first + len(values)] = values
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            array = file.create_dataset(
                "tracings", (n, SAMPLES, 12), "<f4", chunks=(16, SAMPLES, 12)
            )
            file["exam_id"] = 10_000_000 + np.arange(n)
            for first, values in parts():
                array[first : first + len(values)] = values
    else:
        for first, values in parts():
            for row, value in enumerate(values, first):
                folder = path / f"{row // 1000:05d}"
                folder.mkdir(parents=True, exist_ok=True)
                np.save(folder / f"{row:07d}.npy", value)


def measure(folder, form, sizes):
    """Import recordings of one form, build the store, and print time and memory, for each of some
    sizes.
    """
    before = {}
    for n in sizes:
        given, extracted, store = (
            folder / f"recordings.{form}",
            folder / "extracted",
            folder / "store",
        )
        write_recordings(given, n)
        steps = {
            "import": (
                "import_arrays",
                "--input",
                given,
                "--fs",
                FS,
                "--output_dir",
                extracted,
                "--target_fs",
                FS,
                "--workers",
                1,
            ),
            "store": ("reformat_memmap", "--input_dir", extracted, "--output_dir", store),
        }
        for step, command in steps.items():
            wall, peak = in_process(WORK, *command)
            growth = ""
            if step in before:
                smaller, low = before[step]
                growth = f", {(peak - low) * 2**20 / (n - smaller):.0f} bytes a further record"
            before[step] = n, peak
            print(
                f"{form} {step} of {n}: {n / wall:.0f} records/s, peak {peak:.1f} MB{growth}",
                flush=True,
            )
        for path in (given, extracted, store):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--records",
        type=int,
        default=1_000_000,
        help="in the store that is opened; 0: none (default: %(default)s)",
    )
    parser.add_argument(
        "--import_records",
        type=int,
        nargs="+",
        default=[10_000, 100_000],
        metavar="N",
        help="rising sizes of imports (default: 10000 100000)",
    )
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS, default=FORMS, help="of imports (default: all)"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if args.records:
            write_store(folder / "store", FS, rows(args.records), [])
            wall, cpu, leads, peak = min(in_process(OPEN, folder / "store") for _ in range(3))
            print(
                f"store of {args.records} records: opens in {wall:.2f} s ({cpu:.2f} s of "
                "processor "
                f"time), has_leads in {1000 * leads:.1f} ms, peak {peak:.0f} MB",
                flush=True,
            )
            shutil.rmtree(folder / "store")
        for form in args.forms:
            measure(folder, form, args.import_records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
