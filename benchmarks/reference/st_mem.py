"""ST-MEM as its paper reads: softmax attention written out, the decoder lead after lead.

Works on the weights ``w`` of models/methods/st_mem.py, a state dict by name.
"""

import torch
import torch.nn.functional as F

from models.methods.mae import draw_mask

LEADS, PATCHES, PATCH = 12, 30, 75


def attention(x, w, name):
    """softmax(q k / 8) v over (batch, tokens, width), heads of 64."""
    batch, tokens, width = x.shape
    heads = w[f"{name}.to_qkv.weight"].shape[0] // 192
    q, k, v = (
        part.view(batch, tokens, heads, 64).transpose(1, 2)
        for part in F.linear(x, w[f"{name}.to_qkv.weight"], w[f"{name}.to_qkv.bias"]).chunk(
            3, dim=-1
        )
    )
    weights = (q @ k.transpose(-1, -2) * 64**-0.5).softmax(dim=-1)
    out = (weights @ v).transpose(1, 2).reshape(batch, tokens, heads * 64)
    return F.linear(out, w[f"{name}.to_out.0.weight"], w[f"{name}.to_out.0.bias"])


def norm(x, w, name, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def linear(x, w, name):
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def blocks(x, w, name):
    depth = 0
    while f"{name.format(depth)}.attn.norm.weight" in w:
        part = name.format(depth)
        x = x + attention(norm(x, w, f"{part}.attn.norm"), w, f"{part}.attn.fn")
        hidden = F.gelu(linear(norm(x, w, f"{part}.ff.norm"), w, f"{part}.ff.fn.net.0"))
        x = x + linear(hidden, w, f"{part}.ff.fn.net.3")
        depth += 1
    return x


def plain_encode(w, patches, keep):
    """(batch, leads, patches, 75) and the kept tokens -> latents (batch, leads * (kept + 2),
    width).
    """
    position, rows = (
        w["encoder.pos_embedding"][0],
        torch.arange(len(patches), device=patches.device)[:, None],
    )
    embedded = norm(patches, w, "encoder.to_patch_embedding.1")
    embedded = norm(
        linear(embedded, w, "encoder.to_patch_embedding.2"), w, "encoder.to_patch_embedding.3"
    )
    embedded = embedded + position[1:-1]
    parts = []
    for lead in range(LEADS):
        separators = [
            (w["encoder.sep_embedding"] + position[p]).expand(len(patches), 1, -1) for p in (0, -1)
        ]
        tokens = torch.cat(
            [separators[0], embedded[:, lead][rows, keep[:, lead]], separators[1]], dim=1
        )
        parts.append(tokens + w[f"encoder.lead_embeddings.{lead}"])
    return norm(blocks(torch.cat(parts, dim=1), w, "encoder.block{}"), w, "encoder.norm")


def plain_pred(w, patches, keep, restore):
    """Predicted patches; the decoder runs once a lead."""
    latent = linear(plain_encode(w, patches, keep), w, "to_decoder_embedding")
    rows, kept, preds = (
        torch.arange(len(patches), device=patches.device)[:, None],
        keep.shape[-1],
        [],
    )
    for lead, tokens in enumerate(latent.chunk(LEADS, dim=1)):
        masked = w["mask_embedding"].expand(len(patches), PATCHES - kept, -1)
        middle = torch.cat([tokens[:, 1:-1], masked], dim=1)[rows, restore[:, lead]]
        x = torch.cat([tokens[:, :1], middle, tokens[:, -1:]], dim=1) + w["decoder_pos_embed"]
        x = norm(blocks(x, w, "decoder_blocks.{}"), w, "decoder_norm", 1e-6)
        preds.append(linear(x, w, "decoder_head")[:, 1:-1])
    return torch.stack(preds, dim=1)


def plain_forward(w, series, noise):
    patches = series.view(len(series), LEADS, PATCHES, PATCH)
    keep, restore, mask = draw_mask(noise, 0.75)
    pred = plain_pred(w, patches, keep, restore)
    target = (patches - patches.mean(-1, keepdim=True)) / (
        patches.var(-1, keepdim=True) + 1e-6
    ).sqrt()
    return {"loss": (((pred - target) ** 2).mean(-1) * mask).sum() / mask.sum(), "pred": pred}
