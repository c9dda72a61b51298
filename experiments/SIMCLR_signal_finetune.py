"""Fine-tune what experiments/SIMCLR_signal.py learnt: the head alone for the first ten epochs, then everything.

    python experiments/SIMCLR_signal_finetune.py                     from ./checkpoints/SIMCLR_signal.pth, all ten folds
    python experiments/SIMCLR_signal_finetune.py --fold 0 --gpu 0,1

experiments/run_signal.py with configs/overlay/simclr_finetune.yaml (batch 256, 80 epochs, lr 5e-3 to 1e-4); its other
flags, too.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.common import train, training_parser
from util.program import run_main


def main(argv=None):
    """Command line; see the module's docstring."""
    argv = sys.argv[1:] if argv is None else argv
    parser = training_parser(__doc__, "signal", "SIMCLR_signal")
    parser.set_defaults(overlay=["simclr_finetune"], finetune="./checkpoints/SIMCLR_signal.pth")
    train(parser.parse_args(argv), "SIMCLR_signal", __file__, argv)


if __name__ == "__main__":
    sys.exit(run_main(main))
