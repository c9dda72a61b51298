"""ST-MEM, MTAE and MLAE as their definitions read: one record at a time, one lead at a time, one
head at a time.

Slow and without any class: functions of a state dict (published key names) and of the input.
``heads`` is the encoder's number of heads; the decoder has heads of 64 as well.
"""

import math

import torch


def norm(x, state, name, eps=1e-5):
    """LayerNorm: biased variance, eps inside the root."""
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + eps) ** 0.5 * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attention(x, state, name, heads):
    """softmax(q k / 8) v, head by head; q, k and v lie one after the other, each head-major."""
    q, k, v = linear(x, state, f"{name}.to_qkv").split(64 * heads, dim=-1)
    parts = []
    for head in range(heads):
        own = slice(64 * head, 64 * head + 64)
        parts.append((q[:, own] @ k[:, own].T / 8).softmax(dim=-1) @ v[:, own])
    joined = torch.cat(parts, dim=-1)
    return (
        linear(joined, state, f"{name}.to_out.0") if f"{name}.to_out.0.weight" in state else joined
    )


def block(x, state, name, heads):
    x = x + attention(norm(x, state, f"{name}.attn.norm"), state, f"{name}.attn.fn", heads)
    hidden = linear(norm(x, state, f"{name}.ff.norm"), state, f"{name}.ff.fn.net.0")
    return x + linear(
        0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))), state, f"{name}.ff.fn.net.3"
    )


def blocks(x, state, name, heads):
    depth = 0
    while f"{name.format(depth)}.attn.norm.weight" in state:
        x = block(x, state, name.format(depth), heads)
        depth += 1
    return x


def embed(patch, state):
    name = "to_patch_embedding"
    return norm(linear(norm(patch, state, f"{name}.1"), state, f"{name}.2"), state, f"{name}.3")


def encoder_part(state):
    """The encoder's tensors of a pre-training state dict."""
    return {
        name.removeprefix("encoder."): value
        for name, value in state.items()
        if name.startswith("encoder.")
    }


def st_mem_tokens(state, series, rows, patch, keep=None):
    """(leads, time) -> all tokens; ``rows``: number of each lead among the lead embeddings;
    ``keep``: kept patches.
    """
    position, separator = state["pos_embedding"][0], state["sep_embedding"]
    tokens = []
    for lead, row in enumerate(rows):
        numbers = range(series.shape[1] // patch) if keep is None else keep[lead]
        inside = [
            embed(series[lead, n * patch : (n + 1) * patch], state) + position[1 + n]
            for n in numbers
        ]
        tokens += [
            token + state[f"lead_embeddings.{row}"]
            for token in [separator + position[0], *inside, separator + position[-1]]
        ]
    return torch.stack(tokens)


def st_mem_features(state, series, rows, heads, patch=75):
    """Fine-tuning: mean over leads and patches without separators, then norm."""
    tokens = blocks(st_mem_tokens(state, series, rows, patch), state, "block{}", heads)
    per_lead = tokens.view(len(rows), -1, tokens.shape[-1])
    return norm(torch.cat([lead[1:-1] for lead in per_lead]).mean(dim=0), state, "norm")


def unmask(latent, ids, count, state):
    """Latents of the kept tokens in their places, the mask token everywhere else."""
    tokens = [state["mask_embedding"][0, 0]] * count
    for token, place in zip(latent, ids):
        tokens[place] = token
    return torch.stack(tokens)


def decoder(x, state, eps):
    heads = state["decoder_norm.weight"].numel() // 64
    x = norm(blocks(x, state, "decoder_blocks.{}", heads), state, "decoder_norm", eps)
    return linear(x, state, "decoder_head")


def kept(noise, ratio):
    """Numbers of the tokens with the smallest noise, in noise order."""
    count = int(len(noise) * (1 - ratio))
    return sorted(range(len(noise)), key=lambda n: float(noise[n]))[:count]


def st_mem_pred(state, series, noise, rows, heads, ratio=0.75, patch=75, eps=1e-6):
    """Pre-training of one record: series (leads, time), noise (leads, patches) -> pred (leads,
    patches, patch).
    """
    own = encoder_part(state)
    ids = [kept(lead, ratio) for lead in noise]
    latent = norm(
        blocks(st_mem_tokens(own, series, rows, patch, ids), own, "block{}", heads), own, "norm"
    )
    latent = linear(latent, state, "to_decoder_embedding").view(len(rows), len(ids[0]) + 2, -1)
    position = state["decoder_pos_embed"][0]
    pred = []
    for lead, places in zip(latent, ids):
        count = noise.shape[1]
        tokens = [
            lead[:1] + position[:1],
            unmask(lead[1:-1], places, count, state) + position[1 : 1 + count],
            lead[-1:] + position[-1:],
        ]
        pred.append(decoder(torch.cat(tokens), state, eps)[1:-1])
    return torch.stack(pred)


def class_token_pred(state, patches, noise, rows, heads, ratio=0.75, eps=1e-6):
    """MTAE and MLAE: patches (n, values), position ``rows`` of each, noise (n,) -> pred (n,
    values).
    """
    own, ids = encoder_part(state), kept(noise, ratio)
    position, places = own["pos_embedding"][0], state["decoder_pos_embed"][0]
    tokens = [
        own["cls_embedding"] + position[0],
        *(embed(patches[n], own) + position[1 + rows[n]] for n in ids),
    ]
    latent = norm(blocks(torch.stack(tokens), own, "block{}", heads), own, "norm")
    latent = linear(latent, state, "to_decoder_embedding")
    tokens = torch.cat(
        [
            latent[:1] + places[:1],
            unmask(latent[1:], ids, len(patches), state) + places[[1 + row for row in rows]],
        ]
    )
    return decoder(tokens, state, eps)[1:]


def masked_loss(target, pred, mask, norm_pix_loss):
    """Patch by patch: mean squared error, averaged over the masked ones; unbiased variance, eps
    1e-6.
    """
    values = []
    for t, p, hidden in zip(target.flatten(0, -2), pred.flatten(0, -2), mask.flatten()):
        if norm_pix_loss:
            t = (t - t.mean()) / (((t - t.mean()) ** 2).sum() / (len(t) - 1) + 1e-6) ** 0.5
        if hidden:
            values.append(((p - t) ** 2).mean())
    return sum(values) / len(values)
