"""DINO pre-training of the spectrogram branch.

    python experiments/DINO_spectrogram.py                                     the published settings, first GPU or CPU
    python experiments/DINO_spectrogram.py --gpu 0,1,2,3 --resume auto         four GPUs, going on where it stopped
    python experiments/DINO_spectrogram.py --overlay demo --gpu cpu            minutes on a CPU, to try it out

Leaves ./checkpoints/DINO_spectrogram_student.pth and DINO_spectrogram_teacher.pth, for run_spectrogram.py.
The same job: bash run_pretrain.sh --config_path configs/pretrain/dino_spectrogram.yaml ...
Settings of Phan et al., Multimodality multi-lead ECG arrhythmia classification using self-supervised learning (BHI 2022).
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.pretraining import main_of
from util.program import run_main


def main(argv=None):
    """Command line; see the module's docstring."""
    main_of(__doc__, __file__, "dino_spectrogram",
            {"encoder-student.pth": "DINO_spectrogram_student.pth", "encoder-teacher.pth": "DINO_spectrogram_teacher.pth"}, argv)


if __name__ == "__main__":
    sys.exit(run_main(main))
