"""DINO (Caron et al., Emerging properties in self-supervised vision transformers, ICCV 2021) for
any encoder of the registry, on signals or spectrograms.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from models.layers.ema import Scalar, follow, momentum_at, slow_copy
from models.layers.heads import DINOHead, embedding_health
from models.methods.view_method import ViewMethod, encode_views
from util.contract.encoder import Encoder
from util.contract.method import Batch
from util.contract.registry import register
from util.errors import ConfigError
from util.named_arguments import COUNT, POSITIVE, SHARE, WHOLE
from util.processes.collectives import total, world
from util.signals.views import Views


def teacher_temperature_at(
    epoch: Scalar, start: float, end: float, warmup_epochs: float
) -> Scalar | float:
    """Return the teacher's temperature: linear from ``start`` at epoch 0 to ``end`` at
    ``warmup_epochs``, then constant.
    """
    if not warmup_epochs:
        return end
    share = epoch / warmup_epochs
    share = share.clamp(max=1.0) if isinstance(share, torch.Tensor) else min(share, 1.0)
    return start + (end - start) * share


class DINOLoss(nn.Module):
    """Cross-entropy of the student's views against the centred, sharpened teacher's (algorithm 1,
    section 3.1).

    Args:
        outputs: number of prototypes.
        student_temperature: tau_s.
        centre_momentum: of the running mean of the teacher's logits.
    """

    centre: torch.Tensor

    def __init__(
        self, outputs: int, student_temperature: float = 0.1, centre_momentum: float = 0.9
    ):
        super().__init__()
        self.student_temperature, self.centre_momentum = student_temperature, centre_momentum
        self.register_buffer("centre", torch.zeros(outputs))

    def forward(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        teacher_temperature: float | torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Return the loss and what shows its two ways to collapse, means over the batch of this
        process.

        Args:
            student: logits (views, batch, outputs).
            teacher: logits (global views, batch, outputs) of the first of these views.
            teacher_temperature: tau_t.

        Returns:
            "loss": mean over all pairs of a teacher's view and another view of the student.
            "teacher_entropy": log(outputs) where the teacher gives all prototypes the same
                probability, 0 where it gives one of them all.
            "kl": loss less entropy.
        """
        with torch.autocast(student.device.type, enabled=False):
            student = student.float() / self.student_temperature
            centred = teacher.detach().float() - self.centre
            log_target = (centred / teacher_temperature).log_softmax(-1)
            target = log_target.exp()
            # -sum_k p_k log q_k = logsumexp(s) - sum_k p_k s_k, for logits s of q: no (pairs,
            # batch, outputs) tensor
            cross_entropy = student.logsumexp(-1) - torch.einsum("tbk,vbk->tvb", target, student)
            others = 1 - torch.eye(*cross_entropy.shape[:2], device=student.device)
            globals_, views, batch = cross_entropy.shape
            loss = (cross_entropy * others[..., None]).sum() / (globals_ * (views - 1) * batch)
        entropy = -(target * log_target).sum(-1).mean()
        return {"loss": loss, "teacher_entropy": entropy, "kl": loss.detach() - entropy}

    @torch.no_grad()
    def update_centre(self, teacher: torch.Tensor) -> None:
        """Move the centre towards the mean over views, batch and processes of the teacher's
        logits (global views, batch, outputs), equation 4.
        """
        mean = total(teacher.float().mean((0, 1))) / world()
        self.centre.lerp_(mean, 1 - self.centre_momentum)


