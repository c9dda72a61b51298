"""One pre-training step of ST-MEM on the CPU, against a plain reference, side by side in one run.

    python benchmarks/st_mem_step.py                       # base size, 4 ECGs a step; a few minutes on 2 cores
    python benchmarks/st_mem_step.py --model st_mem_vit_small_dec256d4b --batch 8 --repeats 5

The reference is ST-MEM as its paper reads: softmax attention written out, the decoder lead after lead, AdamW parameter
by parameter, float32.  It works on the same weights, and loss, prediction and gradients are compared first.  Ways take
turns, and the fastest of their steps counts, since the machine's other work can only slow them; on a busy machine count
CPU seconds of one thread (--threads 1 --cpu_time).  Prints seconds a step (forward, backward, update), the ratio to the
reference, and by how much the step's loss differs.
"""
import argparse
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.mae import draw_mask  # noqa: E402
from models.registry import build  # noqa: E402
from util import distributed  # noqa: E402
from util.optim import make_optimizer, set_matmul_precision  # noqa: E402

LEADS, PATCHES, PATCH = 12, 30, 75
TRAIN = {"optimizer": "adamw", "optimizer_kwargs": {"betas": [0.9, 0.95]}, "weight_decay": 0.01, "decay_all": True,
         "lr": 1e-5}


# ============ the reference ============
def attention(x, w, name):
    """softmax(q k / 8) v over (batch, tokens, width), heads of 64."""
    batch, tokens, width = x.shape
    heads = w[f"{name}.to_qkv.weight"].shape[0] // 192
    q, k, v = (part.view(batch, tokens, heads, 64).transpose(1, 2) for part in
               F.linear(x, w[f"{name}.to_qkv.weight"], w[f"{name}.to_qkv.bias"]).chunk(3, dim=-1))
    weights = (q @ k.transpose(-1, -2) * 64 ** -0.5).softmax(dim=-1)
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
    """(batch, leads, patches, 75) and the kept tokens -> latents (batch, leads * (kept + 2), width)."""
    position, rows = w["encoder.pos_embedding"][0], torch.arange(len(patches))[:, None]
    embedded = norm(patches, w, "encoder.to_patch_embedding.1")
    embedded = norm(linear(embedded, w, "encoder.to_patch_embedding.2"), w, "encoder.to_patch_embedding.3")
    embedded = embedded + position[1:-1]
    parts = []
    for lead in range(LEADS):
        separators = [(w["encoder.sep_embedding"] + position[p]).expand(len(patches), 1, -1) for p in (0, -1)]
        tokens = torch.cat([separators[0], embedded[:, lead][rows, keep[:, lead]], separators[1]], dim=1)
        parts.append(tokens + w[f"encoder.lead_embeddings.{lead}"])
    return norm(blocks(torch.cat(parts, dim=1), w, "encoder.block{}"), w, "encoder.norm")


def plain_pred(w, patches, keep, restore):
    """Predicted patches; the decoder runs once a lead."""
    latent = linear(plain_encode(w, patches, keep), w, "to_decoder_embedding")
    rows, kept, preds = torch.arange(len(patches))[:, None], keep.shape[-1], []
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
    target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    return {"loss": (((pred - target) ** 2).mean(-1) * mask).sum() / mask.sum(), "pred": pred}


# ============ the contest ============
def gradients(forward, parameters):
    """Loss, prediction and gradients of one forward and backward pass."""
    out = forward()
    return out["loss"].detach(), out["pred"].detach(), torch.autograd.grad(out["loss"], parameters)


def check(model, weights, series, noise):
    """Reference and model agree on the same weights, or there is nothing to compare."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    want_loss, want_pred, want = gradients(lambda: plain_forward(weights, series, noise), parameters)
    loss, pred, got = gradients(lambda: model(series, noise=noise), parameters)
    scale = max(g.norm() for g in want)
    worst = max(float((a - b).norm() / scale) for a, b in zip(got, want))
    print(f"agreement in float32: loss {abs(loss - want_loss):.1e}, pred {(pred - want_pred).abs().max():.1e}, "
          f"gradients {worst:.1e} of the largest")
    assert abs(loss - want_loss) < 1e-5 and (pred - want_pred).abs().max() < 1e-4 and worst < 1e-4
    return float(want_loss)


def ways_of(model, weights, series, noise):
    """{name: (forward, optimizer, matmul precision, autocast type)}."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    plain = torch.optim.AdamW(parameters, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.01, foreach=False, fused=False)
    ours = make_optimizer(model, TRAIN)

    def reference():
        return plain_forward(weights, series, noise)

    def project():
        return model(series, noise=noise)
    set_matmul_precision("auto", torch.device("cpu"))       # says what it chose
    chosen = torch.get_float32_matmul_precision()
    return {"reference, float32": (reference, plain, "highest", None),
            "models/st_mem.py, no flag given": (project, ours, chosen, None),
            "models/st_mem.py, float32": (project, ours, "highest", None),
            "reference, matmul 'medium'": (reference, plain, "medium", None),
            "models/st_mem.py, matmul 'medium'": (project, ours, "medium", None),
            "models/st_mem.py, bf16 autocast": (project, ours, "highest", torch.bfloat16)}


def step(clock, forward, optimizer, precision, autocast):
    """Seconds and loss of one step."""
    torch.set_float32_matmul_precision(precision)
    start = clock()
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        loss = forward()["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return clock() - start, loss.item()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="st_mem_vit_base_dec256d4b", help="ST-MEM factory (default %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="ECGs a step (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3,
                        help="steps each way, of which the best counts (default %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(),
                        help="CPU threads (default %(default)s)")
    parser.add_argument("--cpu_time", action="store_true", help="count the process's CPU seconds, not the wall's")
    args = parser.parse_args(argv)
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    distributed.start("cpu")     # as every program does
    torch.manual_seed(0)
    model = build(args.model)
    series, noise = torch.randn(args.batch, LEADS, PATCHES * PATCH), torch.rand(args.batch, LEADS, PATCHES)
    weights = dict(model.state_dict(keep_vars=True))
    print(f"{args.model}, {args.batch} ECGs a step, {args.threads} thread(s), torch {torch.__version__}")
    torch.set_float32_matmul_precision("highest")
    check(model, weights, series, noise)
    ways, start = ways_of(model, weights, series, noise), {k: v.detach().clone() for k, v in model.state_dict().items()}
    best, losses = dict.fromkeys(ways, float("inf")), {}
    for _ in range(args.repeats + 1):               # the first round warms up
        for name, way in ways.items():
            model.load_state_dict(start)            # all ways start from the same weights
            seconds, losses[name] = step(clock, *way)
            best[name] = min(best[name], seconds)
    base = best["reference, float32"]
    for name, seconds in best.items():
        print(f"{name:36s} {seconds:7.2f} s/step  {args.batch / seconds:6.2f} ECGs/s  {base / seconds:5.2f} x   "
              f"loss {losses[name] - losses['reference, float32']:+.1e}")


if __name__ == "__main__":
    main()
