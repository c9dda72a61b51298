"""What every test begins with."""

import pytest
import torch

from tests.support.stand_in import force_matmul_precision
from util import console

force_matmul_precision()


@pytest.fixture(autouse=True)
def plain_products():
    """Full float32 products, whatever a training in this process, of a test before or of a
    fixture, has chosen.
    """
    torch.set_float32_matmul_precision("highest")


@pytest.fixture
def sentences():
    """A function that returns what has been said since it was last called."""

    def since_last():
        said = console.said()
        console.begin()
        return said

    console.begin()
    yield since_last
    console.begin()
