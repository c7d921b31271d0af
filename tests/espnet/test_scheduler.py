"""The learning rate against the published formula, and through a resume."""

from __future__ import annotations

import math

import pytest
import torch

from espnet_llada.types import UserError

pytest.importorskip("espnet2")

PAPER = {
    "warmup_steps": 3000,
    "warmup_start_lr": 1e-6,
    "min_lr": 1e-5,
    "total_steps": 120 * 3000,
}
SMALL = {"warmup_steps": 4, "warmup_start_lr": 0.1, "min_lr": 0.2, "total_steps": 20}


def start(lr: float, **conf):
    from espnet2.tasks import abs_task

    import espnet_llada

    espnet_llada.register()
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=lr)
    cls = abs_task.scheduler_classes["linear_warmup_cosine"]
    return optimizer, cls(optimizer, **conf)


def rates(optimizer, scheduler, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def published(step: int) -> float:
    """The release's ``LinearWarmupCosineLRScheduler`` with its config.yaml's values."""
    if step < 3000:
        return 1e-6 + (3e-5 - 1e-6) * step / 3000
    return (3e-5 - 1e-5) * 0.5 * (1 + math.cos(math.pi * step / 360_000)) + 1e-5


def test_the_rate_is_the_published_one():
    optimizer, scheduler = start(3e-5, **PAPER)
    for step in (0, 1, 1500, 2999, 3000, 3001, 180_000, 359_999, 360_000):
        scheduler.last_epoch = step
        assert scheduler.get_lr() == [pytest.approx(published(step), rel=1e-12)]
    assert published(0) == 1e-6 and published(180_000) == pytest.approx(2e-5)
    scheduler.last_epoch = 500_000
    assert scheduler.get_lr() == [1e-5]
    assert optimizer.param_groups[0]["lr"] == 1e-6  # what the first step is made at


def test_step_by_step():
    seen = rates(*start(0.6, **SMALL), steps=20)
    assert seen[:4] == pytest.approx([0.1, 0.225, 0.35, 0.475])
    cosine = [0.2 + 0.2 * (1 + math.cos(math.pi * i / 20)) for i in range(4, 20)]
    assert seen[4:] == pytest.approx(cosine)


@pytest.mark.parametrize("steps_before", [2, 4, 11])
def test_a_resumed_training_goes_on_at_the_same_rate(steps_before, tmp_path):
    whole = rates(*start(0.6, **SMALL), steps=20)
    optimizer, scheduler = start(0.6, **SMALL)
    first = rates(optimizer, scheduler, steps_before)
    states = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save(states, tmp_path / "checkpoint.pth")  # as ESPnet's Trainer does
    states = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    optimizer, scheduler = start(0.6, **SMALL)
    optimizer.load_state_dict(states["optimizer"])
    scheduler.load_state_dict(states["scheduler"])
    assert first + rates(optimizer, scheduler, 20 - steps_before) == whole


def test_espnet_steps_it_once_for_each_batch_and_not_for_each_epoch():
    from espnet2.schedulers.abs_scheduler import (
        AbsBatchStepScheduler,
        AbsEpochStepScheduler,
    )

    _, scheduler = start(0.6, **SMALL)
    assert isinstance(scheduler, AbsBatchStepScheduler)
    assert not isinstance(scheduler, AbsEpochStepScheduler)


@pytest.mark.parametrize("conf", [{"warmup_steps": 20}, {"min_lr": -1.0}])
def test_values_that_do_not_fit_are_refused(conf):
    with pytest.raises(UserError, match="scheduler_conf"):
        start(0.6, **{**SMALL, **conf})


def test_espnets_weight_decay_groups_are_the_published_ones(tiny_config):
    """``exclude_weight_decay: true``: none on biases and norms, as the release has."""
    from espnet2.optimizers.optim_groups import configure_optimizer

    from espnet_llada.build import build_model

    model = build_model(tiny_config)
    conf = {"lr": 1e-3, "weight_decay": 0.05}
    optimizer = configure_optimizer(model, torch.optim.AdamW, conf, {})
    names = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
    decay = {
        names[id(p)]: group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
        if id(p) in names
    }
    assert decay.keys() == set(names.values())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.endswith("mask_embedding"):
            assert decay[name] == (0.05 if parameter.ndim >= 2 else 0.0), name
