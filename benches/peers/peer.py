"""Shared parts of the PyTorch baselines: host tuning, batches, the loss over the catalogue, timing.

The batches of a job have the same number, lengths and scored rows on both sides (benches/step.rs reads the same file
in the same order). Items are Zipf-distributed. Every script prints one JSON line per result.
"""
import argparse, contextlib, ctypes, json, math, os, resource, statistics, time
import torch
import torch.nn as nn
import torch.nn.functional as F

DT = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def tune_host(args):
    """Host settings of a tuned PyTorch run: threads, TF32, and no mmap/munmap of each large CPU tensor."""
    torch.manual_seed(args.seed)
    if args.device == "cpu":
        torch.set_num_threads(args.threads)
        if args.malloc:                                  # keep freed pages: M_MMAP_MAX=0, M_TRIM_THRESHOLD=max
            libc = ctypes.CDLL(None); libc.mallopt(-4, 0); libc.mallopt(-1, 2**31 - 1); libc.mallopt(-2, 256 << 20)
    else:
        tf32 = "high" if args.tf32 else "highest"
        torch.set_float32_matmul_precision(tf32); torch.backends.cudnn.allow_tf32 = args.tf32
        torch.backends.cudnn.benchmark = True


def sync(dev):
    if dev == "cuda": torch.cuda.synchronize()


