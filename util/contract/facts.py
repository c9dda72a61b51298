"""What a model has to know of its data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataFacts:
    """What a model has to know of its data.

    Attributes:
        leads: names of the crops' leads, in order.
        fs: sampling rate in Hz.
        num_classes: None for no classifier.
        length: samples of a crop; None where it is not known.
    """

    leads: tuple[str, ...]
    fs: float
    num_classes: int | None = None
    length: int | None = None
