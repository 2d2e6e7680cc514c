#!/usr/bin/env python3
"""Lists the resource usage of every kernel: registers, shared memory, spills, and whether it uses tensor cores.

Usage: scripts/kernel-resources.py [FATBIN_DIR] [--arch sm_90a] > benches/results/kernel-resources.md

Reads the fatbins of the last build under target/mipgpu-kernels with cuobjdump (from .cuda/, CUDA_HOME or the PATH).
Exits with 1 if a kernel spills, or if a tensor core kernel has no HMMA (wgmma: no HGMMA) instruction.
"""

import argparse
import collections
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Kernels that must use tensor cores: the bf16 variants of these.
PRODUCTS = ("attention_", "cross_entropy_fwd", "cross_entropy_dh", "cross_entropy_dtable", "sampled_softmax_fwd",
            "sampled_softmax_dh", "sampled_softmax_dneg", "gemm_", "dilated_conv_fwd_c", "dilated_conv_fwd_z",
            "dilated_conv_bwd_dx", "dilated_conv_bwd_dw", "gru_fwd", "gru_bwd")


def cuobjdump():
    ready = ROOT / ".cuda/ready"
    if ready.is_file():
        tool = pathlib.Path(ready.read_text().strip()).parent / "cuobjdump"
        if tool.is_file():
            return str(tool)
    home = os.environ.get("CUDA_HOME")
    if home and os.path.isfile(f"{home}/bin/cuobjdump"):
        return f"{home}/bin/cuobjdump"
    found = shutil.which("cuobjdump")
    if not found:
        sys.exit("kernel-resources: no cuobjdump: run scripts/get-nvcc.sh")
    return found


def newest(folder):
    """The newest fatbin of every source."""
    sources = {p.stem for p in (ROOT / "kernels").glob("*.cu")}
    latest = {}
    for path in sorted(folder.glob("*.fatbin"), key=lambda p: p.stat().st_mtime):
        name = path.stem.rsplit("-", 1)[0]
        if name in sources:
            latest[name] = path
    missing = sources - set(latest)
    if missing:
        sys.exit(f"kernel-resources: not compiled: {', '.join(sorted(missing))}; run cargo build with nvcc")
    return latest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=str(ROOT / "target/mipgpu-kernels"), type=pathlib.Path)
    parser.add_argument("--arch", default="sm_90a", help="architecture for the instruction counts [default: sm_90a]")
    args = parser.parse_args()
    tool, rows, faults = cuobjdump(), [], []
    for source, path in sorted(newest(pathlib.Path(args.folder)).items()):
        usage = subprocess.run([tool, "--dump-resource-usage", path], check=True, capture_output=True, text=True).stdout
        seen = collections.defaultdict(dict)
        arch = None
        for line in usage.splitlines():
            if match := re.match(r"arch = (\S+)", line.strip()):
                arch = match.group(1)
            if match := re.match(r"Function (\S+):", line.strip()):
                name = match.group(1)
            if match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
                seen[name][arch] = tuple(int(x) for x in match.groups())
        sass = subprocess.run([tool, "-sass", "-arch", args.arch, path], check=True, capture_output=True, text=True).stdout
        counts, name = collections.defaultdict(collections.Counter), None
        for line in sass.splitlines():
            if match := re.search(r"Function : (\S+)", line):
                name = match.group(1)
            elif match := re.search(r"/\*[0-9a-f]+\*/\s+(?:@!?\w+ )?(\w+)", line):
                counts[name][match.group(1)] += 1
        for name, by_arch in sorted(seen.items()):
            archs = sorted(by_arch, key=lambda a: int(re.sub(r"\D", "", a)))
            regs = " ".join(str(by_arch[a][0]) for a in archs)
            shared = max(v[2] for v in by_arch.values())
            local = max(v[3] for v in by_arch.values())
            c = counts[name]
            rows.append((source, name, regs, shared, local, c["HMMA"], c["HGMMA"], c["LDSM"], c["LDGSTS"], sum(c.values())))
            if local:
                faults.append(f"{name} spills {local} bytes")
            if name.endswith("_wgmma") and args.arch == "sm_90a" and not c["HGMMA"]:
                faults.append(f"{name} has no HGMMA")
            if name.endswith("_bf16") and name.startswith(PRODUCTS) and not c["HMMA"]:
                faults.append(f"{name} has no HMMA")
    print(f"Registers per thread by architecture ({', '.join(archs)}), static shared and local (spilled) bytes, and "
          f"instruction counts of {args.arch}.\n")
    print("| source | kernel | registers | shared | spilled | HMMA | HGMMA | LDSM | LDGSTS | all |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print("| " + " | ".join(str(x) for x in row) + " |")
    for fault in faults:
        print(f"kernel-resources: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
