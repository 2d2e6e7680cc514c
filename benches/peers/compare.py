#!/usr/bin/env python3
"""Training steps of mipgpu and of tuned PyTorch (bert4rec_torch.py), interleaved on this machine; medians and the ratio.

    pip install torch==2.11.0 && cargo bench --bench step --no-run && python benches/peers/compare.py [--rounds 5]

Both train BERT4Rec on full-length sequences of Zipf-like items: 20 % masked, dropout 0.1, no attention dropout,
AdamW. PyTorch runs eager and compiled; the better one counts.
"""
import argparse, glob, json, os, statistics, subprocess, sys

here = os.path.dirname(os.path.abspath(__file__))
root = os.path.dirname(os.path.dirname(here))


def last_json(command):
    out = subprocess.run(command, capture_output=True, text=True, cwd=root)
    if out.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{out.stderr[-2000:]}")
    return json.loads([line for line in out.stdout.splitlines() if line.startswith("{")][-1])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--width", type=int, default=64)
    ap.add_argument("--heads", type=int, default=2)
    ap.add_argument("--blocks", type=int, default=2)
    ap.add_argument("--length", type=int, default=200)
    ap.add_argument("--batch", type=int, default=64)
    ap.add_argument("--device", default="cpu", help="cpu, or cuda for both")
    ap.add_argument("--dtype", default="f32", choices=["f32", "bf16"], help="of both; mipgpu's CPU engine is f32")
    ap.add_argument("--items", type=int, default=3706)
    ap.add_argument("--step", help="the built benchmark [default: the newest under target/release/deps]")
    ap.add_argument("--no-compile", dest="compile", action="store_false")
    a = ap.parse_args()
    benches = [a.step] if a.step else [f for f in glob.glob(os.path.join(root, "target/release/deps/step-*")) if os.access(f, os.X_OK) and not f.endswith(".d")]
    if not benches:
        sys.exit("build first: cargo bench --bench step --no-run")
    ours = [max(benches, key=os.path.getmtime), "--json", "--width", str(a.width), "--heads", str(a.heads), "--blocks", str(a.blocks), "--length", str(a.length), "--batch", str(a.batch),
            "--items", str(a.items), "--device", a.device, "--precision", a.dtype]
    theirs = [sys.executable, os.path.join(here, "bert4rec_torch.py"), "train", "--device", a.device, "--d", str(a.width), "--heads", str(a.heads), "--layers", str(a.blocks),
              "--T", str(a.length), "--batch", str(a.batch), "--dtype", a.dtype, "--V", str(a.items), "--attn-dropout", "0"]
    rows = {"mipgpu": [], "eager": []} | ({"compile": []} if a.compile else {})
    for _ in range(a.rounds):
        rows["mipgpu"].append(last_json(ours)["seq_s"])
        rows["eager"].append(last_json(theirs)["seq_s"])
        if a.compile:
            rows["compile"].append(last_json([*theirs, "--compile"])["seq_s"])
    medians = {name: statistics.median(values) for name, values in rows.items()}
    best = max(v for k, v in medians.items() if k != "mipgpu")
    print(json.dumps({"settings": vars(a), "seq_s": rows, "median_seq_s": medians, "ratio": round(medians["mipgpu"] / best, 3), "loadavg": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