# ------------------------------------------------------------------------------------------------ parts of models
class Drop:
    """Dropout for CPUs from one pool of random bytes per step: torch's bernoulli_ costs ~5 ns per element, this
    ~0.3 ns. The rate is rounded to 1/256.  With pool None (CUDA) it is F.dropout."""
    def __init__(self, pool): self.pool, self.off = pool, 0

    def __call__(self, x, p, training=True):
        if not training or p == 0: return x
        if self.pool is None: return F.dropout(x, p)
        c = round(p * 256); o = self.off; self.off = o + x.numel()
        return x * (self.pool[o:self.off].view(x.shape) >= c).to(x.dtype).mul(256 / (256 - c))

    @staticmethod
    def draw(n): return torch.empty((n + 7) // 8, dtype=torch.int64).random_(-2**63, None).view(torch.uint8)


class LN(nn.LayerNorm):
    """Keeps a bf16 residual stream in bf16 (CUDA autocast would return f32); the sums are f32 in both cases."""
    def forward(self, x):
        if x.dtype in (torch.float32, torch.float64): return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class ChunkedCE(torch.autograd.Function):
    """Mean cross-entropy of h W^T + b and its gradients, in slices of rows: the logits stay in a CPU's cache and
    are computed once.  Faster than F.cross_entropy(F.linear(..)) in f32, about as fast in bf16."""
    ROWS = 256

    @staticmethod
    def forward(ctx, h, w, b, y, dtype):
        with torch.autocast(h.device.type, enabled=False):
            x, v = h.to(dtype), w.to(dtype)
            bias, m = b.to(dtype), len(y)
            need = ctx.needs_input_grad[1]
            dh, dw, db, loss = torch.empty_like(x), torch.zeros_like(w), torch.zeros_like(b), 0.0
            for i in range(0, m, ChunkedCE.ROWS):
                rows, t = x[i:i + ChunkedCE.ROWS], y[i:i + ChunkedCE.ROWS, None]
                p = torch.softmax(torch.addmm(bias, rows, v.t()), 1, dtype=torch.promote_types(dtype, torch.float32))
                loss = loss - p.gather(1, t).log().sum()
                p = p.scatter_add_(1, t, torch.full_like(t, -1, dtype=p.dtype)).to(dtype)
                dh[i:i + ChunkedCE.ROWS] = p @ v
                if need:
                    dw.addmm_(p.t(), rows) if dw.dtype == dtype else dw.add_(p.t() @ rows)
                    db += p.sum(0)
            ctx.save_for_backward(dh.div_(m).to(h.dtype), dw.div_(m) if need else None, db.div_(m) if need else None)
            return loss / m

    @staticmethod
    def backward(ctx, g):
        return *(None if t is None else t * g for t in ctx.saved_tensors), None, None


def loss_over(h, w, b, y, ce, dtype):
    """Mean cross-entropy over the catalogue; `ce` as in the flag."""
    if ce == "chunk": return ChunkedCE.apply(h, w, b, y, dtype)
    return F.cross_entropy(F.linear(h, w, b), y)


# ------------------------------------------------------------------------------------------------ batches
def zipf_items(shape, V, dev):
    """ids 1..V with a Zipf-like popularity, as in MovieLens."""
    return (torch.exp(torch.rand(shape, device=dev) * math.log(V)).long()).clamp_(1, V)


def lengths(a):
    """The lengths of the sequences of each batch: a.batches lists.  Lines of the file are taken 7,919 apart, so
    that a sorted file gives typical batches.  With --bucket, sequences of similar length share a batch."""
    n = a.batch * a.batches
    if not a.lengths: return [[a.T] * a.batch] * a.batches
    lines = [line.split() for line in open(a.lengths) if line.strip()]
    every = [int(l[0]) for l in lines] if all(len(l) == 1 for l in lines) else [len(l) for l in lines]
    lens = [max(2, min(every[i * 7919 % len(every)], a.T)) for i in range(n)]
    if a.bucket: lens.sort()
    return [lens[i:i + a.batch] for i in range(0, n, a.batch)]


def batches(a, pad, left):
    """(tokens (B,T), lengths (B)) of each batch: items 1..V, `pad` on the left or right of shorter sequences. With
    bucketed sequences, T is cut to the longest length in the batch, rounded up to 8."""
    out = []
    for lens in lengths(a):
        T = min(a.T, (max(lens) + 7) // 8 * 8) if a.bucket else a.T
        tok, n = zipf_items((a.batch, T), a.V, a.device), torch.tensor(lens, device=a.device)[:, None]
        at = torch.arange(T, device=a.device)
        out.append((tok.masked_fill_(at < T - n if left else at >= n, pad), n.squeeze(1)))
    return out


# ------------------------------------------------------------------------------------------------ the clock
def flags(ap, job=True):
    """Flags of every script; `job`: also those of a training step."""
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0))); ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--no-malloc", dest="malloc", action="store_false", help="do not tune glibc's malloc (CPU)")
    ap.add_argument("--no-tf32", dest="tf32", action="store_false"); ap.add_argument("--compile-mode", default="default")
    if not job: return
    for nm, ty, de in (("V", int, 3706), ("d", int, 64), ("T", int, 200), ("batch", int, 0), ("dropout", float, .1), ("lr", float, 1e-3), ("wd", float, .01)):
        ap.add_argument("--" + nm, type=ty, default=de)
    ap.add_argument("--batches", type=int, default=8, help="different batches; all of them are one pass")
    ap.add_argument("--seconds", type=float, default=5, help="seconds to time, in whole passes, at least three, after one for warm-up (CUDA: three)")
    ap.add_argument("--lengths", default="", help="file with one user's length, or one user's sequence, per line [default: all of length T]")
    ap.add_argument("--dtype", choices=list(DT), default="f32"); ap.add_argument("--opt", choices=("fused", "foreach", "loop"), default="fused")
    ap.add_argument("--ce", choices=("auto", "plain", "chunk"), default="auto", help="auto: chunk on CPUs, plain on CUDA")
    ap.add_argument("--no-cheap-dropout", dest="cheap_dropout", action="store_false", help="CPU: use F.dropout instead of Drop")
    for fl in ("compile", "bucket"): ap.add_argument("--" + fl, action="store_true")


def settle(a):
    """Defaults that depend on the device."""
    tune_host(a)
    a.batch = a.batch or (256 if a.device == "cuda" else 64)
    if a.ce == "auto": a.ce = "chunk" if a.device == "cpu" else "plain"
    return a


def optimiser(a, model):
    return torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=a.lr, weight_decay=a.wd, betas=(0.9, 0.999),
                             **({"fused": True} if a.opt == "fused" else {"foreach": a.opt == "foreach"}))


def autocast(a):
    return torch.autocast(a.device, DT[a.dtype]) if a.dtype != "f32" else contextlib.nullcontext()


