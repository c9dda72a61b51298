"""A store of a million records: how long it takes to open, and whether an import's memory grows with the records.

    python benchmarks/store_scale.py
    python benchmarks/store_scale.py --records 100000 --import_records 1000 10000

Opening is measured in a process of its own, wall clock and processor time, the best of three, on a store of tiny
signals of which every fifth record has one lead.  Imports take an .npy and an HDF5 file of random signals of 2 s in
12 leads; the peak resident size of the one process that imports is what counts (VmHWM, so on Linux alone).
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from util.store import spread, write_store

FS, SAMPLES = 100, 200
OPEN = r"""
import json, re, sys, time
import pandas
from util.store import RecordStore
wall, cpu = time.perf_counter(), time.process_time()
store = RecordStore(sys.argv[1])
opened = time.perf_counter() - wall, time.process_time() - cpu
wall = time.perf_counter()
one = store.has_leads(["I", "II"]).sum()
print(json.dumps([*opened, time.perf_counter() - wall, int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) / 1024]))
"""
IMPORT = r"""
import json, re, sys, time
from data_preparation import import_arrays
wall = time.perf_counter()
assert import_arrays.main(sys.argv[1:]) == 0
print(json.dumps([time.perf_counter() - wall, int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) / 1024]))
"""


def in_process(code, *arguments):
    """The last line that a program prints, run in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(n):
    """Rows of a store as MIMIC-IV-ECG's: unique names, paths and patients, two codes each."""
    counts = np.random.default_rng(0).integers(-500, 500, (4, 12)).astype("<i2")
    codes, one_lead = ["426783006", "164889003", "427084000", "111"], spread(counts[:, :1], ("I",))
    for i in range(n):
        row = {"record": f"R{i:07d}", "database": ("code15", "mimic", "ptb-xl")[i % 3], "fs_original": 500.0,
               "scale_uv": 1, "age": float(20 + i % 70), "sex": "Male", "dx": [codes[i % 4], codes[(i // 3) % 4]],
               "fold": i % 10, "patient": f"p{i // 2}", "path": f"files/p{i // 1000}/R{i:07d}.hea"}
        yield (row | {"leads": "I"}, one_lead) if i % 5 == 0 else (row, counts)


def write_arrays(folder, n):
    """<n>.npy and <n>.h5 with n recordings, (n, SAMPLES, 12), written in parts."""
    import h5py

    random, part = np.random.default_rng(0), 1000
    array = np.lib.format.open_memmap(folder / f"{n}.npy", "w+", "<f4", (n, SAMPLES, 12))
    with h5py.File(folder / f"{n}.h5", "w") as file:
        tracings = file.create_dataset("tracings", array.shape, "<f4", chunks=(16, SAMPLES, 12))
        for first in range(0, n, part):
            values = random.normal(0, 0.3, array[first:first + part].shape).astype("<f4")
            array[first:first + part] = tracings[first:first + part] = values
    array.flush()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, help="in the store (default: %(default)s)")
    parser.add_argument("--import_records", type=int, nargs="+", default=[10_000, 100_000], metavar="N",
                        help="sizes of imports (default: 10000 100000)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_store(folder / "store", FS, rows(args.records), [])
        wall, cpu, leads, peak = min(in_process(OPEN, folder / "store") for _ in range(3))
        print(f"store of {args.records} records: opens in {wall:.2f} s ({cpu:.2f} s of processor time), has_leads in "
              f"{1000 * leads:.1f} ms, peak {peak:.0f} MB")
        for n in args.import_records:
            write_arrays(folder, n)
            for ending in ("npy", "h5"):
                wall, peak = in_process(IMPORT, "--input", folder / f"{n}.{ending}", "--fs", FS, "--output_dir",
                                        folder / f"{n}-{ending}", "--target_fs", FS, "--workers", 1)
                print(f"import of {n} recordings from .{ending}: {n / wall:.0f} records/s, peak {peak:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
