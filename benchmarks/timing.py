"""How all benchmarks take time: ways take turns, so that what else the machine does hits all of
them alike.
"""

import statistics
import time
from dataclasses import dataclass

import torch


@dataclass
class Timed:
    """Seconds of the repeats of one way.  ``best`` counts: other work of the machine can only
    slow a run.
    """

    seconds: list

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """(median - best) / best: how far a usual repeat is from the best one."""
        return statistics.median(self.seconds) / self.best - 1


def interleaved(
    ways: dict, repeats: int, device="cpu", clock=time.perf_counter
) -> dict[str, Timed]:
    """Time functions by name, each once a round, after a round that warms up; a GPU is waited
    for.
    """
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    found = {name: [] for name in ways}
    for round_ in range(repeats + 1):
        for name, way in ways.items():
            wait()
            began = clock()
            way()
            wait()
            if round_:
                found[name].append(clock() - began)
    return {name: Timed(seconds) for name, seconds in found.items()}
