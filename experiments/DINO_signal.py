"""DINO pre-training of the signal branch; its weights are for experiments/run_signal.py
--finetune and its like.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.baselines import script
from util.processes.program import run_main

main = script(__file__, __doc__)

if __name__ == "__main__":
    sys.exit(run_main(main))
