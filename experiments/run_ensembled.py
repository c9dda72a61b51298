"""Signal and spectrogram branch joined, with or without a gate, trained and tested fold after fold.

    python experiments/run_ensembled.py --batch_size 128 --lr_rate 5e-3 --num_epoches 100 --gpu 0 \\
        --save_folder ./checkpoints/base_ensemble_wogating
    python experiments/run_ensembled.py --gating ... --save_folder ./checkpoints/base_ensemble_wgating
    python experiments/run_ensembled.py --finetune ./checkpoints [--gating] ...      both branches pre-trained
    python experiments/run_ensembled.py --config_path configs/downstream/fusion_st_mem.yaml --finetune encoder.pth ...

The last joins ST-MEM's encoder with the spectrogram branch.  More ways to start it: experiments/run_signal.py --help
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
    parser = training_parser(__doc__, "fusion", "ensemble_wogating or _wgating")
    parser.add_argument("--gating", action="store_true", help="weigh the branches by a learnt gate")
    parser.add_argument("--three_head", action="store_true", help="classify each branch alone, too, and train the sum "
                        "of the three losses")
    arguments = parser.parse_args(argv)
    model = {name: True for name in ("gating", "three_head") if getattr(arguments, name)}
    name = f"ensemble_{'wgating' if arguments.gating else 'wogating'}"
    train(arguments, name, __file__, argv, model)


if __name__ == "__main__":
    sys.exit(run_main(main))
