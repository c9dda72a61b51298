"""What every job does before it trains: command line, seeds, store, device; and how it ends."""
import argparse
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from util import distributed
from util.config import ROOT, describe_keys, find_overlay, load_config
from util.dataset import choose_rows
from util.errors import ConfigError, ECGError
from util.leads import parse_leads
from util.run_log import print_once
from util.stop import LOST, PREEMPTED, Preempted, StopRequest
from util.store import RecordStore

def argument_parser(description: str, default_config: str, program: str) -> argparse.ArgumentParser:
    """The command line shared by main_pretrain.py and main_finetune.py; ``program``: "pretrain" or "finetune"."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="configuration keys (YAML, --overlay or --set):\n" + describe_keys(program))
    parser.set_defaults(program=program)
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
    return load_config(paths, arguments.overrides, flags, program=arguments.program)


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


def run_main(main, argv=None) -> int:
    """Call ``main(argv)``; errors a person can act on become one sentence and an exit status.

    Returns:
        0; 2 after an ECGError; 75 after a stop on request (SIGTERM, SIGUSR1); 76 when another process of the run is
        gone; 130 after Ctrl-C.
    """
    try:
        with StopRequest(at_once=True):
            main(argv)
        return 0
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except Preempted as stop:
        if _lost_contact(stop.__context__):
            return LOST  # torchrun's signal came on top of it
        if distributed.is_main():
            print(stop, file=sys.stderr)
        return PREEMPTED
    except Exception as error:
        if _lost_contact(error):
            if not StopRequest.ever:  # else torchrun is ending the run already, and what began it has been said
                _complain("error: another process of this run is gone; its own message, or torchrun's, says why", wait=15)
            return LOST
        sentence = _explain(error)
        if sentence is None:
            raise
        _complain(f"error: {sentence}", wait=0 if distributed.is_main() else 10)
        return 2
    finally:
        distributed.stop()


def _explain(error) -> str | None:
    """A sentence for errors that a person can act on, None for those that are ours."""
    text = str(error)
    if isinstance(error, ECGError):
        # An error out of a loader's worker brings that worker's traceback with it; its last line is ours.
        return text if not text.startswith("Caught ") else text.strip().splitlines()[-1].partition(": ")[2]
    if isinstance(error, torch.OutOfMemoryError):
        return ("the GPU's memory is full; lower dataloader.batch_size, and raise train.accum_iter to keep the "
                "effective batch")
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return (f"a loader process died ({text.splitlines()[0]}); most often memory or /dev/shm is full: lower "
                "dataloader.num_workers and go on with --resume auto")
    return None


def _lost_contact(error) -> bool:
    """Whether a collective failed because another process ended."""
    signs = ("connection closed by peer", "connection reset by peer", "broken pipe", "socket timeout",
             "connection refused", "connectfullmesh failed", "remote process exited", "heartbeat", "nccl communicator was aborted")
    return isinstance(error, RuntimeError) and distributed.in_group() and \
        any(sign in str(error).lower() for sign in signs)


def _complain(text, wait=0):
    """Print an error.  Where every process fails alike, process 0 speaks and the launcher ends the others while they
    ``wait`` (seconds); where one fails alone, it is heard after that."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    if distributed.in_group():
        time.sleep(wait)
    print(text, file=sys.stderr, flush=True)
