"""Print what a weights file is: what it takes and gives, and what made it, as Markdown.

python experiments/describe.py output/st_mem/encoder.pth > CARD.md
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
        "weights", metavar="PTH", help="encoder.pth of a pre-training, or weights of a classifier"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

from util.handover.card import card


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    print(card(parse_arguments(argv).weights), end="")


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))
