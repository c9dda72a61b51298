"""CPC: contrastive predictive coding (van den Oord, Li, Vinyals 2018; on ECGs: Mehari and
Strodthoff, Computers in Biology and Medicine 2022, and ECG-CPC 2025).
"""

import torch
from torch import nn

from models.encoder.sequence import SequenceEncoder
from util.contract.encoder import Encoder
from util.contract.method import Method
from util.contract.registry import register
from util.errors import ConfigError


class CPC(Method):
    """From what is known up to a step, pick the step ``ahead`` of it among others of the same
    record.

    Args:
        encoder: a ``SequenceEncoder``.
        ahead: steps ahead.
        negatives: other steps of the record to tell it from.
    """

    def __init__(self, encoder, ahead, negatives):
        super().__init__()
        if not isinstance(encoder, SequenceEncoder):
            raise ConfigError(
                "cpc needs an encoder with steps and contexts (cpc_lstm, cpc_s4), not "
                f"{type(encoder).__name__}"
            )
        if ahead < 1 or negatives < 1:
            raise ConfigError(f"cpc: ahead {ahead} and negatives {negatives} must be 1 or more")
        self.encoder, self.ahead, self.negatives = encoder, ahead, negatives
        self.predict = nn.Linear(encoder.step_width, encoder.step_width, bias=False)
        # so that products of predictions and steps start below 1, and the loss at that of a guess
        nn.init.normal_(self.predict.weight, std=1 / encoder.step_width)

    def prepare(self, batch):
        """With "negatives": steps that are not the one ahead, (batch, steps - ahead, negatives)."""
        if "negatives" in batch:
            return batch
        signal = batch["signal"]
        count = self.encoder.step_count(signal.shape[-1])
        if count <= self.ahead:
            raise ConfigError(
                f"cpc: crops of {count} steps have none {self.ahead} ahead; make them longer"
            )
        own = torch.arange(self.ahead, count, device=signal.device)[:, None]
        away = 1 + batch["random"].integers(count - 1, count - self.ahead, self.negatives)
        return {**batch, "negatives": (own + away) % count}

    def forward(self, batch):
        """batch {"signal", "random"} -> {"loss", "accuracy"}: mean over steps of -log softmax of
        the one ahead (equation 4 of the paper), log(1 + negatives) for a guess, and how often it
        comes out first.
        """
        negatives = self.prepare(batch)["negatives"]
        steps = self.encoder.steps(batch["signal"])
        predicted = self.predict(self.encoder.contexts(steps)[:, : -self.ahead])
        with torch.autocast(steps.device.type, enabled=False):
            steps, predicted = steps.float(), predicted.float()
            own = (predicted * steps[:, self.ahead :]).sum(dim=-1)  # (batch, steps - ahead)
            others = (predicted @ steps.mT).gather(
                2, negatives
            )  # (batch, steps - ahead, negatives)
            loss = (torch.cat([own[..., None], others], dim=-1).logsumexp(dim=-1) - own).mean()
            accuracy = (own[..., None] > others).all(dim=-1).float().mean()
        return {"loss": loss, "accuracy": accuracy}


@register
def cpc(encoder: Encoder = "cpc_lstm", ahead=12, negatives=128):
    """CPC around an encoder of steps and contexts; the defaults are Mehari and Strodthoff's, at
    100 Hz.  ECG-CPC predicts 14 steps of 8 ms.
    """
    return CPC(encoder, ahead, negatives)
