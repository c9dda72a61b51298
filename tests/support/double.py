"""Everything in float64, where two ways to one number agree unless one of them is wrong.

Float32 products round differently by processor, number of threads and shape of the batch, and
training multiplies the difference: how far two float32 runs are apart says little about either.
"""

import contextlib

import torch


def compute_in_double():
    """From now on, what this process builds is float64, and what asks for float32 by ``.float()``
    gets float64.  The ``patch`` of a job.
    """
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double


@contextlib.contextmanager
def in_double():
    """The same, and undone."""
    before = torch.get_default_dtype()
    compute_in_double()
    try:
        yield
    finally:
        del torch.Tensor.float  # the inherited one
        torch.set_default_dtype(before)
