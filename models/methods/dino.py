"""DINO (Caron et al., Emerging properties in self-supervised vision transformers, ICCV 2021) for
any encoder of the registry, on signals or spectrograms.
"""

import torch
import torch.distributed as dist
from torch import nn

from models.layers.ema import follow, momentum_at, slow_copy
from models.layers.heads import DINOHead, embedding_health
from models.methods.view_method import ViewMethod, encode_views
from util.contract.encoder import Encoder
from util.contract.registry import register
from util.errors import ConfigError
from util.signals.views import Views


def teacher_temperature_at(epoch, start: float, end: float, warmup_epochs: float):
    """Linear from ``start`` at epoch 0 to ``end`` at ``warmup_epochs``, then constant; ``epoch``
    and the result are numbers or 0-dim tensors.
    """
    if not warmup_epochs:
        return end
    share = epoch / warmup_epochs
    return start + (end - start) * (
        share.clamp(max=1.0) if isinstance(share, torch.Tensor) else min(share, 1.0)
    )


class DINOLoss(nn.Module):
    """Cross-entropy of the student's views against the centred, sharpened teacher's (algorithm 1,
    section 3.1).

    Args:
        outputs: number of prototypes.
        student_temperature: tau_s.
        centre_momentum: of the running mean of the teacher's logits.
    """

    def __init__(
        self, outputs: int, student_temperature: float = 0.1, centre_momentum: float = 0.9
    ):
        super().__init__()
        self.student_temperature, self.centre_momentum = student_temperature, centre_momentum
        self.register_buffer("centre", torch.zeros(outputs))

    def forward(self, student, teacher, teacher_temperature: float):
        """student logits (views, batch, outputs), teacher logits (global views, batch, outputs)
        of the first of these views -> {"loss", "teacher_entropy", "kl"}, means over the batch of
        this process and, for the loss, over all pairs of a teacher's view and another view of the
        student.
        """
        with torch.autocast(student.device.type, enabled=False):
            student = student.float() / self.student_temperature
            log_target = (
                (teacher.detach().float() - self.centre) / teacher_temperature
            ).log_softmax(-1)
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
    def update_centre(self, teacher):
        """Move the centre towards the mean over views, batch and processes of the teacher's
        logits (equation 4).
        """
        mean = teacher.float().mean((0, 1))
        if dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        self.centre.lerp_(mean, 1 - self.centre_momentum)


class DINO(ViewMethod):
    """The student learns to give, for every view, what its slow teacher gives for the other,
    global ones.

    Args:
        encoder, head: the student's; the teacher's are their slow copies.
        views: ``Views``; the teacher sees the global ones.
        loss: ``DINOLoss``.
        teacher_temperature: (start, end, warm-up epochs).
        momentum: (start, end) of the teacher's momentum over the run.
        freeze_last_layer: epochs, from the start, without change of the prototypes.
    """

    def __init__(
        self, encoder, head, views, loss, teacher_temperature, momentum, freeze_last_layer
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
    def exports(self):
        return {"student": self.encoder, "teacher": self.teacher_encoder}

    def fit_statistics(self, batches):
        super().fit_statistics(batches)
        self.teacher_encoder.load_state_dict(self.encoder.state_dict())

    def forward(self, batch):
        """batch {"signal", "random", "epoch", "progress"} -> {"loss", "teacher_entropy", "kl",
        "embedding_std", "alignment", "uniformity", "momentum"}; while training it also moves the
        centre.
        """
        views = self.prepare(batch)["views"]
        with torch.no_grad():
            _, teacher = self.teacher_head(
                encode_views(self.teacher_encoder, views[: self.views.global_count])
            )
        frozen = batch["epoch"] < self.freeze_last_layer if self.freeze_last_layer else False
        embedding, student = self.head(encode_views(self.encoder, views), frozen)
        out = self.loss(
            student, teacher, teacher_temperature_at(batch["epoch"], *self.teacher_temperature)
        )
        if self.training:
            self.loss.update_centre(teacher)
        momentum = torch.as_tensor(momentum_at(batch["progress"], *self.momentum)).to(out["kl"])
        return {**out, **embedding_health(embedding[0], embedding[1]), "momentum": momentum}

    def after_step(self, progress: float):
        """Move the teacher towards the student; progress of the run in [0, 1]."""
        momentum = momentum_at(progress, *self.momentum)
        follow(self.teacher_encoder, self.encoder, momentum)
        follow(self.teacher_head, self.head, momentum)


@register
def dino(
    encoder: Encoder = "xresnet1d50",
    views: str | list = "dino_signal",
    head_width=512,
    head_out=65536,
    bottleneck=128,
    student_temperature=0.1,
    teacher_temperature=0.04,
    warmup_teacher_temperature=0.04,
    warmup_teacher_epochs=30,
    centre_momentum=0.9,
    momentum=0.996,
    momentum_end=1.0,
    freeze_last_layer=1,
    head_init_std=0.02,
    fs: float | None = None,
):
    """DINO around an encoder; ``fs`` is for views with spectrograms.

    Head MLP width-head_width-head_width-bottleneck and ``head_out`` prototypes.  The teacher's
    temperature goes from ``warmup_teacher_temperature`` to ``teacher_temperature`` in
    ``warmup_teacher_epochs``, its momentum on a cosine from ``momentum`` to ``momentum_end``
    (published: constant 0.996) over the run; the prototypes stay as they are for
    ``freeze_last_layer`` epochs.  ``head_init_std``: of the normal that the MLP's weights start
    from. Phan et al. (BHI 2022) never freeze the prototypes and start the MLP at 0.044; the
    defaults are DINO's.
    """
    head = DINOHead(encoder.width, head_width, bottleneck, head_out, std=head_init_std)
    return DINO(
        encoder,
        head,
        Views(views, fs),
        DINOLoss(head_out, student_temperature, centre_momentum),
        (warmup_teacher_temperature, teacher_temperature, warmup_teacher_epochs),
        (momentum, momentum_end),
        freeze_last_layer,
    )
