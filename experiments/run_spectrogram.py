"""Spectrogram branch alone: SE-ResNet-34 on the spectrogram of 2.5 s crops, trained and tested fold after fold.

    python experiments/run_spectrogram.py --batch_size 256 --lr_rate 5e-3 --num_epoches 200 --gpu 0 \\
        --save_folder ./checkpoints/base_spectrogram
    python experiments/run_spectrogram.py --finetune ./checkpoints/DINO_spectrogram_student.pth ...

The spectrogram is computed in the model.  More ways to start it: python experiments/run_signal.py --help
Phan et al. (BHI 2022), see experiments/baselines.py.
"""
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.baselines import run_baseline
from util.program import run_main

main = partial(run_baseline, "run_spectrogram", __doc__)

if __name__ == "__main__":
    sys.exit(run_main(main))
