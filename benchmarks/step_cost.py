"""What a training step costs on a GPU, without one: operations and bytes on fake tensors, which
have shapes and types but no content.

    python benchmarks/step_cost.py                     # ST-MEM base, 128 a step, bf16
    python benchmarks/step_cost.py st_mem_vit_small_dec256d4b --batch 256

An operation starts one kernel or a few; views and empty memory cost none.  It reads each of its
inputs once and writes each of its outputs once: a lower bound of its traffic.  Products are
limited by the card's rate of products, everything else by its memory.  The tensors are a CPU's, as
PyTorch without CUDA has no others, but attention is the fused one that a GPU takes.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

KINDS = (  # of operations, by what is in their names, the first that fits
    ("products", ("mm.", "convolution")),
    ("attention", ("attention",)),
    ("LayerNorm", ("layer_norm",)),
    ("casts and copies", ("_to_copy", "copy_", "clone", "cat.", "stack")),
    ("GELU", ("gelu",)),
    ("sums", ("sum.", "mean.")),
    ("additions", ("add.", "add_.")),
    ("optimiser", ("_fused", "_foreach")),
)


@dataclass
class Cost:
    """Operations and bytes, by kind."""

    operations: Counter = field(default_factory=Counter)
    bytes: Counter = field(default_factory=Counter)


def counting(cost):
    """A mode that adds every operation to ``cost``."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    def size(tensor):
        """Bytes that are there: an expanded tensor's are those of what it expands."""
        numbers = [n for n, stride in zip(tensor.shape, tensor.stride()) if stride]
        count = 1
        for number in numbers:
            count *= number
        return count * tensor.element_size() if tensor.numel() else 0

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            name = str(function)[len("aten.") :]
            given, made = (
                [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
                for tree in ((args, kwargs), out)
            )
            places = {x.untyped_storage()._cdata for x in given}
            writes = function._schema.is_mutable
            fresh = [x for x in made if x.untyped_storage()._cdata not in places]
            if not (writes or fresh) or name.startswith(("empty", "new_empty")):
                return out
            kind = next((kind for kind, parts in KINDS if any(p in name for p in parts)), "others")
            written = fresh or [
                x
                for argument, value in zip(function._schema.arguments, args)
                if argument.alias_info and argument.alias_info.is_write
                for x in tree_leaves(value)
            ]
            cost.operations[kind] += 1
            cost.bytes[kind] += sum(map(size, given)) + sum(map(size, written))
            return out

    return Counting()


def step_cost(name, batch, accumulate=1):
    """The cost of forward and backward passes and update of a masked autoencoder in bf16."""
    from unittest import mock

    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from benchmarks.contests import TRAIN
    from models.layers import blocks
    from util.contract.registry import build
    from util.training.optimizer import autocast, make_optimizer

    device, cost = torch.device("cpu"), Cost()
    with FakeTensorMode(), mock.patch.object(blocks, "SHORT", 0):
        model = build(name)
        optimizer = make_optimizer(model, TRAIN, 1e-4)
        signal = torch.empty(batch, 12, 2250)
        noise = torch.empty(model.encoder.patchify(signal).shape[:-1])

        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        optimizer.step()  # makes the moments
        optimizer.zero_grad(set_to_none=True)
        with counting(cost):
            with autocast(device, None):  # as the engine does
                for _ in range(accumulate):
                    with autocast(device, torch.bfloat16):
                        loss = model({"signal": signal}, {"noise": noise})["loss"]
                    loss.backward()
            optimizer.step()
    return cost


def main(argv=None):
    from util.flags import Parser

    parser = Parser(description=__doc__)
    parser.add_argument("model", nargs="?", default="st_mem_vit_base_dec256d4b")
    parser.add_argument("--batch", type=int, default=128, help="ECGs a pass (default: 128)")
    parser.add_argument("--accumulate", type=int, default=1, help="passes a step (default: 1)")
    arguments = parser.parse_args(argv)
    cost = step_cost(arguments.model, arguments.batch, arguments.accumulate)
    samples = arguments.accumulate * arguments.batch
    print(f"{arguments.model}, {samples} a step, bf16\n\n| kind | operations | GB |")
    print("|---|---|---|")
    for kind, count in cost.operations.most_common():
        print(f"| {kind} | {count} | {cost.bytes[kind] / 1e9:.1f} |")
    print(f"| all | {cost.operations.total()} | {cost.bytes.total() / 1e9:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
