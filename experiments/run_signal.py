"""Signal branch alone: xresnet1d50 on 2.5 s crops at 100 Hz, trained and tested fold after fold."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.baselines import script
from util.processes.program import run_main

main = script(__file__, __doc__)

if __name__ == "__main__":
    sys.exit(run_main(main))
