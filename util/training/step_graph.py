"""One training step as a CUDA graph: what the host has queued once is replayed by one call.

The GPU waits for nothing then but the copies of a batch.  A graph repeats the same kernels on the
same addresses with the same numbers, so whatever changes from step to step is a tensor that is
filled before the replay: the batches and what was drawn for them, the run's place, learning rates,
scheduled decay.  What is decided on the host stays outside: drawing, ``before_step`` (between two
graphs, where a method has one), slow teachers.

    graph = StepGraph(run)                     # says in the run's head which path it takes
    values = graph.take(micro_batches)         # None: take the plain step
    graph.forget()                             # parameters were frozen or thawed

NVIDIA's and PyTorch's rules for captures: warm up on a side stream, never free what a graph reads.
Of several processes every one captures its own step, and DDP's exchange of gradients with it, by
NCCL's rules: DDP is made on the side stream, and has timed its first ten steps.
"""

import contextlib
import functools
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from util.config.keys import JobConfig
from util.console import note
from util.contract.method import Batch, Method
from util.errors import ECGError
from util.keyed_random import KeyedRandom
from util.processes import collectives
from util.training.state import TrainState

WARM_UP = 3  # plain steps before a capture: they make moments, workspaces, plans and compiled code
WARM_UP_SHARED = 11  # of several processes: DDP times its first ten, which no graph can hold
TRIAL = 5  # steps each way, by which train.cuda_graph: trial decides
GAIN = 1.05  # the graph has to be so much faster
AGREEMENT = 1e-5  # largest relative difference of a trial's losses
FILLED = ("lr", "weight_decay", "capturable")  # of the optimiser's groups, while it is captured
RATES = ("p", "rate", "dropout", "attention_dropout")  # of modules that draw random numbers
Inputs = tuple[Batch, dict[str, Any]]  # a batch as a model sees it, and what is drawn for it


class Run(Protocol):
    """What of a training (util/training/engine.py) a step is made of."""

    state: TrainState
    config: JobConfig
    device: torch.device

    def inputs(self, batch: dict) -> Inputs:
        """Return a loader's batch as the model sees it, and what is drawn for it."""
        ...

    def passes(self, micro_batches: Iterable[Inputs]) -> torch.Tensor:
        """Run forward and backward passes; return what is logged."""
        ...

    def update(self) -> None:
        """Clip the gradients and take a step of the optimiser."""
        ...

    def position(self) -> float:
        """Return where the run stands, in epochs."""
        ...


class Recorder(Protocol):
    """How functions of fixed tensors are recorded; tests have one for CPUs.

    Attributes:
        rates: type in which the optimiser's kernels take a learning rate from a tensor.
    """

    rates: torch.dtype

    def warming_up(self) -> contextlib.AbstractContextManager:
        """Return a context for the plain steps before a capture."""
        ...

    def rehearsing(self) -> contextlib.AbstractContextManager:
        """Return a context in which what no capture can hold fails without harm."""
        ...

    def record(self, function: Callable[[], list]) -> Callable[[], list]:
        """Return a function that does the device's work of ``function`` again, without its host's,
        and returns the same tensors each time.
        """
        ...

    def now(self) -> float:
        """Return seconds, once the device has done all that was queued."""
        ...


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one on which DDP was made serves every capture."""
    return torch.cuda.Stream(device)


class CudaRecorder:
    """CUDA graphs that share their memory, as they are replayed in the order of their capture."""

    rates = torch.float32

    def __init__(self, device: torch.device):
        self.stream = _side_stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    @contextlib.contextmanager
    def warming_up(self) -> Iterator[None]:
        """Return a context on the side stream on which the capture will be, too."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    @contextlib.contextmanager
    def rehearsing(self) -> Iterator[None]:
        """Return the same context, in which waiting for the device is an error."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with self.warming_up():
                yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def record(self, function: Callable[[], list]) -> Callable[[], list]:
        """Capture ``function``; whatever it reads has to stay where it is."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.stream.device)
        try:
            # thread_local: the loader's threads may pin memory meanwhile
            with torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                out = function()
        finally:
            torch.cuda.set_stream(current)  # which a capture that fails leaves behind

        def replay() -> list:
            graph.replay()
            return out

        return replay

    def now(self) -> float:
        """Return seconds, once the device has done all that was queued."""
        torch.cuda.synchronize(self.stream.device)
        return time.perf_counter()


