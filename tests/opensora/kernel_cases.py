"""Inputs at ragged sizes for each fused program; run as a script, all of them in Triton's interpreter."""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn import functional as F
from vader_opensora import kernels
from vader_opensora.attention import SelfAttention
from vader_opensora.embeddings import RotaryFrequencies

EPS = 1e-6


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def residual(batch, frames, places, width, told):
    return {
        "x": drawn(batch, frames, places, width),
        "y": drawn(batch, frames, places, width) / 2,
        "table": drawn(batch, told, 6, width) / 3,
    }


def told(given):
    return given["table"][:, :, None].unbind(3)


def packed(batch, frames, places, heads, head, *, normed=True, turn_first=False):
    given = {"qkv": drawn(batch, frames, places, 3 * heads * head), "heads": heads, "turn_first": turn_first}
    if normed:
        given |= {"q": 1 + drawn(head) / 5, "k": 1 - drawn(head) / 5}
    return given


def rotation(given):
    frames, head = given["qkv"].shape[1], given["qkv"].shape[-1] // (3 * given["heads"])
    wide = torch.float64 if given["qkv"].dtype == torch.float64 else torch.float32
    return RotaryFrequencies(head).to(given["qkv"].device, wide)(frames)


def crossed(batch, queries, keys, heads, head, counted=None):
    given = {"q": drawn(batch, queries, heads, head), "kv": drawn(batch, keys, 2, heads, head)}
    if counted is not None:
        given["mask"] = (torch.arange(keys) < torch.tensor(counted)[:, None])[:, None, None]
    return given


# -- what is run -------------------------------------------------------------------------------------------


def modulated(given):
    shift, scale, *_ = told(given)
    return (kernels.modulated(given["x"], shift, scale),)


def gated(given):
    return (kernels.gated(given["x"], told(given)[2], given["y"]),)


def added(given):
    *_, shift, scale, _ = told(given)
    return kernels.added_and_modulated(given["x"], given["y"], shift, scale)


def attended(given, *, temporal):
    """Through the module, which chooses between the programs and torch; its linear layers are left out."""
    qkv, heads = given["qkv"], given["heads"]
    width = qkv.shape[-1] // 3
    attention = SelfAttention(
        width, heads, temporal=temporal, qk_norm="q" in given, turn_first=given["turn_first"]
    )
    attention.qkv = attention.proj = nn.Identity()
    for norm, name in ((attention.q_norm, "q"), (attention.k_norm, "k")):
        if name in given:
            norm.weight.data = given[name]
    # queries and keys may be overwritten
    qkv = guarded({"qkv": qkv})[0]["qkv"] if qkv.device.type == "cpu" else qkv.clone()
    return (attention(qkv, rotation(given) if temporal else None).detach(),)


def within(given):
    return attended(given, temporal=False)


def across(given):
    return attended(given, temporal=True)


def cross(given):
    return (kernels.attention(given["q"], *given["kv"].unbind(2), given.get("mask")),)


def gelu(given):
    layer = nn.Linear(given["x"].shape[-1], len(given["weight"]), device=given["x"].device)
    layer.weight.data, layer.bias.data = given["weight"], given["bias"]
    return (kernels.linear_gelu(layer, given["x"]),)


# -- the same from the definitions -------------------------------------------------------------------------


def plain_modulated(given, x=None, first=0):
    x = given["x"] if x is None else x
    table = given["table"]
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + EPS).sqrt()
    return (normed * (1 + table[:, :, None, first + 1]) + table[:, :, None, first],)


def plain_gated(given):
    return (given["x"] + given["table"][:, :, None, 2] * given["y"],)


def plain_added(given):
    total = given["x"] + given["y"]
    return (total, *plain_modulated(given, total, 3))


def plain_across(given, temporal=True):
    q, k, v = given["qkv"].unflatten(-1, (3, given["heads"], -1)).unbind(3)

    def normed(q, k):
        if "q" not in given:
            return q, k
        return tuple(
            x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight
            for x, weight in ((q, given["q"]), (k, given["k"]))
        )

    def turned(*both):
        # turning a pair of channels is a product of complex numbers
        turn = torch.complex(*rotation(given))[:, None, None]
        pairs = [torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) for x in both]
        return tuple(torch.view_as_real(x * turn).flatten(-2) for x in pairs)

    if given["turn_first"]:
        q, k = turned(q, k)
    q, k = normed(q, k)
    if temporal:
        if not given["turn_first"]:
            q, k = turned(q, k)
        q, k, v = (x.permute(0, 2, 3, 1, 4) for x in (q, k, v))
    else:
        q, k, v = (x.transpose(2, 3) for x in (q, k, v))
    found = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    found = found.permute(0, 3, 1, 2, 4) if temporal else found.transpose(2, 3)
    return (found.flatten(3),)


def plain_within(given):
    return plain_across(given, temporal=False)


