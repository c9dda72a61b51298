"""A representation's report card: what a linear map reads from frozen features of simulated ECGs.

    python experiments/report_card.py --weights A/encoder.pth B/encoder.pth --output_dir card

Heart rate, PR, QRS, QT and frontal axis of a simulated heart are known exactly.  A ridge
regression is fitted on the features of half of the recordings, its penalty chosen on a quarter,
and tested on the last quarter, beside the first encoder's network with random weights ("random").
What a linear map does not read may still be there: fine-tuning finds it with labels.

Leaves card.csv (R2 with its 95 % interval, mean absolute error in the measure's unit) and card.png.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.flags import Parser
from util.processes.devices import add_gpu_flag, one_device
from util.processes.program import run_main


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the module's docstring."""
    parser = Parser(description=__doc__)
    parser.add_argument("--weights", nargs="+", required=True, metavar="FILE", help="encoder files")
    parser.add_argument(
        "--records", type=int, default=2000, metavar="N", help="simulated (default: 2000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the simulation")
    parser.add_argument("--output_dir", default="./output/card", metavar="DIR")
    add_gpu_flag(parser, several=False)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments()  # --help and a wrong flag end here, before anything slow is imported

from experiments.evaluation.candidates import RANDOM, names_of, read_candidates
from experiments.evaluation.card import draw_card, features_of, named, read_linearly, simulated
from util.errors import ConfigError
from util.evaluation.figures import save_figure
from util.files import write_frame
from util.handover.load import AppliedEncoder, load_encoder

FEWEST = 100  # records


def encoders(paths: list[str]) -> dict[str, AppliedEncoder]:
    """Return the encoders by name, the first one's network with random weights last; it sees its
    input on the same scale.
    """
    files = [Path(path) for path in paths]
    found = {name: load_encoder(path) for name, path in zip(names_of(files), files)}
    first = next(iter(found.values()))
    network = read_candidates(paths[:1], None)[0].untrained(0)
    for (here, _), (there, _) in zip(network.standardizers(), first.network.standardizers()):
        here.load_state_dict(there.state_dict())
    random = AppliedEncoder(network, first.config, first.cropping, first.pipeline)
    return {**found, RANDOM: random}


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    given = parse_arguments(argv)
    if given.records < FEWEST or given.seed < 0:
        raise ConfigError(f"--records must be at least {FEWEST} and --seed at least 0")
    device, applied = one_device(given.gpu), encoders(given.weights)
    hearts = simulated(given.records, given.seed)
    found = {
        name: read_linearly(features_of(encoder.to(device), hearts.signals), hearts)
        for name, encoder in applied.items()
    }
    tables = {name: table for name, (table, _) in found.items()}
    first = next(iter(found.values()))[1]
    folder = Path(given.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_frame(folder / "card.csv", named(tables), float_format="%.4g")
    save_figure(draw_card(tables, first, hearts.truth[hearts.parts()[2]]), folder / "card.png")
    print(named(tables).to_string(index=False, float_format="{:.3f}".format))
    print(f"{folder / 'card.csv'} and card.png")


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command starts again"))