def _draws(module: nn.Module) -> bool:
    """Whether it draws random numbers while training: dropout of any kind, drop path."""
    rates = [getattr(module, name, 0.0) for name in RATES]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def plain_reasons(run: Run) -> list[str]:
    """Return why a step cannot be one CUDA graph, all of it; nothing where it can."""
    train, model, optimizer = run.config.train, run.state.model, run.state.optimizer
    changing = train.weight_decay_end is not None and train.optimizer != "adamw"
    several = collectives.world()
    reasons = {
        "it runs on a CPU": run.device.type != "cuda",
        f"train.cuda_graph: trial is for one process, and {several} share it (true captures "
        "several)": several > 1 and train.cuda_graph == "trial",
        f"NCCL watches what {several} processes exchange ({collectives.WATCHED} is not 0)": (
            several > 1
            and run.device.type == "cuda"
            and os.environ.get(collectives.WATCHED) != "0"
            and train.cuda_graph is True
        ),
        "train.skip_nonfinite looks at every loss": train.skip_nonfinite > 0,
        "fp16 scales its losses": run.state.scaler.is_enabled(),
        f"train.optimizer {train.optimizer} is not one fused kernel": not all(
            group.get("fused") for group in optimizer.param_groups
        ),
        f"{train.optimizer} decays within its kernel, and train.weight_decay_end changes the "
        "decay": changing,
        "dropout or drop path draws random numbers": any(map(_draws, model.modules())),
        "train.checkpoint_activations computes blocks twice": train.checkpoint_activations,
        "train.cuda_graph is false": train.cuda_graph is False,
        "train.cuda_graph is auto, and no GPU has been measured yet (trial tries it)": (
            train.cuda_graph == "auto"
        ),
    }
    return [reason for reason, holds in reasons.items() if holds]


