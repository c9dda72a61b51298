"""The published baselines of the multimodal fusion: one table, one command line.

Phan et al., Multimodality multi-lead ECG arrhythmia classification using self-supervised learning (BHI 2022).
"""
import argparse
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from experiments.devices import add_gpu_flag, run
from main_finetune import finetune
from main_pretrain import pretrain
from util import distributed
from util.command_line import add_config_flags
from util.config import ROOT, find_overlay, load_config
from util.config_keys import describe_keys
from util.run_log import print_once


@dataclass(frozen=True)
class Baseline:
    """A published script.

    Attributes:
        config: its YAML in configs/, without the suffix.
        folder: what the default --save_folder calls a supervised one.
        overlay: an overlay, and start: pre-trained weights, that it takes unless told otherwise.
        encoders: {file that pre-training leaves: its name in --save_folder}.
        switches: {flag that sets the model's argument of that name: its help}.
    """
    config: str
    folder: str = ""
    overlay: str | None = None
    start: str | None = None
    encoders: dict = field(default_factory=dict)
    switches: dict = field(default_factory=dict)

    @property
    def pretrains(self) -> bool:
        """Whether this one is self-supervised."""
        return bool(self.encoders)

    @property
    def program(self) -> str:
        """Whose configuration keys it takes."""
        return "pretrain" if self.pretrains else "finetune"


def _dino(branch):
    return {f"encoder-{role}.pth": f"DINO_{branch}_{role}.pth" for role in ("student", "teacher")}


BASELINES = {
    "run_signal": Baseline("downstream/signal", "signal"),
    "run_spectrogram": Baseline("downstream/spectrogram", "spectrogram"),
    "run_ensembled": Baseline("downstream/fusion", "ensemble_wogating", switches={
        "gating": "weigh the branches by a learnt gate",
        "three_head": "classify each branch alone, too, and train the sum of the three losses"}),
    "SIMCLR_signal_finetune": Baseline("downstream/signal", "SIMCLR_signal", "simclr_finetune",
                                       "./checkpoints/SIMCLR_signal.pth"),
    "BYOL_signal_finetune": Baseline("downstream/signal", "BYOL_signal", "byol_finetune",
                                     "./checkpoints/BYOL_signal.pth"),
    "SIMCLR_signal": Baseline("pretrain/simclr_signal", encoders={"encoder.pth": "SIMCLR_signal.pth"}),
    "BYOL_signal": Baseline("pretrain/byol_signal", encoders={"encoder.pth": "BYOL_signal.pth"}),
    "DINO_signal": Baseline("pretrain/dino_signal", encoders=_dino("signal")),
    "DINO_spectrogram": Baseline("pretrain/dino_spectrogram", encoders=_dino("spectrogram")),
}


def run_baseline(name: str, description: str, argv=None) -> None:
    """The command line of experiments/<name>.py; on several processes where --gpu asks for them.

    Raises:
        ECGError: as the two main programs; SystemExit: a process that was started here failed.
    """
    argv = sys.argv[1:] if argv is None else argv
    baseline = BASELINES[name]
    arguments = baseline_parser(baseline, description).parse_args(argv)

    def job(config):
        if not baseline.pretrains:
            finetune(config, published_names=True)
            return
        folder = pretrain(config)
        if distributed.is_main():
            publish_encoders(folder, Path(arguments.save_folder), baseline.encoders)

    run(arguments.gpu, name, argv, lambda device: baseline_config(baseline, arguments, device), job)


