"""Signal and spectrogram branch joined, with or without a gate, trained and tested fold after
fold.

    python experiments/run_ensembled.py --gating --finetune ./checkpoints  both branches pre-trained
    python experiments/run_ensembled.py --config_path configs/downstream/fusion_st_mem.yaml \\
        --finetune encoder.pth

The last joins ST-MEM's encoder with the spectrogram branch.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.baselines import script
from util.processes.program import run_main

main = script(__file__, __doc__)

if __name__ == "__main__":
    sys.exit(run_main(main))
