"""DINO pre-training of the signal branch.

    python experiments/DINO_signal.py                                     the published settings, first GPU or CPU
    python experiments/DINO_signal.py --gpu 0,1,2,3 --resume auto         four GPUs, resuming where it stopped
    python experiments/DINO_signal.py --overlay demo --gpu cpu            minutes on a CPU, to try it out

Leaves ./checkpoints/DINO_signal_student.pth and DINO_signal_teacher.pth, which run_signal.py --finetune takes.
The same job: bash run_pretrain.sh --config_path configs/pretrain/dino_signal.yaml ...
Settings of Phan et al. (BHI 2022), see experiments/baselines.py.
"""
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.baselines import run_baseline
from util.program import run_main

main = partial(run_baseline, "DINO_signal", __doc__)

if __name__ == "__main__":
    sys.exit(run_main(main))
