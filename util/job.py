"""What every job does before it trains: command line, seeds, store, device."""
import argparse
import random
import subprocess
from pathlib import Path

import numpy as np
import torch

from util import distributed
from util.config import ROOT, describe_keys, find_overlay, load_config
from util.dataset import choose_rows
from util.errors import ConfigError
from util.leads import parse_leads
from util.run_log import print_once
from util.store import RecordStore

def argument_parser(description: str, default_config: str) -> argparse.ArgumentParser:
    """The command line shared by main_pretrain.py and main_finetune.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="configuration keys (YAML, --overlay or --set):\n" + describe_keys())
    parser.add_argument("-f", "--config_path", default=default_config, metavar="YAML", help=f"default {default_config}")
    add_config_flags(parser)
    parser.add_argument("--output_dir", metavar="DIR", help="results go to DIR/EXP_NAME")
    parser.add_argument("--exp_name", metavar="NAME")
    parser.add_argument("--encoder_path", metavar="PTH", help="pre-trained encoder.pth")
    parser.add_argument("--start_epoch", type=int, metavar="N", help="0-based, if not the checkpoint's")
    return parser


def add_config_flags(parser) -> None:
    """--overlay, --set and --resume: the flags that every training script has."""
    parser.add_argument("--overlay", action="append", default=[], metavar="YAML",
                        help="merged over the config; a path, or a name in configs/overlay; repeatable")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="override one key, e.g. --set train.epochs=5; repeatable")
    parser.add_argument("--resume", metavar="PTH", help="checkpoint to go on from, or 'auto' for this run's last one")


def config_from(arguments) -> dict:
    """The resolved config of parsed arguments; flags win over --set, that over overlays, those over the config."""
    flags = {name: getattr(arguments, name) for name in ("output_dir", "exp_name", "encoder_path", "start_epoch", "resume")
             if getattr(arguments, name) not in (None, "")}
    paths = [arguments.config_path, *map(find_overlay, arguments.overlay)]
    return load_config(paths, arguments.overrides, flags)


def open_store(config: dict) -> RecordStore:
    """The store of dataset.store and dataset.fs.

    Raises:
        ConfigError: not there; StoreError: damaged.
    """
    root = Path(config["dataset"]["store"])
    folder = root / f"fs{config['dataset']['fs']}"
    if not folder.is_dir():
        there = sorted(p.name for p in root.glob("fs*")) if root.is_dir() else []
        hint = f"it holds {', '.join(there)}" if there else "prepare it with data_preparation/ (see README, Your own data)"
        raise ConfigError(f"dataset.store: no store at {folder}; {hint}")
    return RecordStore(folder)


def usable_rows(store, config) -> np.ndarray:
    """Rows left by dataset.databases and dataset.max_records."""
    data = config["dataset"]
    return choose_rows(store, databases=data["databases"], max_records=data["max_records"], seed=config["seed"])


def lead_arguments(known: dict, config: dict) -> dict:
    """Model arguments that follow from dataset.lead, for a factory that takes ``known`` arguments."""
    leads = parse_leads(config["dataset"]["lead"])
    given = {}
    if "leads" in known:
        given["leads"] = list(leads)
    elif "num_leads" in known and "num_leads" not in config["model"]:
        given["num_leads"] = len(leads)
    if "leads" not in known and config["model"].get("num_leads", len(leads)) != len(leads):
        raise ConfigError(f"model.num_leads is {config['model']['num_leads']} but dataset.lead names {len(leads)} leads")
    return given


@torch.no_grad()
def check_input(encoder, leads: int, length: int) -> None:
    """Put one blank crop through the encoder, so that sizes that do not fit are known before any work starts.

    Raises:
        ConfigError: the model does not take crops of this many leads and samples.
    """
    training = encoder.training
    try:
        encoder.eval().forward_features(torch.zeros(1, leads, length, device=next(encoder.parameters()).device))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"the model does not take crops of {leads} leads and {length} samples: {error}. "
                          "Make model.* and the crop_length of dataset.transforms agree") from None
    finally:
        encoder.train(training)


def seed_everything(seed: int) -> None:
    """Seeds of Python, NumPy and torch, another for each process; models are built under the plain seed first."""
    seed = seed + 1000 * distributed.rank()
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)


def describe_run(config, device, model) -> None:
    """The head of a run's output: code version, device, size of the model."""
    try:
        version = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                                 timeout=10).stdout.strip() or "unknown"
    except (OSError, subprocess.SubprocessError):
        version = "unknown"
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print_once(f"{config['model_name']}: {learning / 1e6:.1f} M trainable parameters; {distributed.world()} process(es) on "
        f"{device.type}; torch {torch.__version__}; code {version}")
