"""The vocabulary of configs: every key with type, default, allowed values, advice and the program
it is for.

python -m util.config > docs/configs.md      the same as a page
"""

import json
import math
from dataclasses import dataclass
from functools import partial

REQUIRED = object()
PROGRAMS = {"pretrain": "pre-training", "finetune": "fine-tuning"}
WORDS = {
    None: "null",
    str: "text",
    dict: "a mapping",
    list: "a list",
    float: "a number",
    bool: "true or false",
    int: "a whole number",
}


@dataclass(frozen=True)
class Key:
    """One configuration key: its types (None in ``types`` allows null), default, one line of
    advice, what values are allowed (numbers from ``least`` to ``most``), and the one of PROGRAMS
    that it is for (None: both).
    """

    types: tuple
    default: object
    help: str
    choices: tuple = ()
    least: float = -math.inf
    most: float = math.inf
    program: str | None = None

    @property
    def default_text(self) -> str:
        """The default as YAML writes it; "required" where there is none."""
        return "required" if self.default is REQUIRED else json.dumps(self.default)

    @property
    def kinds(self) -> str:
        """The types, in words."""
        return " or ".join(WORDS[kind] for kind in self.types)

    @property
    def bounds(self) -> str:
        """The allowed numbers, in words."""
        least, most = f"{self.least:g}", f"{self.most:g}"
        return f"{least} or more" if math.isinf(self.most) else f"between {least} and {most}"


def key(types, default, help, choices=(), least=-math.inf, most=math.inf, program=None):
    return Key(
        types if isinstance(types, tuple) else (types,),
        default,
        help,
        choices,
        least,
        most,
        program,
    )


pretrain, finetune = (partial(key, program=program) for program in PROGRAMS)


