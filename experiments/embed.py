"""Write the features of an encoder, a row a record.

    python experiments/embed.py --weights output/st_mem/encoder.pth --input STORE --output F.npy
    python experiments/embed.py --weights encoder.pth --input RECORDINGS --output F.csv
    python experiments/embed.py --weights encoder.pth --input ecgs.npy --fs 500 --output F.npy
    torchrun --nproc_per_node 2 experiments/embed.py --weights encoder.pth --input STORE \\
        --output F.npy

STORE is the folder that holds fs100/, fs250/, ... (docs/data.md); RECORDINGS a file or a folder, in
any format of predict.py and with its flags, where what cannot be read is said, left out and listed
with its reason in F.unread.csv.  F.npy is float32 (records, width), and F.records.csv beside it
names the records; F.csv and F.parquet hold names and features in one table.  A record's features
are the mean over crops of the length of the training, as many as cover the record; --tokens writes
the tokens of its middle crop instead, (records, tokens, width).  Memory does not grow with the
records; the same command goes on where it was stopped.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.flags import Parser
from util.processes.program import run_main
from util.recordings.flags import Given, add_recording_flags


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--weights", required=True, metavar="PTH", help="encoder.pth, or weights of a classifier"
    )
    parser.add_argument(
        "--input", required=True, metavar="PATH", help="a store, a folder, or a file"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="a name that ends in .npy, .csv or .parquet"
    )
    parser.add_argument(
        "--tokens", action="store_true", help="tokens of the middle crop instead of features"
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=64,
        metavar="N",
        help="crops computed at a time, on each process (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cuda", "cpu"), help="default: %(default)s"
    )
    add_recording_flags(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

from util.data.store import checksum
from util.handover.embedding import Embeddings
from util.handover.load import load_encoder
from util.handover.to_embed import records_at
from util.processes import collectives


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    arguments = parse_arguments(argv)
    encoder = load_encoder(arguments.weights, collectives.start(arguments.device))
    Embeddings(
        encoder,
        records_at(arguments.input, encoder, Given.of(arguments)),
        Path(arguments.output),
        tokens=arguments.tokens,
        batch_size=arguments.batch_size,
    ).write(checksum(Path(arguments.weights).read_bytes()))


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command goes on where it stopped"))
