#!/usr/bin/env python3
"""Runs the same jobs with mipgpu and PyTorch, interleaved on this machine. Reports medians and the ratio to the fastest
PyTorch variant.

    pip install torch==2.11.0 && cargo bench --bench step --no-run
    python benches/peers/compare.py --jobs bert4rec-d64 --dtypes f32,bf16 --lengths LENGTHS --rounds 5 --out step-cpu.json

--jobs accepts names or prefixes of names; `all` selects the jobs of the device, `list` prints all names. Every round
runs each side once, and the order rotates by one per round: mipgpu, and PyTorch eager and compiled (on CUDA also with
CUDA graphs). `-real` jobs run PyTorch both padded and bucketed by length. Both sides report items and scored rows per
pass, the number of parameters and the first loss. If these differ, the jobs are not comparable and the job counts as
failed.
"""
import argparse, datetime, glob, json, os, platform, statistics, subprocess, sys

here = os.path.dirname(os.path.abspath(__file__))
root = os.path.dirname(os.path.dirname(here))

# ------------------------------------------------------------------------------------------------ the jobs
JOBS = {}


def job(name, script, ours, theirs, device="cpu", **more):
    JOBS[name] = dict(script=script, ours=ours.split(), theirs=theirs.split(), device=device, real=name.endswith("-real"), **more)


def bert4rec(name, d, blocks, heads, T, batch, items=3706, **more):
    job(name, "bert4rec_torch.py", f"--width {d} --blocks {blocks} --heads {heads} --length {T} --batch {batch} --items {items}",
        f"train --d {d} --layers {blocks} --heads {heads} --T {T} --batch {batch} --V {items} --attn-dropout 0", bf16=["--bf16-residual"], **more)


# Masked items: a fifth of each sequence, dropout 0.1 (none on attention probabilities), softmax over the catalogue.
for d, blocks, heads in ((64, 2, 2), (128, 2, 4), (256, 4, 4)):
    for T in (200, 50):
        for lengths in ("full", "real"): bert4rec(f"bert4rec-d{d}-T{T}-{lengths}", d, blocks, heads, T, 64)
# Next items: every row but the last of a sequence is scored.
for T in (200, 50):
    for lengths in ("full", "real"):
        job(f"caser-d64-T{T}-{lengths}", "caser_torch.py", f"--model caser --task next-item --width 64 --length {T} --batch 64", f"--d 64 --T {T} --batch 64")
for lengths in ("full", "real"):
    shape, theirs = "--width 64 --blocks 2 --length 50 --batch 64", "--d 64 --layers 2 --T 50 --batch 64"
    job(f"nextitnet-d64-T50-{lengths}", "nextitnet_torch.py", f"--model peterrec --task next-item {shape}", theirs)
    job(f"peterrec-d64-T50-{lengths}", "nextitnet_torch.py", f"--model peterrec --task next-item {shape} --patch serial --freeze all", f"{theirs} --patch serial --freeze")
# Operations: forward and backward of one residual block. For mipgpu they are taken from a step with one block.
job("op-conv-d64-T50", "bert4rec_torch.py", "--model peterrec --task next-item --width 64 --blocks 1 --dilations 1 --length 50 --batch 64 --ops",
    "ops --ops conv --conv-shapes 64x50x64x1", ops=["dilated_conv_fwd", "dilated_conv_bwd"])
# RecBole's models at its defaults, compared with the nearest mipgpu model (see recbole_torch.py). Samples are sequences.
for model, ours in (("bert4rec", "--width 64 --blocks 2 --heads 2 --dropout 0.2 --attention-dropout 0.2 --projection true"),
                    ("caser", "--model caser --task next-item --width 64 --dropout 0.4"),
                    ("nextitnet", "--model peterrec --task next-item --width 64 --blocks 10 --dropout 0")):
    job(f"recbole-{model}-T50", "recbole_torch.py", f"{ours} --length 50 --batch 64", f"--model {model} --T 50 --batch 2048 --batches 1", recbole=True)
# For a GPU: shapes A, B and C.
for name, d, heads, items in (("a", 64, 2, 3706), ("b", 128, 4, 3706), ("c", 256, 4, 26744)):
    bert4rec(f"gpu-{name}", d, 2, heads, 200, 256, items, device="cuda")
