"""Views of a crop: batched, on the crop's device, every draw keyed by the sample.

A view list is plain data, as in YAML::

    views:
      - count: 2
        global: true
        transforms:
          - random_resized_crop: {ratio: [0.5, 1.0], length: 250}
          - time_out: {ratio: [0.2, 0.4]}
      - {count: 8, transforms: [...]}

or the name of one in ``VIEW_PRESETS``: ``views: dino_signal``.  ``count`` (default 1) is how many
views are made so; ``global`` (default false) marks those that DINO's teacher sees.  A transform
is any of util/signals/augmentations.py.  Standardisation comes later, inside
the encoder: a hidden part of a signal is 0 mV, as published, and of a spectrogram the mean that
the encoder will subtract (published: standardised first).
"""

from typing import Any

import torch
from torch import Tensor

from util.errors import ConfigError
from util.keyed_random import KeyedRandom
from util.named_arguments import COUNT, FLAG, LIST, check_arguments
from util.signals.augmentations import AUGMENTATIONS, Augmentation, Fill, parse_augmentations

# ============ presets: the published views ============
DISTURBED: list = [
    {"time_out": {"ratio": [0.2, 0.4]}},
    {"gaussian_noise": {"sigma": [0.005, 0.025]}},
]


def _signal_view(ratio: list[float], length: int, **more: Any) -> dict[str, Any]:
    crop = {"random_resized_crop": {"ratio": ratio, "length": length}}
    return {**more, "transforms": [crop, *DISTURBED]}


def _spectrogram_view(ratio: list[float], **more: Any) -> dict[str, Any]:
    return {
        **more,
        "transforms": [
            "spectrogram",
            {"frame_crop": {"ratio": ratio, "frames": 21}},
            "frequency_cutout",
            {"time_cutout": {"ratio": [0.1, 0.35]}},
        ],
    }


VIEW_PRESETS: dict[str, list[dict[str, Any]]] = {
    "contrastive": [{"count": 2, "transforms": DISTURBED}],
    # As published, local views are stretched to 250, too: one pass of the encoder, one BatchNorm
    # batch.
    "dino_signal": [
        _signal_view([0.5, 1.0], 250, count=2, **{"global": True}),
        _signal_view([0.1, 0.5], 250, count=8),
    ],
    # The size of 100 that the published script asks for and does not get: half the samples for
    # the encoder.
    "dino_signal_short": [
        _signal_view([0.5, 1.0], 250, count=2, **{"global": True}),
        _signal_view([0.1, 0.5], 100, count=8),
    ],
    "dino_spectrogram": [
        _spectrogram_view([0.6, 1.0], count=2, **{"global": True}),
        _spectrogram_view([0.3, 0.6], count=8),
    ],
}


# ============ from configuration to views ============
KEYS = {"count": COUNT, "global": FLAG, "transforms": LIST}


def parse_views(value: str | list) -> list[dict[str, Any]]:
    """Read ``model.views``, a list of views or the name of a preset.

    Returns:
        {"count", "global", "transforms"} each.

    Raises:
        ConfigError: neither, or unknown keys; the message lists the known ones.
    """
    specs = VIEW_PRESETS.get(value) if isinstance(value, str) else value
    if not isinstance(specs, list):
        raise ConfigError(
            f"views must be {', '.join(VIEW_PRESETS)} or a list of views, not {value!r}"
        )
    for spec in specs:
        check_arguments(spec, KEYS, ["transforms"], "a view")
    return [{"count": 1, "global": False, **spec} for spec in specs]


class Views:
    """All views of a method.

    Args:
        specs: a list of views or the name of a preset, see the module's docstring.
        fs: sampling rate of the signals, Hz, for ``spectrogram``; None: as the list says, or 100.

    Attributes:
        count: number of views.
        global_count: how many of them are global; they come first.

    Calling it with a signal (batch, leads, time) and its ``KeyedRandom`` gives the list of views.
    View n draws from ``random.fork("view", n)``, whichever views are made beside it.  ``fill``, the
    encoder's ``input_mean``, fills the padding and the cut-outs of a spectrogram.

    Raises:
        ConfigError: unknown names, keys or values; the message lists the known ones.
    """

    def __init__(self, specs: str | list, fs: float | None = None) -> None:
        # global first; the sort is stable
        ordered = sorted(parse_views(specs), key=lambda spec: not spec["global"])
        parsed = [parse_augmentations(spec["transforms"], "views") for spec in ordered]
        self.groups = [
            (
                spec["count"],
                [(step, self._with_fs(step, arguments, fs)) for step, arguments in steps],
            )
            for spec, steps in zip(ordered, parsed)
        ]
        self.count = sum(spec["count"] for spec in ordered)
        self._global_groups = sum(spec["global"] for spec in ordered)
        self.global_count = sum(spec["count"] for spec in ordered if spec["global"])

    def stretch(self, samples: int) -> tuple[float, float] | None:
        """Return the least and the most samples of a crop that become one of a global view (of any
        view, where none is global); None where one of them is not stretched.

        Args:
            samples: of the crop.
        """
        factors: list[float] = []
        for _, steps in self.groups[: self._global_groups or None]:
            shares = [
                (arguments["ratio"], arguments["length"])
                for step, arguments in steps
                if step is AUGMENTATIONS["random_resized_crop"]
            ]
            if not shares:
                return None
            factors += [share * samples / length for ratio, length in shares for share in ratio]
        return min(factors), max(factors)

    @staticmethod
    def _with_fs(step: Augmentation, arguments: dict[str, Any], fs: float | None) -> dict[str, Any]:
        """The arguments of a step, ``spectrogram`` with the signals' sampling rate."""
        if fs is None or step is not AUGMENTATIONS["spectrogram"]:
            return arguments
        if arguments.get("fs", fs) != fs:
            raise ConfigError(
                f"views: spectrogram says fs {arguments['fs']} but dataset.fs is {fs}"
            )
        return {"fs": fs}

    # for methods that call it in ``forward``: a break in the graph, no error of Inductor's
    @torch.compiler.disable
    def __call__(self, signal: Tensor, random: KeyedRandom, fill: Fill = 0.0) -> list[Tensor]:
        views: list[Tensor] = []
        for count, steps in self.groups:
            # A GPU makes equal views together, each copy of the batch with the keys of its
            # fork; a CPU one by one, whose numbers then stay in its caches.
            together = 1 if signal.device.type == "cpu" else count
            for _ in range(0, count, together):
                first = len(views)
                forks = [random.fork("view", first + n).keys for n in range(together)]
                draws, x = KeyedRandom(torch.cat(forks)), signal.repeat(together, 1, 1)
                for step, arguments in steps:
                    hidden = {"fill": fill} if x.ndim == 4 and step.fills else {}
                    x = step(x, draws, **arguments, **hidden)
                views.extend(x.chunk(together))
        return views
