"""DINO's published signal views, one crop after the other with NumPy."""

import numpy as np


def signal_views(crop, rng, length=250):
    """Two global and eight local views of a crop (leads, time) in mV: cut and stretched, a window
    of each lead hidden, noise added.
    """
    views = []
    for low, high in [(0.5, 1.0)] * 2 + [(0.1, 0.5)] * 8:
        width = crop.shape[1] * rng.uniform(low, high)
        start = rng.uniform(0, crop.shape[1] - width)
        place = np.clip(
            start + (np.arange(length) + 0.5) * width / length - 0.5, 0, crop.shape[1] - 1
        )
        view = np.stack([np.interp(place, np.arange(crop.shape[1]), lead) for lead in crop])
        for lead in view:
            hidden = int(rng.uniform(0.2, 0.4) * length)
            begin = rng.integers(0, length - hidden + 1)
            lead[begin : begin + hidden] = 0
        views.append(view + rng.uniform(0.005, 0.025) * rng.standard_normal(view.shape))
    return views