def plain_cross(given):
    q, (k, v) = given["q"].transpose(1, 2), (x.transpose(1, 2) for x in given["kv"].unbind(2))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if "mask" in given:
        scores = scores.masked_fill(~given["mask"], float("-inf"))
    return ((scores.softmax(-1) @ v).transpose(1, 2),)


def plain_gelu(given):
    return (F.gelu(given["x"] @ given["weight"].mT + given["bias"], approximate="tanh"),)


PROGRAMS = {
    "modulated": lambda: (modulated, residual(2, 3, 7, 72, told=1)),
    "modulated-frames": lambda: (modulated, residual(2, 3, 7, 136, told=3)),
    "gated": lambda: (gated, residual(2, 3, 7, 72, told=1)),
    "gated-frames": lambda: (gated, residual(2, 2, 70, 72, told=2)),
    "added": lambda: (added, residual(2, 3, 7, 72, told=1)),
    "within": lambda: (within, packed(1, 2, 23, 2, 72)),
    "within-plain": lambda: (within, packed(1, 2, 80, 2, 72, normed=False)),
    "within-whole": lambda: (within, packed(1, 1, 64, 1, 72)),
    "within-many": lambda: (within, packed(1, 1, kernels.MOST_PLACES + 1, 1, 16)),
    "within-narrow": lambda: (within, packed(2, 2, 5, 3, 12)),
    "across": lambda: (across, packed(2, 15, 5, 2, 72)),
    "across-narrow": lambda: (across, packed(1, 5, 3, 2, 12)),
    "across-wide": lambda: (across, packed(1, 30, 2, 1, 128, normed=False)),
    "across-many": lambda: (across, packed(1, 70, 2, 2, 72)),
    "across-turned": lambda: (across, packed(2, 15, 5, 2, 72, turn_first=True)),
    "across-turned-many": lambda: (across, packed(1, 70, 2, 2, 72, turn_first=True)),
    "cross": lambda: (cross, crossed(2, 150, 40, 2, 72)),
    "cross-masked": lambda: (cross, crossed(2, 37, 70, 2, 72, counted=(70, 9))),
    "cross-long": lambda: (cross, crossed(1, 37, 200, 2, 72, counted=(190,))),
    "cross-whole": lambda: (cross, crossed(1, 300, 64, 2, 72)),
    "cross-narrow": lambda: (cross, crossed(2, 37, 20, 2, 12, counted=(3, 20))),
}
#: Programs, and what is no program of ours: cuBLASLt's product with a GELU, which on a CPU is another GELU.
CASES = PROGRAMS | {
    "gelu": lambda: (gelu, {"x": drawn(2, 3, 5, 16), "weight": drawn(24, 16) / 4, "bias": drawn(24)}),
}


def plainly(name, given):
    return globals()[f"plain_{name.partition('-')[0]}"](given)


def on(given, device, dtype):
    """The numbers of a case elsewhere, those that are floating rounded to ``dtype``."""
    return {
        name: value
        if isinstance(value, int)
        else value.to(device, dtype if value.is_floating_point() else None)
        for name, value in given.items()
    }


def copied(given):
    return {name: value if isinstance(value, int) else value.clone() for name, value in given.items()}


GUARD = 4096


def guarded(given):
    """The same numbers amid others that no program may read, and those others."""
    found, guards = {}, []
    for name, value in given.items():
        if isinstance(value, int):
            found[name] = value
            continue
        wide = torch.full((value.numel() + 2 * GUARD,), float("nan") if value.is_floating_point() else 1)
        wide = wide.to(value.dtype)
        within = wide[GUARD:-GUARD].view(value.shape)
        found[name] = within.copy_(value)
        guards += [wide[:GUARD], wide[-GUARD:]]
    return found, guards


def interpret_runtime_loops():
    """Triton's interpreter makes an index of an array of one number, which NumPy has come to refuse."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, *scope):  # older Tritons have no scope: what is set stays
        patch(tensor, *scope)
        put = scope[0].set_attr if scope else setattr
        put(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched


@torch.no_grad()
def main():
    kernels.usable = lambda x: True  # the interpreter runs on the CPU
    interpret_runtime_loops()
    for name, case in PROGRAMS.items():
        run, given = case()
        half = on(given, "cpu", torch.float16)
        exact = plainly(name, on(half, "cpu", torch.float64))
        half, guards = guarded(half)
        before = [guard.clone() for guard in guards]
        for found, expected in zip(run(half), exact, strict=True):
            error = float((found.double() - expected).norm() / expected.norm())
            print(name, f"{error:.1e}", tuple(found.shape))
            assert found.shape == expected.shape
            assert error < 6e-4, name
        for guard, untouched in zip(guards, before, strict=True):
            torch.testing.assert_close(guard, untouched, rtol=0, atol=0, equal_nan=True)
        print(name, "right")


if __name__ == "__main__":
    sys.exit(main())
