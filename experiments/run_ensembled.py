"""Signal and spectrogram branch joined, with or without a gate, trained and tested fold after fold.

    python experiments/run_ensembled.py --batch_size 128 --lr_rate 5e-3 --num_epoches 100 --gpu 0 \\
        --save_folder ./checkpoints/base_ensemble_wogating
    python experiments/run_ensembled.py --gating ... --save_folder ./checkpoints/base_ensemble_wgating
    python experiments/run_ensembled.py --finetune ./checkpoints [--gating] ...      both branches pre-trained
    python experiments/run_ensembled.py --config_path configs/downstream/fusion_st_mem.yaml --finetune encoder.pth ...

The last joins ST-MEM's encoder with the spectrogram branch.  More ways to start it: experiments/run_signal.py --help
Phan et al. (BHI 2022), see experiments/baselines.py.
"""
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.baselines import run_baseline
from util.program import run_main

main = partial(run_baseline, "run_ensembled", __doc__)

if __name__ == "__main__":
    sys.exit(run_main(main))
