"""What the scripts of the published self-supervised baselines share: their flags, and where their encoders go."""
import argparse
import os
import shutil
import sys
from pathlib import Path

from experiments.common import add_gpu_flag, run, share_batch
from main_pretrain import pretrain
from util import distributed
from util.config import ROOT, describe_keys, find_overlay, load_config, load_yaml
from util.job import add_config_flags
from util.run_log import print_once


def main_of(description: str, script: str, baseline: str, encoders: dict[str, str], argv=None) -> None:
    """Pre-train a baseline and leave its encoders under their published names.

    Args:
        description, script: the calling script's docstring and file.
        baseline: name of its YAML in configs/pretrain; the run's files go to <save_folder>/<baseline>/.
        encoders: {file that pre-training leaves: name in <save_folder>}.
    """
    argv = sys.argv[1:] if argv is None else argv
    arguments = pretraining_parser(description, baseline, encoders).parse_args(argv)

    def job(config):
        folder = pretrain(config)
        if distributed.is_main():
            for name, published in encoders.items():
                place = Path(arguments.save_folder) / published
                shutil.copyfile(folder / name, place.with_suffix(".tmp"))
                os.replace(place.with_suffix(".tmp"), place)
                print_once(f"encoder: {place}")

    run(arguments.gpu, script, argv, lambda processes, device: pretraining_config(arguments, baseline, processes, device), job)


def pretraining_parser(description: str, baseline: str, encoders: dict[str, str]) -> argparse.ArgumentParser:
    """The flags; none is needed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="configuration keys (YAML, --overlay or --set):\n" + describe_keys("pretrain"))
    default = ROOT / "configs" / "pretrain" / f"{baseline}.yaml"
    settings = load_yaml(default)
    parser.add_argument("--batch_size", type=int, metavar="N", help="records a step, shared out over the processes "
                        f"(default {settings['dataloader']['batch_size']})")
    parser.add_argument("--num_epoches", type=int, metavar="N", help=f"default {settings['train']['epochs']}")
    add_gpu_flag(parser)
    parser.add_argument("--save_folder", default="./checkpoints", metavar="DIR",
                        help=f"{', '.join(encoders.values())} go here, logs to {baseline}/ in it (default ./checkpoints)")
    parser.add_argument("--config_path", default=default, metavar="YAML", help=f"default configs/pretrain/{baseline}.yaml")
    add_config_flags(parser)
    return parser


def pretraining_config(arguments, baseline: str, processes: int, device: str) -> dict:
    """The resolved config of the flags; they win over --set, that over overlays, those over the YAML."""
    flags = {"output_dir": arguments.save_folder, "exp_name": baseline, "device": device,
             "dataloader": {} if arguments.batch_size is None else {"batch_size": arguments.batch_size},
             "train": {} if arguments.num_epoches is None else {"epochs": arguments.num_epoches}}
    if arguments.resume:
        flags["resume"] = arguments.resume
    config = load_config([arguments.config_path, *map(find_overlay, arguments.overlay)], arguments.overrides, flags,
                         program="pretrain")
    share_batch(config, processes)
    return config
