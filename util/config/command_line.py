"""The command line that all training programs share, and the config that it asks for."""

import argparse
from collections.abc import Iterator
from typing import Any

from util.config.keys import JobConfig
from util.config.load import Job, find_overlay, load_config, parse_override
from util.config.page import describe_keys
from util.console import note
from util.flags import Parser


def argument_parser(
    description: str, default_config: str, program: type[JobConfig]
) -> argparse.ArgumentParser:
    """Make the command line of main_pretrain.py and main_finetune.py."""
    parser = Parser(description=description, epilog=describe_keys(program))
    parser.add_argument(
        "-f",
        "--config_path",
        default=default_config,
        metavar="YAML",
        help=f"the job to run (default: {default_config})",
    )
    add_config_flags(parser)
    parser.add_argument(
        "--output_dir",
        metavar="DIR",
        help="results go to DIR/EXP_NAME (default: the config's output_dir, or else ./output)",
    )
    parser.add_argument(
        "--exp_name", metavar="NAME", help="name of the run; choose one that no other run has"
    )
    parser.add_argument(
        "--encoder_path", metavar="PTH", help="pre-trained encoder.pth (fine-tuning)"
    )
    parser.add_argument(
        "--start_epoch",
        type=int,
        metavar="N",
        help="first epoch, from 0, instead of the one that the checkpoint says",
    )
    return parser


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add --overlay, --set, --resume, --overwrite and --allow_label_overlap, the flags that every
    training script has.
    """
    parser.add_argument(
        "--overlay",
        action="append",
        default=[],
        metavar="YAML",
        help="changes to the config: a path, or a name in configs/overlay; may be repeated",
    )
    add_set_flag(parser, "change one key, e.g. --set train.epochs=5; may be repeated")
    parser.add_argument(
        "--resume",
        metavar="PTH",
        help="checkpoint to resume from; 'auto': this run's last one, if there is one",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        default=None,
        help="replace the results of another job that lie in the run's folder",
    )
    parser.add_argument(
        "--allow_label_overlap",
        action="store_true",
        default=None,
        help="test even where the encoder was trained with labels of the test records "
        "(fine-tuning)",
    )


def add_set_flag(parser: argparse.ArgumentParser, help: str) -> None:
    """Add --set, which ``load_config`` takes as ``overrides``."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=help
    )


def config_from(arguments: argparse.Namespace, program: type[Job]) -> Job:
    """Resolve a program's config as a command line asks for it: flags win over --set, --set over
    overlays, these over the config file.
    """
    names = ["output_dir", "exp_name", "encoder_path", "start_epoch", "resume", "overwrite"]
    given = {name: getattr(arguments, name) for name in [*names, "allow_label_overlap"]}
    flags = {name: value for name, value in given.items() if value not in (None, "")}
    paths = [arguments.config_path, *map(find_overlay, arguments.overlay)]
    return load_config(paths, said(arguments.overrides, flags), flags, program=program)


def said(overrides: list[str], flags: dict | None = None) -> list[str]:
    """Return the texts of --set, having noted which a later one or a flag leaves without effect.

    Args:
        overrides: texts KEY=VALUE, in order.
        flags: what is merged over them.
    """
    layers = [(parse_override(text), f"--set {text} comes later") for text in overrides]
    held: dict[str, tuple[Any, str]] = {}
    for (layer, why), text in zip([*layers, (flags or {}, "a flag says")], [*overrides, ""]):
        for name, value in _leaves(layer):
            before, its_text = held.get(name, (value, ""))
            if before != value:
                reason = why if text else f"{why} {name}: {value}"
                note(f"--set {its_text}: no effect, as {reason}")
            held[name] = value, text
    return overrides


def _leaves(layer: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of a config, and their values."""
    for name, value in layer.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
