"""LARS against its algorithm written out for one weight, and its special cases."""

import copy

import pytest
import torch

from util.training.lars import LARS


def reference(w, gradients, lr, momentum, weight_decay, trust):
    """Algorithm 1 of You et al. 2017, line by line, for one matrix."""
    v = torch.zeros_like(w)
    for g in gradients:
        local = trust * w.norm() / (g.norm() + weight_decay * w.norm())
        v = momentum * v + lr * local * (g + weight_decay * w)
        w = w - v
    return w


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_is_algorithm_1(weight_decay):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(5, 7, 3, dtype=torch.double))
    gradients = list(torch.randn(4, 5, 7, 3, dtype=torch.double))
    expected = reference(parameter.detach().clone(), gradients, 0.5, 0.9, weight_decay, 0.02)
    optimizer = LARS([parameter], lr=0.5, momentum=0.9, weight_decay=weight_decay, trust=0.02)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(parameter.grad, gradient)
    assert torch.allclose(parameter, expected, rtol=1e-12)


def test_one_dimensional_parameters_take_plain_momentum_steps():
    values, gradients = torch.randn(6), torch.randn(3, 6)
    ours, theirs = torch.nn.Parameter(values.clone()), torch.nn.Parameter(values.clone())
    optimizers = [
        LARS([ours], lr=0.1, weight_decay=0.01),
        torch.optim.SGD([theirs], 0.1, 0.9, weight_decay=0.01),
    ]
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(ours, theirs, rtol=1e-6)


def test_step_does_not_depend_on_the_gradients_scale():
    """What makes it fit for large batches; plain SGD would differ 1000 times."""
    weights, gradient = torch.randn(4, 4), torch.randn(4, 4)
    results = []
    for scale in (1.0, 1000.0):
        parameter = torch.nn.Parameter(weights.clone())
        parameter.grad = gradient * scale
        LARS([parameter], lr=1.0).step()
        results.append(parameter.detach())
    assert torch.allclose(*results, rtol=1e-5)


def test_zero_weights_and_zero_gradients_stay_finite():
    zero_weight, zero_gradient, none = (
        torch.nn.Parameter(torch.zeros(2, 2)),
        torch.nn.Parameter(torch.ones(2, 2)),
        torch.nn.Parameter(torch.ones(2, 2)),
    )
    zero_weight.grad, zero_gradient.grad = torch.ones(2, 2), torch.zeros(2, 2)
    LARS([zero_weight, zero_gradient, none], lr=0.1).step()
    # a plain step: it can leave zero
    assert torch.allclose(zero_weight, torch.full((2, 2), -0.1))
    assert torch.equal(zero_gradient, torch.ones(2, 2)) and torch.equal(none, torch.ones(2, 2))


def test_state_is_restored_from_its_state_dict():
    parameter = torch.nn.Parameter(torch.randn(3, 3))
    gradients = torch.randn(4, 3, 3)

    def run(parameter, optimizer, chosen):
        for gradient in chosen:
            parameter.grad = gradient.clone()
            optimizer.step()

    optimizer = LARS([parameter], lr=0.1)
    run(parameter, optimizer, gradients[:2])
    saved, value = copy.deepcopy(optimizer.state_dict()), parameter.detach().clone()
    run(parameter, optimizer, gradients[2:])
    resumed = torch.nn.Parameter(value)
    restored = LARS([resumed])
    restored.load_state_dict(saved)
    run(resumed, restored, gradients[2:])
    assert torch.equal(parameter, resumed)
