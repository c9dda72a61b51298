"""Extraction speed: records per second with 1 and 2 workers, against a plain single-process reference.

    python benchmarks/extraction.py --records 1000

Generated recordings (12 leads, 10 s, 500 Hz, the Challenge's layout) go to 100 Hz and, in a second round, to 100 and
250 Hz; the best of three turns counts.  The reference reads with wfdb.rdsamp and resamples lead by lead with scipy.signal.resample.  Worker start-up
is included, so give enough records.
"""
import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.data_extraction_without_preprocessing import extract
from util.leads import LEADS

FS, SAMPLES = 500, 5000


def generate(folder, n_records):
    """Write Challenge records of smooth noise."""
    import scipy.signal     # here and below, not at the top: every worker imports this file first

    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n_records):
        steps = rng.normal(0, 12, (SAMPLES, len(LEADS)))
        counts = scipy.signal.lfilter([1], [1, -0.98], steps, axis=0).round().astype("<i2")
        name = f"B{i:05d}"
        (folder / f"{name}.mat").write_bytes(
            np.array([30, len(LEADS), SAMPLES, 0, 4], "<i4").tobytes() + b"val\0" + counts.tobytes())
        lines = [f"{name} 12 {FS} {SAMPLES}"] + [
            f"{name}.mat 16+24 1000/mV 16 0 {counts[0, k]} 0 0 {lead}" for k, lead in enumerate(LEADS)]
        (folder / f"{name}.hea").write_text("\n".join(lines) + "\n#Age: 50\n#Sex: Male\n#Dx: 426783006\n")


def reference(folder, target_fs, output):
    """The plain way, one process: every lead of every record, kept as int16 microvolts."""
    import scipy.signal
    import wfdb

    for path in sorted(folder.glob("*.hea")):
        signal, fields = wfdb.rdsamp(str(path.with_suffix("")))
        for fs in target_fs:
            length = int(len(signal) * fs / fields["fs"])
            leads = [scipy.signal.resample(signal[:, k], length) for k in range(len(LEADS))]
            np.save(output / f"{path.stem}-{fs}.npy", np.rint(np.stack(leads, 1) * 1000).astype(np.int16))


def seconds(work, output, *args):
    """Best time of three turns, each into a fresh folder ``output``."""
    times = []
    for _ in range(3):
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        start = time.perf_counter()
        work(*args)
        times.append(time.perf_counter() - start)
    return min(times)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1000, help="default: %(default)s")
    n = parser.parse_args(argv).records
    with tempfile.TemporaryDirectory() as temporary:
        folder, output = Path(temporary) / "ecgs", Path(temporary) / "reference"
        generate(folder, n)
        for target_fs in ([100], [100, 250]):
            plain = n / seconds(reference, output, folder, target_fs, output)
            print(f"500 Hz to {target_fs} Hz\n  wfdb + scipy, 1 process  {plain:8.0f} records/s   1.00")
            for workers in (1, 2):
                rate = n / seconds(extract, output, folder, output, target_fs, workers)
                print(f"  extraction, {workers} worker(s)   {rate:8.0f} records/s  {rate / plain:5.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
