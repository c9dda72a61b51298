"""A processor on which ``train.matmul_precision: auto`` becomes what TESTS_MATMUL_PRECISION says,
for tests/rounds.sh.

Read by the tests alone: conftest.py for pytest's own process, jobs.py and two_processes.py for
those that they start. Scripts that a test runs by a command decide for themselves.
"""

import os


def force_matmul_precision() -> None:
    """Let ``auto`` decide so in this process, if the environment asks for it."""
    forced = os.environ.get("TESTS_MATMUL_PRECISION")
    if forced:
        from util.training import optimizer

        optimizer._best_on_cpu = _Trial(forced, optimizer._best_on_cpu)


class _Trial:
    """In place of the measurement, which remembers its result."""

    def __init__(self, precision, real):
        self.precision, self.real = precision, real

    def __call__(self):
        return self.precision, "as TESTS_MATMUL_PRECISION forces it"

    def cache_clear(self):
        """Nothing is remembered."""
