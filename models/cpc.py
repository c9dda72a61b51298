"""CPC: contrastive predictive coding (van den Oord, Li, Vinyals 2018; on ECGs: Mehari and Strodthoff, Computers in
Biology and Medicine 2022)."""
import torch
from torch import nn

from models.contract import Encoder, Method
from models.encoder.lstm import LSTMEncoder
from models.registry import register
from util.errors import ConfigError


class CPC(Method):
    """From what is known up to a sample, pick the sample ``ahead`` of it among others of the same record.

    Args:
        encoder: with ``steps`` and ``contexts``.
        ahead: samples ahead.
        negatives: other samples of the record to tell it from.
    """

    def __init__(self, encoder, ahead, negatives):
        super().__init__()
        if not isinstance(encoder, LSTMEncoder):
            raise ConfigError(f"cpc needs an encoder with steps and contexts (cpc_lstm), not {type(encoder).__name__}")
        if ahead < 1 or negatives < 1:
            raise ConfigError(f"cpc: ahead {ahead} and negatives {negatives} must be 1 or more")
        self.encoder, self.ahead, self.negatives = encoder, ahead, negatives
        self.predict = nn.Linear(encoder.step_width, encoder.step_width, bias=False)

    def prepare(self, batch):
        """With "negatives": samples that are not the one ahead, (batch, time - ahead, negatives)."""
        if "negatives" in batch:
            return batch
        signal = batch["signal"]
        time = signal.shape[-1]
        if time <= self.ahead:
            raise ConfigError(f"cpc: crops of {time} samples have none {self.ahead} ahead; make them longer")
        own = torch.arange(self.ahead, time, device=signal.device)[:, None]
        away = 1 + batch["random"].integers(time - 1, time - self.ahead, self.negatives)
        return {**batch, "negatives": (own + away) % time}

    def forward(self, batch):
        """batch {"signal", "random"} -> {"loss", "accuracy"}: mean over samples of -log softmax of the one ahead
        (equation 4 of the paper), log(1 + negatives) for a guess, and how often it comes out first."""
        negatives = self.prepare(batch)["negatives"]
        steps = self.encoder.steps(batch["signal"])
        predicted = self.predict(self.encoder.contexts(steps)[:, :-self.ahead])
        with torch.autocast(steps.device.type, enabled=False):
            steps, predicted = steps.float(), predicted.float()
            own = (predicted * steps[:, self.ahead:]).sum(dim=-1)           # (batch, time - ahead)
            others = (predicted @ steps.mT).gather(2, negatives)            # (batch, time - ahead, negatives)
            loss = (torch.cat([own[..., None], others], dim=-1).logsumexp(dim=-1) - own).mean()
            accuracy = (own[..., None] > others).all(dim=-1).float().mean()
        return {"loss": loss, "accuracy": accuracy}


@register
def cpc(encoder: Encoder = "cpc_lstm", ahead=12, negatives=128):
    """CPC around an encoder of steps and contexts; the defaults are Mehari and Strodthoff's, at 100 Hz."""
    return CPC(encoder, ahead, negatives)
