"""Occlusion: what is hidden is a straight line, and all ways at once equal one after another."""

import numpy as np
import torch

from tests.support.tiny_encoder import Plain
from util.explain.occlusion import SeenCrops, Stretches, falls_without, occlude, without

LENGTH, STRIDE, SAMPLES = 50, 25, 120


def a_record(samples=SAMPLES):
    signal = torch.randn(12, samples, generator=torch.Generator().manual_seed(0))
    starts = torch.arange(0, samples - LENGTH + 1, STRIDE)
    crops = torch.stack([signal[:, start : start + LENGTH] for start in starts])
    return SeenCrops(crops, starts, samples)


def a_score():
    torch.manual_seed(0)
    network = Plain().eval()
    return lambda crops, which: network.forward_features(crops)[:, 0]


def hidden_by_hand(crop, first, last, leads):
    """One crop (leads, time) without samples first to last - 1, sample by sample."""
    crop, length = crop.clone(), crop.shape[1]
    first, last = max(first, 0), min(last, length)
    if last <= first:
        return crop
    for lead in leads:
        line = crop[lead].clone()
        if first == 0 and last == length:
            crop[lead] = line.mean()
            continue
        left = line[first - 1] if first > 0 else line[last]
        right = line[last] if last < length else line[first - 1]
        for i in range(first, last):
            share = (i - first + 1) / (last - first + 1)
            crop[lead, i] = left + share * (right - left)
    return crop


def by_hand(record, score, first, last, leads):
    falls = []
    for number, (crop, start) in enumerate(zip(record.crops, record.starts.tolist())):
        which = torch.tensor([number])
        hidden = hidden_by_hand(crop, first - start, last - start, leads)
        with torch.no_grad():
            falls.append((score(crop[None], which) - score(hidden[None], which)).item())
    return np.mean(falls)


def test_occlusion_equals_hiding_one_window_after_another():
    record, score = a_record(), a_score()
    got = occlude(record, score, window=35, batch=7)
    assert got.edges.tolist() == [0, 35, 70, 105, 120]
    for number, (first, last) in enumerate(zip([0, 35, 70, 105], [35, 70, 105, 120])):
        wanted = by_hand(record, score, first, last, range(12))
        np.testing.assert_allclose(got.times[number], wanted, atol=1e-6)
        for lead in (0, 4, 11):
            wanted = by_hand(record, score, first, last, [lead])
            np.testing.assert_allclose(got.windows[lead, number], wanted, atol=1e-6)
    for lead in (0, 11):
        wanted = by_hand(record, score, 0, 10**6, [lead])
        np.testing.assert_allclose(got.leads[lead], wanted, atol=1e-6)
    wanted = by_hand(record, score, 0, 10**6, range(12))
    np.testing.assert_allclose(got.everything, wanted, atol=1e-6)
    assert got.trace.shape == (12, 120) and got.profile.shape == (120,)
    assert torch.equal(got.trace[3, 35:70], got.windows[3, 1].expand(35))


def test_a_window_that_no_crop_sees_changes_nothing():
    record = a_record(140)  # crops end at 125
    stretches = Stretches(
        torch.tensor([126]), torch.tensor([140]), torch.ones(1, 12, dtype=torch.bool)
    )
    assert falls_without(record, a_score(), stretches).tolist() == [0]
    assert record.seen.tolist() == [1] * 25 + [2] * 75 + [1] * 25 + [0] * 15


def test_a_stretch_of_a_ramp_is_hidden_by_itself():
    ramp = torch.arange(20.0).expand(1, 2, 20).contiguous()
    leads = torch.tensor([[True, False]])
    same = without(ramp, torch.tensor([5]), torch.tensor([9]), leads)
    torch.testing.assert_close(same, ramp)
    start = without(ramp, torch.tensor([0]), torch.tensor([3]), leads)
    assert start[0, 0, :4].tolist() == [3, 3, 3, 3] and start[0, 1, :3].tolist() == [0, 1, 2]
    end = without(ramp, torch.tensor([18]), torch.tensor([20]), leads)
    assert end[0, 0, 17:].tolist() == [17, 17, 17]
