"""Write the features of an encoder, a row a record.

    python experiments/embed.py --weights output/st_mem/encoder.pth --input STORE --output F.npy
    python experiments/embed.py --weights encoder.pth --input STORE --output F.csv
    torchrun --nproc_per_node 2 experiments/embed.py --weights encoder.pth --input STORE \\
        --output F.npy

STORE is the folder that holds fs100/, fs250/, ... (docs/data.md).  F.npy is float32 (records,
width), and F.records.csv beside it names the records; F.csv and F.parquet hold names and features
in one table.  A record's features are the mean over crops of the length of the training, as many
as cover the record; --tokens writes the tokens of its middle crop instead, (records, tokens,
width).  Memory does not grow with the store; the same command goes on where it was stopped.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.flags import Parser
from util.processes.program import run_main


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--weights", required=True, metavar="PTH", help="encoder.pth, or weights of a classifier"
    )
    parser.add_argument("--input", required=True, metavar="STORE", help="the records")
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
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

from util.data.store import checksum
from util.handover.embedding import Embeddings
from util.handover.load import load_encoder
from util.processes import collectives
from util.training.setup import store_at


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    arguments = parse_arguments(argv)
    encoder = load_encoder(arguments.weights, collectives.start(arguments.device))
    store = store_at(arguments.input, encoder.fs)
    made_by = {
        "weights": checksum(Path(arguments.weights).read_bytes()),
        "records": store.meta["records_crc32"],
        "tokens": arguments.tokens,
    }
    Embeddings(
        encoder,
        store,
        Path(arguments.output),
        tokens=arguments.tokens,
        batch_size=arguments.batch_size,
    ).write(made_by)


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command goes on where it stopped"))