def facts(a, model, /, **more):
    """The facts about the job in a record."""
    return dict(what="train", device=torch.cuda.get_device_name() if a.device == "cuda" else "cpu", torch=torch.__version__, threads=a.threads if a.device == "cpu" else None,
                V=a.V, d=a.d, T=a.T, batch=a.batch, dropout=a.dropout, dtype=a.dtype, compile=a.compile_mode if a.compile else None, opt=a.opt, ce=a.ce, bucket=a.bucket,
                cheap_dropout=a.cheap_dropout and a.device == "cpu", params=sum(w.numel() for w in model.parameters()),
                trained=sum(w.numel() for w in model.parameters() if w.requires_grad), **more)


def timed(a, rec, step, every):
    """Times whole passes over the batches; reports the median pass.  `step` processes a batch and returns its
    loss."""
    t0 = time.perf_counter(); losses = []
    for _ in range(3 if a.device == "cuda" else 1): losses += [step(b) for b in every]
    sync(a.device); rec["warmup_s"] = round(time.perf_counter() - t0, 1)
    if a.device == "cuda": torch.cuda.reset_peak_memory_stats()
    ts = []
    while len(ts) < 3 or sum(ts) < a.seconds:
        t0 = time.perf_counter()
        for b in every: last = step(b)
        sync(a.device); ts.append(time.perf_counter() - t0)
    s = statistics.median(ts) / len(every)
    rec.update(passes=len(ts), ms_step=round(s * 1e3, 3), ms_min=round(min(ts) / len(every) * 1e3, 3), seq_s=round(a.batch / s, 1),
               loss_first=round(losses[0].item(), 4), loss_last=round(last.item(), 4))


def finish(a, rec):
    rec["peak_mib"] = round((torch.cuda.max_memory_allocated() if a.device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**20)
    rec["loadavg"] = os.getloadavg()[0]
    print(json.dumps(rec), flush=True)


def next_item(a, model, /, **more):
    """Trains `model` to predict the next item, and prints one record.  The last item of a sequence is a target
    only, so the network sees the others. Items are ids 0..V-1; V is padding on the right, which no row attends
    to."""
    model.to(a.device); f = torch.compile(model, mode=a.compile_mode, dynamic=None if a.lengths else False) if a.compile else model
    opt, every = optimiser(a, model), []
    rows = scored = 0
    for tok, n in batches(a, a.V + 1, False):
        tok = tok - 1; T = tok.shape[1]
        idx = (torch.arange(T - 1, device=a.device) < n[:, None] - 1).flatten().nonzero().squeeze(1) if a.lengths else None
        y = tok[:, 1:].flatten()
        every.append((tok[:, :-1].contiguous(), idx, y if idx is None else y[idx]))
        rows += int(n.sum()); scored += int((n - 1).sum())

    def step(b):
        x, idx, y = b
        if a.compile:
            if a.device == "cuda": torch.compiler.cudagraph_mark_step_begin()
            if idx is not None: torch._dynamo.mark_dynamic(idx, 0); torch._dynamo.mark_dynamic(y, 0)
        pool = Drop.draw(model.draws(x) + 8) if a.device == "cpu" and a.cheap_dropout and a.dropout else None
        with autocast(a):
            if a.ce == "chunk": loss = loss_over(f(x, idx, None, pool), *model.table(), y, a.ce, DT[a.dtype])
            else: loss = f(x, idx, y, pool)
        opt.zero_grad(set_to_none=True); loss.backward(); opt.step()
        return loss.detach().clone()

    rec = facts(a, model, rows=rows, scored=scored, **more)
    timed(a, rec, step, every)
    finish(a, rec)


class NextItem(nn.Module):
    """The output side of a next-item model. `hidden` returns (B,T,D), `table` the weights that score it."""
    def forward(self, x, idx, y, pool=None):
        """The mean cross-entropy of the rows `idx` (None: all); without `y`, the rows themselves."""
        h = self.hidden(x, Drop(pool)).flatten(0, 1)
        if idx is not None: h = h.index_select(0, idx)
        return h if y is None else loss_over(h, *self.table(), y, "plain", None)