job("gpu-caser", "caser_torch.py", "--model caser --task next-item --width 64 --length 50 --batch 256", "--d 64 --T 50 --batch 256", device="cuda")
job("gpu-nextitnet", "nextitnet_torch.py", "--model peterrec --task next-item --width 64 --length 50 --batch 256", "--d 64 --T 50 --batch 256", device="cuda")


def opponents(j, device):
    """The variants of PyTorch: name and flags."""
    if j.get("recbole") or j.get("ops"): return {"torch": []}            # `ops` runs its own variants
    how = {"eager": [], "compile": ["--compile"]}
    if device == "cuda":
        how["graphs"] = ["--compile", "--compile-mode", "reduce-overhead"]
        if j["script"] == "nextitnet_torch.py": how["compile+taps"] = ["--compile", "--conv", "taps"]
    if j["real"]: how |= {f"{name}+bucket": [*flags, "--bucket"] for name, flags in how.items()}
    return how


# ------------------------------------------------------------------------------------------------ running
class Failed(Exception): pass


def records(command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not found: raise Failed(f"{' '.join(command)}\n{done.stderr[-1500:]}")
    return found


def measure(command, j, ours):
    """Returns the rate (higher is better): sequences/s, or blocks/s of an operation; and the record."""
    found = records(command)
    if not j.get("ops"): return found[-1]["seq_s"], found[-1]
    if ours:
        ms = sum(op["ms"] for op in found[-1]["ops"] if op["op"] in j["ops"])
        return 1e3 / ms, dict(impl="mipgpu", ms=ms)
    best = min((r for r in found if r.get("phase") == "fwd+bwd" and r.get("ms")), key=lambda r: r["ms"])
    return 1e3 / best["ms"], dict(impl=best["impl"], ms=best["ms"])


def differences(j, ours, theirs):
    """The numbers that must be equal on both sides and are not."""
    if j.get("ops") or j.get("recbole"): return []
    near = lambda a, b, share: abs(a - b) <= share * abs(a)
    out = [f"{k}: {ours[k]} here, {theirs[k]} there" for k in ("rows", "scored") if ours[k] != theirs[k]]
    # The table of the peer may have one more row for padding. At the start all items are about equally likely.
    return out + [f"{k}: {ours[k]} here, {theirs[k]} there" for k, share in (("params", 0.002), ("trained", 0.002), ("loss_first", 0.02)) if not near(ours[k], theirs[k], share)]


def compare(name, j, dtype, a):
    both = ["--seconds", str(a.seconds)] + (["--batches", str(a.batches)] if a.batches else [])
    both += ["--lengths", os.path.abspath(a.lengths)] if j["real"] else []
    ours = [a.step, "--json", *j["ours"], "--device", a.device, "--precision", dtype, *both]
    python = a.recbole if j.get("recbole") else sys.executable
    theirs = [python, os.path.join(here, j["script"]), *j["theirs"], "--device", a.device, *(["--threads", str(a.threads)] if a.threads else [])]
    theirs += ["--dtypes", dtype] if j.get("ops") else ["--dtype", dtype, *both, *(j.get("bf16", []) if dtype == "bf16" else [])]
    if a.no_compile and j.get("ops"): theirs.append("--no-compile")
    sides = {"mipgpu": ours} | {k: theirs + flags for k, flags in opponents(j, a.device).items() if not (a.no_compile and "--compile" in flags)}
    rates, notes, wrong = {k: [] for k in sides}, {}, {}
    for turn in range(a.rounds):
        order = list(sides)[turn % len(sides):] + list(sides)[:turn % len(sides)]
        for side in order:
            if side in wrong: continue
            try:
                rate, notes[side] = measure(sides[side], j, side == "mipgpu")
                rates[side].append(rate)
            except Failed as e:
                if side == "mipgpu": raise
                wrong[side] = str(e)
    for side in [s for s in notes if s != "mipgpu"]:
        apart = differences(j, notes["mipgpu"], notes[side])
        if apart: wrong[side] = "not the same job: " + "; ".join(apart)
    medians = {k: statistics.median(v) for k, v in rates.items() if v and k not in wrong}
    rivals = {k: v for k, v in medians.items() if k != "mipgpu"}
    best = max(rivals, key=rivals.get) if rivals else None
    return dict(job=name, device=a.device, dtype=dtype, unit="blocks/s" if j.get("ops") else "sequences/s", rates=rates, median=medians, best=best,
                ratio=round(medians["mipgpu"] / rivals[best], 3) if best else None, wrong=wrong, notes=notes,
                commands={k: " ".join(c) for k, c in sides.items()}, loadavg=os.getloadavg()[0])


def machine(device):
    """The machine and the software versions; also used by benches/scale.py."""
    def text(*command):
        try: return subprocess.run(command, capture_output=True, text=True, cwd=root).stdout.strip()
        except OSError: return ""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor()) if os.path.exists("/proc/cpuinfo") else platform.processor()
    gpu = text("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") if device == "cuda" else None
    packed = os.path.join(os.path.dirname(here), "commit")
    if os.path.exists(packed): commit = " ".join(open(packed).read().split("\n")).strip()
    else: commit = text("git", "rev-parse", "HEAD") + (" with uncommitted changes" if text("git", "status", "--porcelain", "--untracked-files=no") else "")
    return dict(date=datetime.date.today().isoformat(), cpu=cpu, cores=len(os.sched_getaffinity(0)), gpu=gpu, system=platform.platform(), commit=commit,
                command=" ".join(sys.argv), loadavg=os.getloadavg()[0])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--jobs", default="all", help="names or prefixes of names, separated by commas; all; list")
    ap.add_argument("--device", default="cpu", choices=["cpu", "cuda"]); ap.add_argument("--dtypes", default="f32", help="f32,bf16")
    ap.add_argument("--rounds", type=int, default=5); ap.add_argument("--seconds", type=float, default=5, help="seconds to time per side, in whole passes over its batches")
    ap.add_argument("--batches", type=int, default=0, help="different batches, all of them are one pass [default: 8]; more batches make the lengths in a bucket more similar")
    ap.add_argument("--lengths", help="for -real jobs: file with one user's length, or one user's items, per line")
    ap.add_argument("--step", help="the benchmark binary [default: the newest under target/release/deps]"); ap.add_argument("--threads", type=int, default=0, help="threads of PyTorch [default: all]")
    ap.add_argument("--recbole", help="Python interpreter with RecBole, for recbole- jobs"); ap.add_argument("--no-compile", action="store_true", help="skip torch.compile")
    ap.add_argument("--out", help="output file for the JSON [default: standard output]")
    a = ap.parse_args()
    if a.jobs == "list": return print(*JOBS, sep="\n")
    wanted = [n for n, j in JOBS.items() if (j["device"] == a.device if a.jobs == "all" else any(n.startswith(w) for w in a.jobs.split(",")))]
    if not wanted: sys.exit(f"--jobs {a.jobs}: no such job; --jobs list prints all names")
    for what, given, flag in (("real", a.lengths, "--lengths"), ("recbole", a.recbole, "--recbole")):
        left = [n for n in wanted if JOBS[n].get(what) and not given]
        if left: print(f"skipped because {flag} is not given: {', '.join(left)}", file=sys.stderr)
        wanted = [n for n in wanted if n not in left]
    benches = [a.step] if a.step else [f for f in glob.glob(os.path.join(root, "target/release/deps/step-*")) if os.access(f, os.X_OK) and not f.endswith(".d")]
    if not benches: sys.exit("build first: cargo bench --bench step --no-run")
    a.step = os.path.abspath(max(benches, key=os.path.getmtime))
    import torch
    versions = dict(torch=torch.__version__, python=platform.python_version())
    result, failed = dict(machine(a.device), versions=versions, jobs=[]), False
    for name in wanted:
        for dtype in ["f32"] if JOBS[name].get("recbole") else a.dtypes.split(","):
            try: one = compare(name, JOBS[name], dtype, a)
            except Failed as e: one = dict(job=name, device=a.device, dtype=dtype, ratio=None, wrong={"mipgpu": str(e)})
            result["jobs"].append(one)
            shown = ", ".join(f"{k} {v:.1f}" for k, v in one.get("median", {}).items())
            ran = one.get("notes", {}).get("mipgpu", {}).get("dtype", dtype)   # an engine without bf16 runs f32; this is reported
            print(f"{name} {dtype}: {one['ratio']} x {one.get('best')} ({shown})" + (f"; mipgpu ran {ran}" if ran != dtype else ""), file=sys.stderr, flush=True)
            for side, why in one["wrong"].items(): print(f"  {side}: {why}", file=sys.stderr)
            failed |= one["ratio"] is None or any(why.startswith("not the same job") for why in one["wrong"].values())
            if a.out:                                                  # after every job, so that finished jobs are kept
                with open(a.out, "w") as f: json.dump(result, f, indent=1)
    if not a.out: print(json.dumps(result))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
