"""Number formats of the computation: plain float32, or autocast to bfloat16 or float16."""
import contextlib

import torch


def resolve_amp(amp: str, device: torch.device) -> torch.dtype | None:
    """The autocast type for ``train.amp`` on this device, None for plain float32."""
    if amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "none": None}[amp]


def autocast(device: torch.device, dtype: torch.dtype | None):
    """Autocast context, or nothing for None."""
    return torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()
