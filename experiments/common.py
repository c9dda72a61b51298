"""What the scripts of this folder share: published flags, devices, finding and reopening trained weights."""
import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import mergedeep
import torch
from torch import nn

from main_finetune import PUBLISHED_BEST, Places, build_classifier, evaluation_transforms, finetune
from util import checkpoint, distributed
from util.config import ROOT, check, describe_keys, find_overlay, load_config, load_yaml, parse_override
from util.dataset import FOLDS, Cropping, parse_classes
from util.errors import CheckpointError, ConfigError
from util.job import add_config_flags
from util.launch import launch, launch_parser, parse_devices
from util.run_log import print_once
from util.transforms import Pipeline

METRIC = {name: metric for metric, name in PUBLISHED_BEST.items()}  # --best-type ROC -> AUROC


# ============ flags and devices ============
def training_parser(description: str, baseline: str, name: str | None = None) -> argparse.ArgumentParser:
    """The published flags of a supervised baseline.

    Args:
        baseline: name of its YAML in configs/downstream.
        name: what the default --save_folder calls it, if not that.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="configuration keys (YAML, --overlay or --set):\n" + describe_keys())
    default = ROOT / "configs" / "downstream" / f"{baseline}.yaml"
    settings = load_yaml(default)
    parser.add_argument("--batch_size", type=int, metavar="N", help="records a step, shared out over the processes; "
                        f"each gives dataset.crops_per_record crops (default {settings['dataloader']['batch_size']})")
    parser.add_argument("--lr_rate", type=float, metavar="LR", help="peak learning rate; it falls to train.min_lr on a "
                        f"cosine (default {settings['train']['lr']})")
    parser.add_argument("--num_epoches", type=int, metavar="N", help=f"default {settings['train']['epochs']}")
    parser.add_argument("--fold", type=int, nargs="+", metavar="K", help="test folds 0-9, one after the other; fold "
                        "k + 1 selects the weights, the other eight train (default: all ten)")
    add_gpu_flag(parser)
    parser.add_argument("--finetune", metavar="PATH", help="start from pre-trained weights: a file such as "
                        "DINO_signal_student.pth, or a folder that holds such files")
    parser.add_argument("--save_folder", metavar="DIR", help="results: fold<k>_bestROC.pth and fold<k>_bestPRC.pth, "
                        f"logs and scores in fold<k>/, summary.csv (default ./checkpoints/base_{name or baseline}, "
                        f"with --finetune finetune_{name or baseline})")
    parser.add_argument("--config_path", default=default, metavar="YAML",
                        help=f"default configs/downstream/{baseline}.yaml")
    add_config_flags(parser)
    return parser


def add_gpu_flag(parser, several=True) -> None:
    """--gpu as everywhere; without ``several`` for scripts of one process."""
    more = ", 0,1 two, cpu none, cpu,cpu two CPU processes" if several else ", cpu none"
    parser.add_argument("--gpu", metavar="IDS" if several else "ID",
                        help=f"0 is one GPU{more} (default: the first GPU, or the CPU where there is none)")


def one_device(text: str | None) -> torch.device:
    """The device of --gpu for a script of one process.

    Raises:
        ConfigError: several, or see ``choose_devices``.
    """
    processes, device = choose_devices(text)
    if processes > 1:
        raise ConfigError(f"--gpu {text}: this script runs on one device")
    return distributed.start(device)


def choose_devices(text: str | None) -> tuple[int, str]:
    """Make the device of --gpu the visible one: (processes, value for the config's ``device``).  Where it asks for
    several processes, the launcher chooses as it starts them, and in these nothing is left to choose.

    A machine without any GPU computes on the CPU and says so, so that published commands run there, too.

    Raises:
        ConfigError: not a list of devices, or a GPU that this machine lacks.
    """
    if text is None:
        return 1, "auto"
    here, started = torch.cuda.device_count(), "RANK" in os.environ
    usable = os.environ.get("CUDA_VISIBLE_DEVICES") if here and not started else None
    processes, visible = parse_devices(text, usable)
    if visible and usable is None and not started and 0 < here <= max(map(int, visible.split(","))):
        raise ConfigError(f"--gpu {text}: this machine has {here} GPU(s), numbered from 0")
    if visible and not here and os.environ.get("RANK", "0") == "0":
        print_once(f"note: --gpu {text}, but PyTorch sees no GPU; computing on the CPU")
    if processes == 1 and not started:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible or ""
    return processes, "auto" if visible else "cpu"


# ============ training ============
def train(arguments, baseline: str, script: str, argv=None, model=None) -> None:
    """Turn the flags into a config and run the one supervised main, on several processes where --gpu asks for them.

    Args:
        baseline: names the default --save_folder.
        script, argv: what to start again under torchrun.
        model: changes of the config's ``model`` section.

    Raises:
        ECGError: as main_finetune.finetune; SystemExit: a process that was started here failed.
    """
    def config_for(processes, device):
        return training_config(arguments, baseline, device, processes, model or {})

    run(arguments.gpu, script, argv, config_for, lambda config: finetune(config, published_names=True))


def run(gpu: str | None, script: str, argv, config_for, job) -> None:
    """Do ``job(config_for(processes, device))`` here, or start ``script`` with ``argv`` again on several processes.

    Raises:
        ECGError: as the job; SystemExit: a process that was started here failed.
    """
    processes, device = choose_devices(gpu)
    processes = int(os.environ.get("WORLD_SIZE", processes))
    config = config_for(processes, device)  # checked here, too: a wrong flag needs no processes
    if processes == 1 or "RANK" in os.environ:
        job(config)
        return
    options = launch_parser(Path(script).name).parse_args(["--gpus", gpu])
    status = launch(str(Path(script).resolve()), options, list(argv))
    if status:
        raise SystemExit(status)


def share_batch(config: dict, processes: int) -> None:
    """Make dataloader.batch_size, which the published flags count over all processes, that of one.

    Raises:
        ConfigError: it cannot be shared out evenly.
    """
    batch, rest = divmod(config["dataloader"]["batch_size"], processes)
    if rest or not batch:
        raise ConfigError(f"a batch of {config['dataloader']['batch_size']} records cannot be shared out over "
                          f"{processes} processes; make --batch_size a multiple of {processes}")
    config["dataloader"]["batch_size"] = batch


def training_config(arguments, baseline: str, device: str, processes: int, model: dict) -> dict:
    """The resolved config of a baseline's flags; they win over --set, that over overlays, those over the YAML.

    Raises:
        ConfigError: a wrong key or value, or a batch that cannot be shared out.
    """
    folder = f"./checkpoints/{'finetune' if arguments.finetune else 'base'}_{baseline}"
    flags = {"output_dir": arguments.save_folder or folder, "exp_name": "", "device": device, "model": model,
             "resume": arguments.resume, "encoder_path": arguments.finetune, "dataset": {"fold": arguments.fold},
             "dataloader": {"batch_size": arguments.batch_size},
             "train": {"lr": arguments.lr_rate, "epochs": arguments.num_epoches}}
    config = load_config([arguments.config_path, *map(find_overlay, arguments.overlay)], arguments.overrides,
                         _given(flags))
    if config["encoder_path"] and config["mode"] == "scratch":
        config["mode"] = "finetune"
    share_batch(config, processes)
    return config


def _given(flags: dict) -> dict:
    """The flags that were given, nested sections included."""
    return {name: _given(value) if isinstance(value, dict) else value for name, value in flags.items()
            if value is not None}


# ============ trained weights ============
def find_weights(folder, best: str, folds=None) -> dict[int, Path]:
    """Weights that training left in ``folder``, by test fold: what an experiment wrote (fold<k>_best<ROC|PRC>.pth), or
    main_finetune.py (fold<k>/best-<metric>.pth, or best-<metric>.pth of a single fold).

    Args:
        best: ROC or PRC, the metric of the selection.
        folds: those wanted; None for all that are there.

    Raises:
        CheckpointError: none there, or not for one of ``folds``.
    """
    folder, metric = Path(folder), METRIC[best]
    found = {}
    for fold in range(FOLDS):
        places = (Places.published(folder, fold).best(metric), Places(folder / f"fold{fold}").best(metric))
        there = [path for path in places if path.is_file()]
        if there:
            found[fold] = there[0]
    lone = Places(folder).best(metric)
    if not found and lone.is_file():
        found[read_weights(lone)["config"]["dataset"]["fold"]] = lone
    missing = [fold for fold in folds or () if fold not in found]
    if not found or missing:
        what = f"for fold {', '.join(map(str, missing))}" if found else "at all"
        raise CheckpointError(f"{folder} holds no weights chosen by {metric} {what} (looked for fold<k>_best{best}.pth,"
                              f" fold<k>/best-{metric}.pth, best-{metric}.pth); name the --save_folder of the training")
    return {fold: found[fold] for fold in folds or found}


def read_weights(path) -> dict:
    """Content of a checkpoint that carries the config it was trained by.

    Raises:
        CheckpointError: missing, damaged, or without config or model.
    """
    content = checkpoint.load(path, "weights")
    if not isinstance(content.get("config"), dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(f"{path} does not carry the config of its training; take the weights that this project's "
                              "training wrote, e.g. fold0_bestROC.pth")
    return content


@dataclass
class Trained:
    """A trained classifier and all that it takes to use it, rebuilt from its weights file.

    Attributes:
        classifier: in evaluation mode.
        store: checksum of records.csv of the store that it was trained on, None if unknown.
        cropping, pipeline: how it sees a record.
        classes: names; codes: SNOMED CT code of each class.
    """
    path: Path
    config: dict
    classifier: nn.Module
    store: str | None
    cropping: Cropping
    pipeline: Pipeline
    classes: tuple[str, ...]
    codes: tuple[str, ...]


def load_trained(path, overrides=(), config_path=None) -> Trained:
    """Rebuild the classifier of a weights file.

    Args:
        overrides: ``--set`` texts, such as dataset.store=... where the store has moved.
        config_path: a config to use instead of the file's own.

    Raises:
        CheckpointError: the file cannot be used, or its tensors do not fit the config's model.
        ConfigError: a wrong override.
    """
    content = checkpoint.load(path, "weights") if config_path else read_weights(path)
    base = load_yaml(config_path) if config_path else content["config"]
    config = check(mergedeep.merge({}, base, *map(parse_override, overrides)))
    config.update(mode="scratch", encoder_path="", resume="")  # the weights are all there
    classes = parse_classes(config["dataset"]["classes"])
    classifier = build_classifier(config, len(classes))
    try:
        classifier.load_state_dict(content["model"])
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} does not fit {config['model_name']}: {reason}") from None
    cropping, pipeline = evaluation_transforms(config)
    return Trained(Path(path), config, classifier.eval(), content.get("store"), cropping, pipeline, tuple(classes),
                   class_codes(config))


def class_codes(config) -> tuple[str, ...]:
    """The SNOMED CT code that stands for each class: the Challenge's, or the first one listed in the config."""
    classes = config["dataset"]["classes"]
    if classes == "challenge2020":
        from util.challenge import CLASSES
        return CLASSES
    return tuple(str(codes[0] if isinstance(codes, list) else codes) for codes in classes.values())