KEYS = {
    "seed": key(
        int, 0, "of data order, crops, views, masks and initialisation", least=0, most=2**63 - 1
    ),
    "output_dir": key(str, "./output", "runs are written to <output_dir>/<exp_name>"),
    "exp_name": key(str, "", "name of the run"),
    "resume": key(
        str, "", "checkpoint to resume from; 'auto': this run's checkpoint-last.pth if it is there"
    ),
    "start_epoch": key(
        int, 0, "first epoch (0-based) when it shall differ from the checkpoint's", least=0
    ),
    "encoder_path": finetune(
        str, "", "encoder.pth of a pre-training run (modes finetune and linprobe)"
    ),
    "device": key(str, "auto", "auto takes the GPU where there is one", ("auto", "cuda", "cpu")),
    "model_name": key(str, REQUIRED, "a model of models/, e.g. st_mem_vit_base_dec256d4b"),
    "model": key(dict, {}, "arguments of the model's factory"),
    "mode": finetune(
        str, "scratch", "what is trained and from where", ("finetune", "linprobe", "scratch")
    ),
    "dataset": {
        "store": key(
            str, "./data_folder/data_summary_without_preprocessing", "holds fs100/ and fs250/"
        ),
        "fs": key(int, 250, "sampling rate in Hz; picks the store's folder", least=1),
        "lead": key(
            (str, list), "12lead", "12lead, limb_lead, lead1, lead2, a lead's name or several"
        ),
        "transforms": key(list, REQUIRED, "training crops: a cropping, then device transforms"),
        "eval_transforms": finetune(
            (list, None), None, "for evaluation (null: as training, the crop centred)"
        ),
        "rand_augment": key(
            (dict, None), None, "then RandAugment: op_names, level, num_layers, prob"
        ),
        "crops_per_record": key(
            int, 1, "random crops of a record each time it is visited", least=1
        ),
        "databases": key((list, None), None, "only these source databases (null: all)"),
        "exclude_folds": pretrain(
            list, [], "folds to leave out, e.g. those a downstream test will use"
        ),
        "exclude_parts": pretrain(
            list,
            [],
            "leave out what protocol (and fold, splits, given, test_database) makes these parts, "
            "e.g. [valid, test]",
        ),
        "max_records": key(
            (int, None), None, "a seeded subset of so many records, to try things out", least=1
        ),
        "fold": key(
            (int, list, str),
            0,
            "test fold 0-9, a list, 'all' or 11 (the same); pre-training: the probe's",
        ),
        "protocol": key(
            str,
            "nested",
            "nested: test on k, select on k+1, train on the other eight; published: select and "
            "report on k (optimistic); given: a table of splits; leave_one_database: test on "
            "test_database, select on k of the others",
            ("nested", "published", "given", "leave_one_database"),
        ),
        "splits": key(
            (str, None), None, "protocol given: name of the table of splits (null: the only one)"
        ),
        "given": key(
            (dict, None),
            None,
            "protocol given, a table of folds: {train: [1, ..., 8], valid: [9], test: [10]}",
        ),
        "test_database": key(
            (str, None), None, "protocol leave_one_database: the database to test on"
        ),
        "mask_unannotated": finetune(
            (bool, None),
            None,
            "labels of classes that a record's database never annotated are unknown, not "
            "negative "
            "(null: with protocol leave_one_database)",
        ),
        "annotated": finetune(
            (str, None),
            None,
            "CSV file of which database annotated which class, such as the Challenge's "
            "dx_mapping_scored.csv (null: those with a positive record in the store)",
        ),
        "label_fraction": finetune(
            float,
            1.0,
            "share of the training records to use, stratified, whole patients: 0.01 for 1 % of "
            "the "
            "labels",
            least=0,
            most=1,
        ),
        "labels": key(
            (str, dict, None),
            None,
            "a table of labels beside the store (docs/data.md), or {name: ..., columns: [...]}; "
            "in "
            "pre-training the probe's",
        ),
        "classes": key(
            (str, dict, None),
            None,
            "challenge2020 (as null is, without labels): 24 classes; or {name: [SNOMED CT codes]}",
        ),
    },
    "dataloader": {
        "batch_size": key(int, 16, "records a process and forward pass", least=1),
        "num_workers": key(int, 8, "loader processes a training process", least=0),
        "pin_memory": key(bool, True, "faster copies to the GPU"),
    },
    "train": {
        "epochs": key(int, REQUIRED, "passes over the data", least=1),
        "accum_iter": key(
            int,
            1,
            "forward passes a step; effective batch: batch_size * accum_iter * processes",
            least=1,
        ),
        "warmup_epochs": key(float, 0.0, "epochs of linear warm-up from 0", least=0),
        "lr": key(
            (float, None), None, "peak learning rate; null: blr * effective batch / 256", least=0
        ),
        "blr": key(
            (float, None), None, "base learning rate for an effective batch of 256", least=0
        ),
        "min_lr": key(float, 0.0, "floor of the cosine", least=0),
        "lr_update": key(
            str,
            "iteration",
            "the schedule moves every iteration, or once an epoch (warm-up epoch n of w then has "
            "n/w of the peak)",
            ("iteration", "epoch"),
        ),
        "optimizer": key(str, "adamw", "one of util/training/optimizer.py's OPTIMIZERS"),
        "optimizer_kwargs": key(dict, {}, "further arguments, e.g. betas: [0.9, 0.95]"),
        "weight_decay": key(float, 0.0, "decoupled weight decay", least=0),
        "weight_decay_end": key(
            (float, None), None, "the weight decay goes there on a cosine (DINO)", least=0
        ),
        "decay_all": key(bool, False, "published: decay biases, norms and embeddings as well"),
        "max_norm": key((float, None), None, "clip the gradient's norm", least=0),
        "amp": key(
            str,
            "auto",
            "autocast: auto (bf16 on GPUs that have it, else fp16; none on the CPU), bf16, fp16 "
            "or "
            "none",
            ("auto", "bf16", "fp16", "none"),
        ),
        "matmul_precision": key(
            str,
            "auto",
            "of float32 products: auto (high on a GPU; on a CPU medium where a trial finds it "
            "faster and as exact, else highest), highest, high or medium",
            ("auto", "highest", "high", "medium"),
        ),
        "compile": key(bool, False, "torch.compile the model: slow first step, faster ones after"),
        "checkpoint_activations": key(
            bool,
            False,
            "compute transformer blocks again in the backward pass: a third more work, memory "
            "for "
            "longer crops or larger batches",
        ),
        "sync_bn": key(
            bool,
            True,
            "BatchNorm over the batches of all processes: as many give the same numbers as one",
        ),
        "head_init": finetune(
            str,
            "random",
            "how heads start: at random, or as a linear probe of the frozen encoder, which keeps "
            "what pre-training learnt (not with resume)",
            ("random", "probe"),
        ),
        "layer_decay": finetune(
            float,
            1.0,
            "factor of the learning rate from each level of the encoder to the one below it, the "
            "heads having the full one",
            least=0.01,
            most=1,
        ),
        "freeze_epochs": finetune(int, 0, "train the head alone for the first epochs", least=0),
        "steps_per_epoch": key(
            (int, None), None, "cut epochs short, for trying things out", least=1
        ),
        "log_every": key(int, 10, "steps between progress updates and TensorBoard points", least=1),
        "figure_every": pretrain(int, 10, "epochs between figures of a reconstruction", least=1),
        "probe_every": pretrain(
            int, 0, "epochs between linear probes on labelled records; 0: none", least=0
        ),
        "checkpoint_every": key(
            (int, str), 1, "epochs, or '500 steps', between checkpoint-last.pth's", least=1
        ),
        "keep_every": key(
            int, 20, "epochs between kept checkpoints (checkpoint-<epoch>.pth)", least=1
        ),
        "keep_last": key(int, 0, "keep only so many of these (0: all)", least=0),
        "skip_nonfinite": key(int, 0, "how many steps without a finite loss to tolerate", least=0),
    },
    "loss": finetune(
        (str, None),
        None,
        "criterion (null: bce, cross_entropy or mse, as the labels are)",
        ("bce", "cross_entropy", "mse", "l1"),
    ),
    "metric": {
        "task": finetune(
            (str, None),
            None,
            "kind of labels (null: as a table says; of dataset.classes multilabel)",
            ("multilabel", "multiclass", "regression"),
        ),
        "num_labels": finetune((int, None), None, "checked against the labels when given", least=1),
        "num_classes": finetune(
            (int, None), None, "checked against the labels when given", least=1
        ),
        "target_metrics": finetune(
            (list, None),
            None,
            "names, or {name: {average: macro}}: docs/scores.md (null: AUROC, in regression MAE "
            "and R2)",
        ),
    },
    "test": {
        "target_metric": finetune(
            str, "loss", "tests the checkpoint that is best by this in selection"
        ),
        "bootstrap": finetune(
            int, 0, "resamples of the test records for 95 % intervals (0: none)", least=0
        ),
    },
}


