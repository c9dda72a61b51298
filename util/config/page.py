"""The configuration keys as text: docs/configs.md, and the end of ``--help``."""

import math
from collections.abc import Iterator

from util.config.fields import REQUIRED, Key, keys_of
from util.config.keys import FinetuneConfig, JobConfig, PretrainConfig

PAGE = """# Configuration

Written by `python -m util.config > docs/configs.md`; a test compares the two.

`--config_path FILE`, then each `--overlay`, each `--set KEY=VALUE` and the other flags are
merged in this order: mappings merge, lists and values replace. The result is saved as
`config.yaml` beside the run and repeats it.

- **One base.** A file may begin with `base: other.yaml` (beside it) and holds what differs. A
  base has no base.
- **Facts are said once.** Crop length, sampling rate and leads stand under `dataset:` and reach
  every model from there: shorter crops are `--set dataset.crop=750`.
- **Arguments go with their name.** Where a layer names another `model_name` (or `name:` in a
  nested mapping such as `model.signal`), what stood beside the old name is dropped, and a
  note says what. Arguments given without a name go to whatever model is chosen in the end: under
  `--set model.patch_size=50 --set model_name=st_mem_vit_tiny` the `patch_size` stays. A file and
  its base are one layer. `config.yaml` shows every argument with which the model was built.
  Under `model:` a name alone, `encoder: xresnet1d50`, is short for `encoder: {name:
  xresnet1d50}`.
- **A key without effect is an error.** The column "program" says where a key has one. A file for
  both programs keeps what one alone needs in a section `pretrain:` or `finetune:`, merged over its
  other keys in that program.
- **A resumed run is the same job.** The column "resumed" says whether `--resume` may change a key:
  `fixed`: never, it would be another job, and is an error that names the key; `unfinished`: while
  there are steps left to train; `free`: always. What changes is said.
- **Published YAML files** are read: exact counterparts are put in with a note; one message lists
  the other keys with their new names. Their lists of transforms are read as `dataset.crop`,
  `filters`, `standardize`, `augment` and `eval_crops` where these say the same, and stay as
  `dataset.transforms` and `eval_transforms` where they do not.
"""


def describe_keys(program: type[JobConfig]) -> str:
    """Return a program's keys with defaults and advice, for ``--help``."""
    return "\n".join(["configuration keys (YAML, --overlay or --set):", *_lines(program, "")])


def _lines(section: type, prefix: str) -> Iterator[str]:
    for name, spec in keys_of(section).items():
        if isinstance(spec, Key):
            default = ("" if spec.default is REQUIRED else "default ") + spec.default_text
            yield f"  {prefix}{name}: {spec.help} [{default}]"
        else:
            yield from _lines(spec, f"{prefix}{name}.")


def page() -> str:
    """Return docs/configs.md: how configs are put together, and one table a section."""
    programs = (PretrainConfig, FinetuneConfig)
    both: dict[type[JobConfig], dict] = {config: keys_of(config) for config in programs}
    tables = {"": both}
    for name, spec in both[FinetuneConfig].items():  # it has all sections of the other
        if isinstance(spec, type):
            tables[name] = {
                config: keys_of(keys[name]) if name in keys else {} for config, keys in both.items()
            }
    return PAGE + "".join(_table(name, keys) for name, keys in tables.items())


def _table(section: str, keys_of_program: dict[type[JobConfig], dict]) -> str:
    """The table of a section, whose keys in each program are given."""
    lines = [
        "",
        f"## {section or 'Top level'}",
        "",
        "| key | type | default | allowed | program | resumed | advice |",
        "|" + "---|" * 7,
    ]
    every = {name: spec for keys in keys_of_program.values() for name, spec in keys.items()}
    for name, spec in every.items():
        if not isinstance(spec, Key):
            continue
        programs = [config.title for config, keys in keys_of_program.items() if name in keys]
        allowed = spec.options or ("" if math.isinf(max(spec.least, spec.above)) else spec.bounds)
        cells = (
            f"`{section and section + '.'}{name}`",
            spec.kinds,
            f"`{spec.default_text}`",
            allowed,
            programs[0] if len(programs) == 1 else "both",
            spec.resumed,
            spec.help.replace("<", "&lt;"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
