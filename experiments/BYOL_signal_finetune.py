"""Fine-tune what experiments/BYOL_signal.py learnt: the head alone for the first five epochs, then everything.

    python experiments/BYOL_signal_finetune.py                     from ./checkpoints/BYOL_signal.pth, all ten folds
    python experiments/BYOL_signal_finetune.py --fold 0 --gpu 0,1

experiments/run_signal.py with configs/overlay/byol_finetune.yaml (batch 256, 80 epochs, lr 5e-3 to 1e-4); its other
flags, too.
"""
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.baselines import run_baseline
from util.program import run_main

main = partial(run_baseline, "BYOL_signal_finetune", __doc__)

if __name__ == "__main__":
    sys.exit(run_main(main))
