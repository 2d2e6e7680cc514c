#!/usr/bin/env python3
"""A tuned PyTorch baseline of Caser: the computation of src/models/caser.rs (next item, every row scored, no user
vectors).

  python caser_torch.py --d 64 --T 50 --batch 64 --dtype bf16 --compile

Windows of one user share their convolutions. Each height is one channels-last conv2d over the sequence (on CPUs twice
as fast as products and shifted sums), and the maxima are a pooling with stride 1.
"""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
import peer


class Caser(peer.NextItem):
    def __init__(self, a):
        super().__init__()
        self.V, self.p, self.L, self.F, self.G, self.low = a.V, a.dropout, a.window, a.horizontal, a.vertical, a.dtype == "bf16"
        self.how = a.vertical_by
        d, weight = a.d, lambda *s: nn.Parameter(nn.init.trunc_normal_(torch.empty(s), std=0.02, a=-0.04, b=0.04))
        self.item, self.out = weight(a.V + 1, d), weight(a.V + 1, d)
        self.out_bias = nn.Parameter(torch.zeros(a.V))
        self.wh = nn.ParameterList(weight(self.F, d, 1, h) for h in range(1, self.L + 1))
        self.bh = nn.Parameter(torch.zeros(self.L * self.F))
        self.wv, self.bv = weight(self.G, self.L), nn.Parameter(torch.zeros(self.G))
        self.dense_h, self.dense_v = weight(d, self.L * self.F), weight(d, self.G * d)
        self.dense_bh, self.dense_bv = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))

    def draws(self, x): return x.numel() * (self.L * self.F + self.G * self.item.shape[1])

    def table(self): return self.out[:self.V], self.out_bias

    def horizontal(self, p, T):
        image, pooled = p.transpose(1, 2).unsqueeze(2), []           # (B,D,1,T+L-1), channels last
        for h, w in enumerate(self.wh, 1):
            c = F.conv2d(image, w, self.bh[(h - 1) * self.F:h * self.F])
            pooled.append(F.max_pool2d(c, (1, self.L - h + 1), 1) if h < self.L else c)
        return F.relu(torch.cat(pooled, 1)).squeeze(2).transpose(1, 2)

    def vertical(self, p, T):
        (B, _, d), L, G, w = p.shape, self.L, self.G, self.wv
        if self.how == "depthwise":
            c = F.conv2d(p.transpose(1, 2).unsqueeze(2), w.view(1, G, L).expand(d, G, L).reshape(d * G, 1, 1, L), self.bv.repeat(d), groups=d)
            return c.squeeze(2).view(B, d, G, T).permute(0, 3, 2, 1).reshape(B, T, G * d)
        if self.how == "toeplitz":                                    # one product with a band of weights
            at = (torch.arange(T, device=p.device)[:, None] + torch.arange(L, device=p.device))[:, None].expand(T, G, L)
            band = torch.zeros(T, G, T + L - 1, dtype=w.dtype, device=p.device).scatter(2, at, w.expand(T, G, L))
            return (torch.matmul(band.view(T * G, -1), p).view(B, T, G, d) + self.bv[:, None].to(p.dtype)).flatten(2)
        s = [p[:, l:l + T] for l in range(L)]                         # sums of shifted rows
        w, b = w.to(p.dtype), self.bv.to(p.dtype)
        return torch.cat([sum(s[l] * w[g, l] for l in range(L)) + b[g] for g in range(G)], 2)

    def hidden(self, x, drop):
        T, e = x.shape[1], F.embedding(x, self.item)
        p = F.pad(e.bfloat16() if self.low else e, (0, 0, self.L - 1, 0))
        h = drop(self.horizontal(p, T), self.p, self.training)
        v = drop(self.vertical(p, T), self.p, self.training)
        return F.relu(F.linear(h, self.dense_h, self.dense_bh) + F.linear(v, self.dense_v, self.dense_bv))

    def ours(self, of):
        """Applies `of` to each parameter (value or gradient), under the names and in the shapes of mipgpu."""
        return {
            "item.weight": of(self.item), "conv.horizontal.weight": torch.cat([of(w)[:, :, 0].permute(2, 1, 0) for w in self.wh]),
            "conv.horizontal.bias": of(self.bh), "conv.vertical.weight": of(self.wv), "conv.vertical.bias": of(self.bv),
            "dense.horizontal.weight": of(self.dense_h), "dense.horizontal.bias": of(self.dense_bh), "dense.vertical.weight": of(self.dense_v),
            "dense.vertical.bias": of(self.dense_bv), "item.output.weight": of(self.out), "item.output.bias": of(self.out_bias)}


def arguments(words=None):
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peer.flags(ap)
    for nm, de in (("window", 5), ("horizontal", 16), ("vertical", 4)): ap.add_argument("--" + nm, type=int, default=de)
    ap.add_argument("--vertical-by", choices=("auto", "depthwise", "toeplitz", "sums"), default="auto", help="auto: sums on CUDA; on CPUs toeplitz for short bf16, else depthwise")
    a = ap.parse_args(words)
    if a.vertical_by == "auto": a.vertical_by = "sums" if a.device == "cuda" else "toeplitz" if a.dtype == "bf16" and a.T <= 64 else "depthwise"
    return a


if __name__ == "__main__":
    a = peer.settle(arguments())
    peer.next_item(a, Caser(a), model="caser", window=a.window, horizontal=a.horizontal, vertical=a.vertical, vertical_by=a.vertical_by)
