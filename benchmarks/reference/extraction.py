"""Extraction the plain way, in one process: every lead of every record by wfdb and scipy."""

import numpy as np
import scipy.signal
import wfdb

from util.leads import LEADS


def plain_extraction(folder, target_fs, output):
    """Every recording of ``folder`` at each rate, kept as int16 microvolts in ``output``."""
    for path in sorted(folder.glob("*.hea")):
        signal, fields = wfdb.rdsamp(str(path.with_suffix("")))
        for fs in target_fs:
            length = int(len(signal) * fs / fields["fs"])
            leads = [scipy.signal.resample(signal[:, k], length) for k in range(len(LEADS))]
            np.save(
                output / f"{path.stem}-{fs}.npy",
                np.rint(np.stack(leads, 1) * 1000).astype(np.int16),
            )
