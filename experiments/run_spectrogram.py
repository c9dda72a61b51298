"""Spectrogram branch alone: SE-ResNet-34 on the spectrogram of 2.5 s crops, trained and tested fold after fold.

    python experiments/run_spectrogram.py --batch_size 256 --lr_rate 5e-3 --num_epoches 200 --gpu 0 \\
        --save_folder ./checkpoints/base_spectrogram
    python experiments/run_spectrogram.py --finetune ./checkpoints/DINO_spectrogram_student.pth ...

The spectrogram is computed in the model.  More ways to start it: python experiments/run_signal.py --help
Phan et al., Multimodality multi-lead ECG arrhythmia classification using self-supervised learning (BHI 2022).
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.common import train, training_parser
from util.program import run_main


def main(argv=None):
    """Command line; see the module's docstring."""
    argv = sys.argv[1:] if argv is None else argv
    train(training_parser(__doc__, "spectrogram").parse_args(argv), "spectrogram", __file__, argv)


if __name__ == "__main__":
    sys.exit(run_main(main))
