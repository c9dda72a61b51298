"""Simulated 12-lead ECGs, written as the files of the PhysioNet/CinC Challenge 2020.

Everything in this project runs on a machine without data: simulate, then prepare the folder as if
it were PhysioNet's.

    python data_preparation/simulate_physionet2020.py --output_dir data_folder/datasets \\
        --records 400 --seed 0

writes six databases with their own sampling rates and lengths, 1000 records a sub folder, each
record a text header (.hea: rate, leads, checksums, age, sex, SNOMED CT codes) and a MATLAB v4
file (.mat: int16 ``val``, 12 x samples). Record i depends on (seed, i) alone: more records later
leave the first ones as they were, and the number of processes changes nothing.  The hearts are
those of ``simulator/ecg_model.py``; the diagnoses follow from their parameters.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.errors import ECGError
from util.flags import Parser
from util.processes.program import run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="empty folder to fill")
    parser.add_argument(
        "--records", type=int, default=400, help="how many; 400 make a demo (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="same seed, same bytes (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)"
    )
    parser.add_argument(
        "--full_length", action="store_true", help="INCART's 30 minutes instead of 30 to 60 s"
    )
    args = parser.parse_args(argv)
    if args.records < 1 or args.seed < 0:
        raise ECGError("--records must be at least 1 and --seed at least 0")

    from data_preparation.simulator.challenge_files import simulate_folder, summary

    totals = simulate_folder(
        args.output_dir, args.records, args.seed, args.workers, full_length=args.full_length
    )
    print(f"{args.records} records in {args.output_dir}: {summary(totals)}")


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))
