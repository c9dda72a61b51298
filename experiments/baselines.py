"""The published baselines of the multimodal fusion: one table, one command line.

Phan et al., Multimodality multi-lead ECG arrhythmia classification using self-supervised learning
(BHI 2022).
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from util.config.command_line import add_config_flags, said
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import ROOT, find_overlay, load_config
from util.config.page import describe_keys
from util.files import replacing
from util.flags import Parser
from util.processes.devices import add_gpu_flag, choose_devices
from util.processes.environment import in_group
from util.processes.launcher import launch, launch_parser

USAGE = """
    python experiments/{name}.py                          the published settings, first GPU or CPU
    python experiments/{name}.py --gpu 0,1,2,3 --resume auto  four GPUs, resuming where it stopped
    python experiments/{name}.py --overlay demo --gpu cpu     a short trial on a CPU

Settings: {settings}, after Phan et al. (BHI 2022).
It leaves {leaves} in --save_folder.
"""


@dataclass(frozen=True)
class Baseline:
    """A published script.

    Attributes:
        config: its YAML in configs/, without the suffix.
        folder: what the default --save_folder calls a supervised one.
        overlays: names in configs/overlay/; the default of --overlay.
        start: pre-trained weights; the default of --finetune.
        encoders: {file that pre-training leaves: its name in --save_folder}; empty for a
            supervised one.
        switches: {flag that sets the model's argument of that name: its help}.
    """

    config: str
    folder: str = ""
    overlays: tuple[str, ...] = ()
    start: str | None = None
    encoders: dict[str, str] = field(default_factory=dict)
    switches: dict[str, str] = field(default_factory=dict)

    @property
    def program(self) -> type[PretrainConfig] | type[FinetuneConfig]:
        """The program whose configuration keys it takes."""
        return PretrainConfig if self.encoders else FinetuneConfig


def _dino(branch: str) -> dict[str, str]:
    return {f"encoder-{role}.pth": f"DINO_{branch}_{role}.pth" for role in ("student", "teacher")}


BASELINES = {
    "run_signal": Baseline("downstream/signal", "signal"),
    "run_spectrogram": Baseline("downstream/spectrogram", "spectrogram"),
    "run_ensembled": Baseline(
        "downstream/fusion",
        "ensemble_wogating",
        switches={
            "gating": "weigh the branches by a learnt gate",
            "three_head": "classify each branch alone, too, and train the sum of the three losses",
        },
    ),
    "SIMCLR_signal_finetune": Baseline(
        "downstream/signal",
        "SIMCLR_signal",
        ("simclr_finetune",),
        "./checkpoints/SIMCLR_signal.pth",
    ),
    "BYOL_signal_finetune": Baseline(
        "downstream/signal", "BYOL_signal", ("byol_finetune",), "./checkpoints/BYOL_signal.pth"
    ),
    "SIMCLR_signal": Baseline(
        "pretrain/simclr_signal", encoders={"encoder.pth": "SIMCLR_signal.pth"}
    ),
    "BYOL_signal": Baseline("pretrain/byol_signal", encoders={"encoder.pth": "BYOL_signal.pth"}),
    "DINO_signal": Baseline("pretrain/dino_signal", encoders=_dino("signal")),
    "DINO_spectrogram": Baseline("pretrain/dino_spectrogram", encoders=_dino("spectrogram")),
}


def script(file: str, description: str) -> Callable[..., None]:
    """Return ``main(argv)`` of the script in ``file``, which does what the description says."""
    return partial(run_baseline, Path(file).stem, description)


def run_baseline(name: str, description: str, argv: list[str] | None = None) -> None:
    """Run the command line of experiments/<name>.py, on several processes where --gpu asks for
    them.
    """
    argv = sys.argv[1:] if argv is None else argv
    baseline = BASELINES[name]
    files = [baseline.config, *(f"overlay/{overlay}" for overlay in baseline.overlays)]
    leaves = [*baseline.encoders.values()] or (
        "fold<k>_bestROC.pth",
        "fold<k>_bestPRC.pth",
        "summary.csv",
    )
    usage = USAGE.format(
        name=name,
        settings=", ".join(f"configs/{file}.yaml" for file in files),
        leaves=", ".join(leaves),
    )
    arguments = baseline_parser(baseline, f"{description.rstrip()}\n{usage}").parse_args(argv)

    processes, device = choose_devices(arguments.gpu)
    config = baseline_config(
        baseline, arguments, device
    )  # here, too: a wrong flag needs no processes
    if processes > 1 and not in_group():
        options = launch_parser(f"{name}.py").parse_args(["--gpus", arguments.gpu])
        status = launch(str(ROOT / "experiments" / f"{name}.py"), options, list(argv))
        if status:
            raise SystemExit(status)
    elif isinstance(config, PretrainConfig):
        from main_pretrain import pretrain  # with torch, which --help and a wrong flag do without

        publish_encoders(pretrain(config), Path(arguments.save_folder), baseline.encoders)
    else:
        from main_finetune import finetune

        finetune(config, published_names=True)


def publish_encoders(folder: Path, place: Path, names: dict[str, str]) -> None:
    """Leave encoders of a pre-training run under their published names."""
    from util.console import note
    from util.processes import collectives

    for name, published in names.items() if collectives.is_main() else ():
        with replacing(place / published) as file:
            file.write((folder / name).read_bytes())
        note(f"encoder: {place / published}")


def baseline_parser(baseline: Baseline, description: str) -> argparse.ArgumentParser:
    """Make the command line of published flags, none of which is needed."""
    parser = Parser(description=description, epilog=describe_keys(baseline.program))
    path = ROOT / "configs" / f"{baseline.config}.yaml"
    defaults = load_config([path, *map(find_overlay, baseline.overlays)], program=baseline.program)
    parser.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help="records per process and forward pass, as "
        "dataloader.batch_size in run_pretrain.sh and run_downstream.sh: two GPUs take twice as "
        "many a "
        f"step (default {defaults.dataloader.batch_size})",
    )
    parser.add_argument(
        "--num_epoches", type=int, metavar="N", help=f"default {defaults.train.epochs}"
    )
    add_gpu_flag(parser)
    if baseline.encoders:
        parser.add_argument(
            "--save_folder",
            default="./checkpoints",
            metavar="DIR",
            help=f"for the encoders; logs go to {path.stem}/ in it (default ./checkpoints)",
        )
    else:
        _add_supervised_flags(parser, baseline, defaults)
    parser.add_argument(
        "--config_path",
        default=path,
        metavar="YAML",
        help=f"default configs/{baseline.config}.yaml",
    )
    add_config_flags(parser)
    parser.set_defaults(overlay=list(baseline.overlays))
    return parser


def _add_supervised_flags(
    parser: argparse.ArgumentParser, baseline: Baseline, defaults: PretrainConfig | FinetuneConfig
) -> None:
    parser.add_argument(
        "--lr_rate",
        type=float,
        metavar="LR",
        help="peak learning rate; it falls to train.min_lr on a "
        f"cosine (default {defaults.train.lr})",
    )
    parser.add_argument(
        "--fold",
        type=int,
        nargs="+",
        metavar="K",
        help="test folds 0-9, one after the other; fold "
        "k + 1 selects the weights, the other eight train (default, and 11, as published: all "
        "ten)",
    )
    parser.add_argument(
        "--finetune",
        metavar="PATH",
        default=baseline.start,
        help="start from pre-trained weights: a "
        "file such as DINO_signal_student.pth, or a folder that holds such files"
        + (f" (default {baseline.start})" if baseline.start else ""),
    )
    parser.add_argument(
        "--save_folder",
        metavar="DIR",
        help="logs and scores go to fold<k>/ in it (default "
        f"./checkpoints/base_{baseline.folder}, with --finetune finetune_{baseline.folder})",
    )
    for flag, text in baseline.switches.items():
        parser.add_argument(f"--{flag}", action="store_true", help=text)


def baseline_config(
    baseline: Baseline, arguments: argparse.Namespace, device: str
) -> PretrainConfig | FinetuneConfig:
    """Resolve the config of a baseline's flags; they win over --set, that over overlays, those
    over the YAML.
    """
    flags: dict = {
        "device": device,
        "resume": arguments.resume,
        "overwrite": arguments.overwrite,
        "allow_label_overlap": arguments.allow_label_overlap,
        "dataloader": {"batch_size": arguments.batch_size},
        "train": {"epochs": arguments.num_epoches},
    }
    if baseline.encoders:
        flags |= {"output_dir": arguments.save_folder, "exp_name": Path(baseline.config).name}
    else:
        model = {name: True for name in baseline.switches if getattr(arguments, name)}
        folder = (
            baseline.folder.replace("_wogating", "_wgating")
            if "gating" in model
            else baseline.folder
        )
        start = "finetune" if arguments.finetune else "base"
        flags |= {
            "output_dir": arguments.save_folder or f"./checkpoints/{start}_{folder}",
            "exp_name": "",
            "model": model,
            "encoder_path": arguments.finetune,
            "dataset": {"fold": arguments.fold},
        }
        flags["train"]["lr"] = arguments.lr_rate
    flags = _given(flags)
    config = load_config(
        [arguments.config_path, *map(find_overlay, arguments.overlay)],
        said(arguments.overrides, flags),
        flags,
        program=baseline.program,
    )
    if isinstance(config, FinetuneConfig) and config.encoder_path and config.mode == "scratch":
        return replace(config, mode="finetune")
    return config


def _given(flags: dict) -> dict:
    """The flags that were given, nested sections included."""
    return {
        name: _given(value) if isinstance(value, dict) else value
        for name, value in flags.items()
        if value is not None
    }