def baseline_parser(baseline: Baseline, description: str) -> argparse.ArgumentParser:
    """The published flags; none is needed."""
    parser = argparse.ArgumentParser(description=description, epilog=describe_keys(baseline.program),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    path = ROOT / "configs" / f"{baseline.config}.yaml"
    defaults = load_config([path, *map(find_overlay, [baseline.overlay] if baseline.overlay else [])],
                           program=baseline.program)
    parser.add_argument("--batch_size", type=int, metavar="N", help="records a process and forward pass, as "
                        "dataloader.batch_size in run_pretrain.sh and run_downstream.sh: two GPUs take twice as many a "
                        f"step (default {defaults['dataloader']['batch_size']})")
    parser.add_argument("--num_epoches", type=int, metavar="N", help=f"default {defaults['train']['epochs']}")
    add_gpu_flag(parser)
    if baseline.pretrains:
        parser.add_argument("--save_folder", default="./checkpoints", metavar="DIR", help=f"for "
                            f"{', '.join(baseline.encoders.values())}; logs go to {path.stem}/ in it "
                            "(default ./checkpoints)")
    else:
        _add_supervised_flags(parser, baseline, defaults)
    parser.add_argument("--config_path", default=path, metavar="YAML", help=f"default configs/{baseline.config}.yaml")
    add_config_flags(parser)
    parser.set_defaults(overlay=[baseline.overlay] if baseline.overlay else [])
    return parser


def _add_supervised_flags(parser, baseline, defaults):
    parser.add_argument("--lr_rate", type=float, metavar="LR", help="peak learning rate; it falls to train.min_lr on a "
                        f"cosine (default {defaults['train']['lr']})")
    parser.add_argument("--fold", type=int, nargs="+", metavar="K", help="test folds 0-9, one after the other; fold "
                        "k + 1 selects the weights, the other eight train (default: all ten)")
    parser.add_argument("--finetune", metavar="PATH", default=baseline.start, help="start from pre-trained weights: a "
                        "file such as DINO_signal_student.pth, or a folder that holds such files"
                        + (f" (default {baseline.start})" if baseline.start else ""))
    parser.add_argument("--save_folder", metavar="DIR", help="results: fold<k>_bestROC.pth and fold<k>_bestPRC.pth, "
                        "logs and scores in fold<k>/, summary.csv (default ./checkpoints/base_<name>, with --finetune "
                        f"finetune_<name>; <name> is {baseline.folder})")
    for flag, text in baseline.switches.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)


def baseline_config(baseline: Baseline, arguments, device: str) -> dict:
    """The resolved config of a baseline's flags; they win over --set, that over overlays, those over the YAML.

    Raises:
        ConfigError: a wrong key or value.
    """
    flags = {"device": device, "resume": arguments.resume, "dataloader": {"batch_size": arguments.batch_size},
             "train": {"epochs": arguments.num_epoches}}
    if baseline.pretrains:
        flags |= {"output_dir": arguments.save_folder, "exp_name": Path(baseline.config).name}
    else:
        model = {name: True for name in baseline.switches if getattr(arguments, name)}
        folder = baseline.folder.replace("_wogating", "_wgating") if "gating" in model else baseline.folder
        start = "finetune" if arguments.finetune else "base"
        flags |= {"output_dir": arguments.save_folder or f"./checkpoints/{start}_{folder}", "exp_name": "",
                  "model": model, "encoder_path": arguments.finetune, "dataset": {"fold": arguments.fold}}
        flags["train"]["lr"] = arguments.lr_rate
    config = load_config([arguments.config_path, *map(find_overlay, arguments.overlay)], arguments.overrides,
                         _given(flags), program=baseline.program)
    if not baseline.pretrains and config["encoder_path"] and config["mode"] == "scratch":
        config["mode"] = "finetune"
    return config


def _given(flags: dict) -> dict:
    """The flags that were given, nested sections included."""
    return {name: _given(value) if isinstance(value, dict) else value for name, value in flags.items()
            if value is not None}


def publish_encoders(folder: Path, place: Path, names: dict[str, str]) -> None:
    """Leave encoders of a pre-training run under their published names."""
    for name, published in names.items():
        temporary = (place / published).with_suffix(".tmp")
        shutil.copyfile(folder / name, temporary)
        os.replace(temporary, place / published)
        print_once(f"encoder: {place / published}")