class StepGraph:
    """A run's step, plain for ``warm_up`` steps, then captured and replayed.

    Args:
        run: whose steps.
        reasons: to take the plain path for good, see ``plain_reasons``.
        make_recorder: called when something is to be recorded.
    """

    def __init__(
        self,
        run: Run,
        reasons: list[str],
        make_recorder: Callable[[torch.device], Recorder] = CudaRecorder,
    ):
        self.run: Run = weakref.proxy(run)  # no circle: memory is free once the run is
        self.make_recorder, self.plain = make_recorder, bool(reasons)
        self.undecided = run.config.train.cuda_graph == "trial"
        # DINO takes gradients away by the epoch, which the host decides, at every step.
        self.between = type(run.state.model).before_step is not Method.before_step
        self.graphs = "two CUDA graphs, before and after before_step" * self.between
        self.graphs = self.graphs or "one CUDA graph"
        several = collectives.world()
        self.warm_up = WARM_UP_SHARED if several > 1 else WARM_UP
        if reasons:
            note(f"the step takes the plain path, not {self.graphs}: {'; '.join(reasons)}")
        elif self.undecided:
            note(
                f"a trial after {self.warm_up} steps decides whether the step runs as {self.graphs}"
            )
        else:
            shared = f" on each of {several} processes, which exchange their gradients within it"
            note(f"the step runs as {self.graphs}{shared * (several > 1)}")
        self.forget()

    def forget(self) -> None:
        """Forget what was captured, as parameters have been frozen or thawed; warm up anew."""
        self.run.state.optimizer.zero_grad(set_to_none=True)
        self.steps = 0
        self.buffers: list[Any] = []
        self.recorder: Recorder | None = None
        self.first: Callable[[], list] | None = None  # all of it, or forward and backward passes
        self.second: Callable[[], list] | None = None  # the update of ``updated``
        self.learning: list[nn.Parameter] = []
        self.updated: list[bool] = []

    # ============ a step ============
    def warming_up(self) -> contextlib.AbstractContextManager:
        """Return a context for a plain step."""
        if self.plain:
            return contextlib.nullcontext()
        self.recorder = self.recorder or self.make_recorder(self.run.device)
        return self.recorder.warming_up()

    def take(self, micro_batches: list[dict]) -> torch.Tensor | None:
        """Take a step by replaying it and return what is logged; None where the plain one is to
        be taken instead.
        """
        self.steps += 1
        if self.plain or self.steps <= self.warm_up:
            return None
        if not self._fill([self.run.inputs(batch) for batch in micro_batches]):
            return None
        if self.first is None:
            self._capture()
        return None if self.plain else self._replay()

    def _leave(self, reason: str) -> None:
        self.forget()
        self.plain = True
        note(f"the step takes the plain path, not {self.graphs}: {reason}")

    def _capture(self) -> None:
        """Rehearse and record the step, or leave it with a sentence; nothing has changed then."""
        changing = self._changing()
        before = [tensor.clone() for tensor in changing]

        def attempt() -> None:
            assert self.recorder is not None, "made while warming up"
            with self.recorder.rehearsing():
                self._eager()
            self.first = self._recorded(self._passes if self.between else self._whole)
            if self.undecided:
                self._decide(lambda: torch._foreach_copy_(changing, before))

        try:
            failure = _failure(attempt)
            if failure:
                self._leave(failure)
        finally:
            torch._foreach_copy_(changing, before)

    def _recorded(self, function: Callable[[], list]) -> Callable[[], list]:
        assert self.recorder is not None, "made while warming up"
        return self.recorder.record(function)

    def _replay(self) -> torch.Tensor:
        assert self.first is not None, "captured"
        values, *gradients = self.first()
        if self.between:
            self._update_by(gradients)
        return values.clone()

    def _update_by(self, gradients: list[torch.Tensor]) -> None:
        """What follows the passes where ``before_step`` may take gradients away."""
        for parameter, gradient in zip(self.learning, gradients, strict=True):
            parameter.grad = gradient
        self.run.state.model.before_step(self.run.position())
        updated = [parameter.grad is not None for parameter in self.learning]
        if updated != self.updated:
            # The first time as it is: the optimiser may have moments to make.
            self.updated, self.second = updated, None
            self._update()
            return
        if self.second is None and (failure := _failure(self._record_update)):
            self._update()
            self._leave(failure)
        elif self.second is not None:
            self.second()

    def _record_update(self) -> None:
        self.second = self._recorded(self._update)

    # ============ fixed tensors ============
    def _fill(self, prepared: list[Inputs]) -> bool:
        """Copy a step's batches, place and rates to where the graph reads them; return whether
        they are of the same form as before.
        """
        for ready, _ in prepared:
            ready["random"] = KeyedRandom.__new__(KeyedRandom)  # draws fail; they belong in draw()
        leaves, form = tree_flatten(prepared)
        if not self.buffers:
            groups = self.run.state.optimizer.param_groups
            self.form = form
            self.buffers = [
                leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves
            ]
            assert self.recorder is not None, "made while warming up"
            number = torch.zeros((), dtype=self.recorder.rates, device=self.run.device)
            self.rates = [(number.clone(), number.clone()) for _ in groups]
        if form != self.form or not all(map(_fits, self.buffers, leaves)):
            self.forget()
            return False
        for buffer, leaf in zip(self.buffers, leaves):
            if isinstance(leaf, torch.Tensor):
                buffer.copy_(leaf)
        for (rate, kept), group in zip(self.rates, self.run.state.optimizer.param_groups):
            rate.fill_(group["lr"])
            kept.fill_(1 - group["lr"] * group["weight_decay"])
        return True

    def _passes(self) -> list[torch.Tensor]:
        """Forward and backward passes on the fixed batches: what is logged, and the gradients."""
        optimizer = self.run.state.optimizer
        optimizer.zero_grad(set_to_none=True)
        values = self.run.passes(tree_unflatten(self.buffers, self.form))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.learning = [p for p in parameters if p.grad is not None]
        return [values, *[p.grad for p in self.learning if p.grad is not None]]

    def _whole(self) -> list[torch.Tensor]:
        values = self._passes()[:1]
        self._update()
        return values

    def _update(self) -> list:
        """The update with rates from tensors; a decay that changes as a product of its own."""
        groups = self.run.state.optimizer.param_groups
        scheduled = self.run.config.train.weight_decay_end is not None
        capturing = self.run.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        before = [{name: group[name] for name in FILLED if name in group} for group in groups]
        try:
            for group, (rate, kept) in zip(groups, self.rates):
                group["lr"] = rate
                if capturing and "capturable" in group:
                    group["capturable"] = True
                decayed = [p.detach() for p in group["params"] if p.grad is not None]
                if scheduled and group["decayed"] and decayed:
                    torch._foreach_mul_(decayed, kept)
                    group["weight_decay"] = 0.0
            self.run.update()
        finally:
            for group, numbers in zip(groups, before):
                group |= numbers
        return []

    # ============ train.cuda_graph: trial ============
    def _decide(self, undo: Callable[[], Any]) -> None:
        """Try both ways from the same state, and say which one the run takes."""
        found = []
        for way in (self._eager, self._replay):
            way()  # twice before it counts: the second update of its kind is captured, too
            way()
            undo()
            found.append(self._timed(way))
        (plain, wanted), (seconds, losses) = found
        gain, gap = plain / seconds, max(map(_difference, losses, wanted))
        self.undecided = False
        trial = f"a trial found it {gain:.2f} times as fast, losses within {gap:.0e}"
        if gain >= GAIN and gap <= AGREEMENT:
            note(f"the step runs as {self.graphs}: {trial}")
        else:
            self._leave(f"{trial} (bounds: {GAIN}, {AGREEMENT:.0e})")

    def _changing(self) -> list[torch.Tensor]:
        model, optimizer = self.run.state.model, self.run.state.optimizer
        moments = [value for state in optimizer.state.values() for value in state.values()]
        found = [*model.parameters(), *model.buffers(), *moments]
        return [each.detach() for each in found if isinstance(each, torch.Tensor)]

    def _eager(self) -> torch.Tensor:
        values, *gradients = self._passes()
        if self.between:
            self.run.state.model.before_step(self.run.position())
        self._update()
        return values.clone()

    def _timed(self, way: Callable[[], torch.Tensor]) -> tuple[float, list[float]]:
        assert self.recorder is not None, "made while warming up"
        began = self.recorder.now()
        values = [way() for _ in range(TRIAL)]
        return self.recorder.now() - began, [float(value[0]) for value in values]


def _fits(buffer: Any, leaf: Any) -> bool:
    if isinstance(leaf, torch.Tensor) and isinstance(buffer, torch.Tensor):
        return (leaf.shape, leaf.dtype) == (buffer.shape, buffer.dtype)
    return isinstance(leaf, KeyedRandom) or leaf == buffer


def _failure(attempt: Callable[[], None]) -> str | None:
    """Call it; return why it failed, alike on every process, or None.

    Raises:
        ECGError: it failed on some processes alone: what these have exchanged differs.
    """
    why = None
    try:
        attempt()
    except Exception as error:  # whatever a model of one's own does that no graph can hold
        first = (str(error).splitlines() or [""])[0]
        why = f"it cannot be captured ({type(error).__name__}: {first})"
    failed = int(collectives.total(torch.tensor(int(why is not None))))
    if 0 < failed < collectives.world():
        raise ECGError(
            f"the step could be captured as a CUDA graph on {collectives.world() - failed} of "
            f"{collectives.world()} processes: {why or 'not on another one'}; resume with "
            "--set train.cuda_graph=false"
        )
    return why


def _difference(a: float, b: float) -> float:
    gap = abs(a - b) / max(abs(b), 1e-12)
    return gap if math.isfinite(gap) else math.inf
