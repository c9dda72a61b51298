"""Download a public data set from its own home: resumable, every file checked against its
published checksum.

    python data_preparation/download.py ptbxl
    python data_preparation/download.py code15 --output ./data_folder/code15 --unpack
    python data_preparation/download.py ptbxl \\
        --only records100/ ptbxl_database.csv scp_statements.csv

A file lies as <name>.part until it is complete and its checksum is right.  After a stop, the same
command goes on from there.  Sets that ask for a signed agreement cannot be had this way: the
error says what to do.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preparation.importing.homes import ARCHIVES, SETS, Home
from data_preparation.places import DOWNLOADS
from util.flags import Parser
from util.processes.program import run_main


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument("name", choices=SETS, help=", ".join(SETS), metavar="NAME")
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"default: {DOWNLOADS}/NAME")
    parser.add_argument("--url", help="another address of the set: a mirror with the same listing")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="BEGINNING",
        help="files whose path begins so, instead of those "
        "that training needs; --only records100/ for PTB-XL at 100 Hz",
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=4,
        metavar="N",
        help="files at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compute the checksums of finished files, too"
    )
    parser.add_argument(
        "--unpack", action="store_true", help="unpack archives beside themselves when all is here"
    )
    args = parser.parse_args(argv)
    if not 1 <= args.connections <= 16:
        parser.error("--connections must be 1 to 16")

    from data_preparation.importing.fetching import download, unpack

    home, output = SETS[args.name], args.output or Path(DOWNLOADS) / args.name
    home = Home(args.url or home.url, tuple(args.only or home.only))
    paths = download(home, output, connections=args.connections, verify=args.verify)
    for path in paths if args.unpack else ():
        if path.name.endswith(ARCHIVES):
            unpack(path)
    print(f"{len(paths)} files with the right checksum in {output}")


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command goes on where it stopped"))