class DINO(ViewMethod):
    """The student learns to give, for each view, the output of its slow teacher for the other,
    global views.

    Args:
        encoder, head: the student's; the teacher's are their slow copies.
        views: ``Views``; the teacher sees the global ones.
        loss: ``DINOLoss``.
        teacher_temperature: (start, end, warm-up epochs).
        momentum: (start, end) of the teacher's momentum over the run.
        freeze_last_layer: epochs, from the start, without change of the prototypes.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: DINOHead,
        views: Views,
        loss: DINOLoss,
        *,
        teacher_temperature: tuple[float, float, float],
        momentum: tuple[float, float],
        freeze_last_layer: float,
    ):
        super().__init__()
        if views.global_count < 1 or views.count < 2:
            raise ConfigError(
                "dino needs 2 or more views, of them 1 or more with 'global: true'; the "
                f"configuration makes {views.count} and {views.global_count}"
            )
        self.encoder, self.head = encoder, head
        self.teacher_encoder, self.teacher_head = slow_copy(encoder), slow_copy(head)
        self.views, self.loss = views, loss
        self.teacher_temperature, self.momentum = teacher_temperature, momentum
        self.freeze_last_layer = freeze_last_layer

    @property
    def exports(self) -> dict[str, Encoder]:
        return {"student": self.encoder, "teacher": self.teacher_encoder}

    def fit_statistics(self, batches: Iterable[torch.Tensor]) -> None:
        super().fit_statistics(batches)
        self.teacher_encoder.load_state_dict(self.encoder.state_dict())

    def forward(self, batch: Batch, drawn: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return {"loss", "teacher_entropy", "kl", "embedding_std", "alignment", "uniformity",
        "momentum"}; while training, also move the centre.
        """
        views = drawn["views"]
        with torch.no_grad():
            seen = encode_views(self.teacher_encoder, views[: self.views.global_count])
            _, teacher = self.teacher_head(seen)
        features = encode_views(self.encoder, views)
        embedding, student = self.head(features)
        temperature = teacher_temperature_at(batch["epoch"], *self.teacher_temperature)
        out = self.loss(student, teacher, temperature)
        if self.training:
            self.loss.update_centre(teacher)
        momentum = torch.as_tensor(momentum_at(batch["progress"], *self.momentum)).to(out["kl"])
        return {**out, **embedding_health(embedding[0], embedding[1]), "momentum": momentum}

    def before_step(self, epoch: float) -> None:
        """Keep the prototypes out of the first epochs' steps."""
        if epoch < self.freeze_last_layer:
            # None, not zero: Adam would count the step, and make its first real ones too long.
            # Taken away here, as DDP waits for the gradient of every parameter.
            self.head.last_layer.zero_grad(set_to_none=True)

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student; progress of the run in [0, 1]."""
        momentum = momentum_at(progress, *self.momentum)
        follow(self.teacher_encoder, self.encoder, momentum)
        follow(self.teacher_head, self.head, momentum)


@register
def dino(
    encoder: Encoder = "xresnet1d50",  # type: ignore[assignment]  # its name: see ``build``
    views: str | list = "dino_signal",
    head_width: COUNT = 512,
    head_out: COUNT = 65536,
    bottleneck: COUNT = 128,
    student_temperature: POSITIVE = 0.1,
    teacher_temperature: POSITIVE = 0.04,
    warmup_teacher_temperature: POSITIVE = 0.04,
    warmup_teacher_epochs: WHOLE = 30,
    centre_momentum: SHARE = 0.9,
    momentum: SHARE = 0.996,
    momentum_end: SHARE = 1.0,
    freeze_last_layer: WHOLE = 1,
    head_init_std: POSITIVE = 0.02,
    fs: float | None = None,
) -> DINO:
    """Build DINO around an encoder.

    The defaults are DINO's; Phan et al. (BHI 2022) never freeze the prototypes and start the MLP
    at 0.044.

    Args:
        encoder: any one.
        views: a list of views, or a preset's name.
        head_width, bottleneck: widths of the head's MLP width-head_width-head_width-bottleneck.
        head_out: number of prototypes.
        student_temperature: tau_s.
        teacher_temperature: tau_t, which starts at ``warmup_teacher_temperature`` and moves for
            ``warmup_teacher_epochs``.
        centre_momentum: of the running mean of the teacher's logits.
        momentum, momentum_end: the teacher's, on a cosine over the run (published: constant
            0.996).
        freeze_last_layer: epochs, from the start, without change of the prototypes.
        head_init_std: of the normal that the MLP's weights start from.
        fs: sampling rate in Hz, for views with spectrograms.
    """
    return DINO(
        encoder,
        DINOHead(encoder.width, head_width, bottleneck, head_out, std=head_init_std),
        Views(views, fs),
        DINOLoss(head_out, student_temperature, centre_momentum),
        teacher_temperature=(
            warmup_teacher_temperature,
            teacher_temperature,
            warmup_teacher_epochs,
        ),
        momentum=(momentum, momentum_end),
        freeze_last_layer=freeze_last_layer,
    )
