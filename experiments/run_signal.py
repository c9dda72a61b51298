"""Signal branch alone: xresnet1d50 on 2.5 s crops at 100 Hz, trained and tested fold after fold.

    python experiments/run_signal.py --batch_size 128 --lr_rate 5e-3 --num_epoches 100 --gpu 0 \\
        --save_folder ./checkpoints/base_signal
    python experiments/run_signal.py --fold 0 --gpu 0,1 --resume auto ...            one fold, two GPUs, resumed
    python experiments/run_signal.py --finetune ./checkpoints/DINO_signal_student.pth ...
    torchrun --nproc_per_node 2 experiments/run_signal.py ...                        the same without --gpu 0,1

Phan et al. (BHI 2022), see experiments/baselines.py.
"""
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.baselines import run_baseline
from util.program import run_main

main = partial(run_baseline, "run_signal", __doc__)

if __name__ == "__main__":
    sys.exit(run_main(main))
