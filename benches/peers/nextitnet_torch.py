#!/usr/bin/env python3
"""A tuned PyTorch baseline of NextItNet and of PeterRec's fine-tuning: the computation of src/models/peterrec.rs.

  nextitnet:  python nextitnet_torch.py --d 64 --T 50 --batch 64 --dtype bf16 --compile
  peterrec:   python nextitnet_torch.py --d 64 --T 50 --patch serial --freeze      only the patches are trained

Residual blocks of two causal dilated convolutions, each with layer norm and ReLU. --conv selects the convolution: a
channels-last conv2d (the fastest on CPUs, by a fifth to a third), the concatenated taps with one product, or conv1d.
"""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
import peer


def convolve(x, w, b, dilation, how):
    """x (B,T,I), w (O,I,1,W) -> (B,T,O), causal."""
    p = F.pad(x, (0, 0, (w.shape[3] - 1) * dilation, 0))
    if how == "conv2d": return F.conv2d(p.transpose(1, 2).unsqueeze(2), w, b, dilation=(1, dilation)).squeeze(2).transpose(1, 2)
    if how == "conv1d": return F.conv1d(p.transpose(1, 2), w[:, :, 0], b, dilation=dilation).transpose(1, 2)
    T, taps = x.shape[1], w.shape[3]
    return F.linear(torch.cat([p[:, k * dilation:k * dilation + T] for k in range(taps)], 2), w[:, :, 0].permute(0, 2, 1).reshape(w.shape[0], -1), b)


class Patch(nn.Module):
    """W_up gelu(W_down x); zero at initialisation."""
    def __init__(self, d, c):
        super().__init__()
        self.down, self.up = nn.Linear(d, c), nn.Linear(c, d)
        nn.init.trunc_normal_(self.down.weight, std=0.02, a=-0.04, b=0.04); nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight); nn.init.zeros_(self.up.bias)

    def forward(self, x): return self.up(F.gelu(self.down(x), approximate="tanh"))


class Half(nn.Module):
    """relu(LN(conv(x))), with a serial or parallel patch."""
    def __init__(self, a, dilation):
        super().__init__()
        self.w = nn.Parameter(nn.init.trunc_normal_(torch.empty(a.d, a.d, 1, a.taps), std=0.02, a=-0.04, b=0.04))
        self.b, self.ln = nn.Parameter(torch.zeros(a.d)), peer.LN(a.d, eps=1e-8)
        self.dilation, self.how, self.place = dilation, a.conv, a.patch
        self.patch = Patch(a.d, a.patch_width or -(-a.d // 8)) if a.patch != "none" else None

    def forward(self, x):
        y = F.relu(self.ln(convolve(x, self.w, self.b, self.dilation, self.how)))
        return y if self.patch is None else y + self.patch(y if self.place == "serial" else x)


class NextItNet(peer.NextItem):
    def __init__(self, a):
        super().__init__()
        self.V, self.p, self.low = a.V, a.dropout, a.dtype == "bf16"
        self.item = nn.Parameter(nn.init.trunc_normal_(torch.empty(a.V + 1, a.d), std=0.02, a=-0.04, b=0.04))
        self.bias = nn.Parameter(torch.zeros(a.V))
        dilations = [int(r) for r in a.dilations.split(",")]
        self.blocks = nn.ModuleList(nn.Sequential(Half(a, r), Half(a, 2 * r)) for r in (dilations[i % len(dilations)] for i in range(a.layers)))
        if a.freeze: self.requires_grad_(False)
        for half in (h for block in self.blocks for h in block if h.patch is not None): half.patch.requires_grad_(True)

    def draws(self, x): return x.numel() * self.item.shape[1]

    def table(self): return self.item[:self.V], self.bias

    def hidden(self, x, drop):
        x = F.embedding(x, self.item)
        x = drop(x.bfloat16() if self.low else x, self.p, self.training)
        for block in self.blocks: x = x + block(x)
        return x

    def ours(self, of):
        """Applies `of` to each parameter (value or gradient), under the names and in the shapes of mipgpu."""
        out = {"item.weight": of(self.item), "item.bias": of(self.bias)}
        for i, block in enumerate(self.blocks):
            for k, half in enumerate(block, 1):
                name = f"block.{i}.conv{k}"
                out |= {f"{name}.weight": None if of(half.w) is None else of(half.w)[:, :, 0].permute(2, 1, 0), f"{name}.bias": of(half.b),
                        f"{name}_norm.gamma": of(half.ln.weight), f"{name}_norm.beta": of(half.ln.bias)}
                if half.patch is not None: out |= {f"{name}.patch.{n}": of(w) for n, w in half.patch.named_parameters()}
        return out


def arguments(words=None):
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peer.flags(ap)
    for nm, de in (("layers", 2), ("taps", 3), ("patch-width", 0)): ap.add_argument("--" + nm, type=int, default=de)
    ap.add_argument("--dilations", default="1,4"); ap.add_argument("--conv", choices=("conv2d", "taps", "conv1d"), default="conv2d")
    ap.add_argument("--patch", choices=("none", "serial", "parallel"), default="none"); ap.add_argument("--freeze", action="store_true", help="train patches only")
    return ap.parse_args(words)


if __name__ == "__main__":
    a = peer.settle(arguments())
    peer.next_item(a, NextItNet(a), model="nextitnet", layers=a.layers, dilations=a.dilations, conv=a.conv, patch=a.patch, freeze=a.freeze)