def divide(config: dict, program: str, keys=KEYS, prefix="") -> tuple[dict, list[str]]:
    """(config without the keys of the other program, the dotted names of those)."""
    own, others = {}, []
    for name, value in config.items():
        spec = keys.get(name)
        if isinstance(spec, Key) and spec.program not in (None, program):
            others.append(prefix + name)
            continue
        if isinstance(spec, dict) and isinstance(value, (dict, type(None))):
            value, more = divide(value or {}, program, spec, f"{prefix}{name}.")
            others += more
            if not value:
                continue
        own[name] = value
    return own, others


def keys_of(program: str) -> dict:
    """The part of ``KEYS`` that has an effect in a program."""
    return divide(KEYS, program)[0]


def describe_keys(program: str, keys=None, prefix="") -> str:
    """A program's keys with defaults and advice, for ``--help``."""
    lines = [] if prefix else ["configuration keys (YAML, --overlay or --set):"]
    for name, spec in (keys or keys_of(program)).items():
        if isinstance(spec, dict):
            lines.append(describe_keys(program, spec, f"{prefix}{name}."))
        else:
            default = ("" if spec.default is REQUIRED else "default ") + spec.default_text
            lines.append(f"  {prefix}{name}: {spec.help} [{default}]")
    return "\n".join(lines)


PAGE = """# Configuration

Written by `python -m util.config > docs/configs.md`; a test compares the two.

`--config_path FILE`, then each `--overlay`, each `--set KEY=VALUE` and the other flags are merged in this order:
mappings merge, lists and values replace. The result is saved as `config.yaml` beside the run and repeats it.

- **One base.** A file may begin with `base: other.yaml` (beside it) and holds what differs. A base has no base.
- **Arguments go with their name.** Where a layer names another `model_name` (or `name:` in a nested mapping such
  as `model.signal`), what stood beside the old name is dropped. Arguments given without a name go to whatever
  model is chosen in the end: under `--overlay short_crops --set model_name=st_mem_vit_tiny` the overlay's
  `model.seq_len` stays. A file and its base are one layer. Under `model:` a name alone, `encoder: xresnet1d50`,
  is short for `encoder: {name: xresnet1d50}`.
- **A key without effect is an error.** The column "program" says where a key has one. A file for both programs
  keeps what one alone needs in a section `pretrain:` or `finetune:`, merged over its other keys in that program.
- **Published YAML files** are read: exact counterparts are put in with a note; one message lists the other keys
  with their new names.
"""


def page() -> str:
    """docs/configs.md: how configs are put together, and one table a section."""
    sections = {
        "": {name: spec for name, spec in KEYS.items() if isinstance(spec, Key)},
        **{name: spec for name, spec in KEYS.items() if isinstance(spec, dict)},
    }
    return PAGE + "".join(_table(name, keys) for name, keys in sections.items())


def _table(section, keys):
    lines = [
        "",
        f"## {section or 'Top level'}",
        "",
        "| key | type | default | allowed | program | advice |",
        "|" + "---|" * 6,
    ]
    for name, spec in keys.items():
        allowed = ", ".join(spec.choices) or ("" if math.isinf(spec.least) else spec.bounds)
        cells = (
            f"`{section and section + '.'}{name}`",
            spec.kinds,
            f"`{spec.default_text}`",
            allowed,
            PROGRAMS.get(spec.program, "both"),
            spec.help.replace("<", "&lt;"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
