#!/usr/bin/env bash
# Builds on this machine, packs everything that a GPU machine needs into dist/, and prints what to run there. The GPU
# machine needs an NVIDIA driver, and PyTorch for the comparison; no Rust, no compiler, no network.
#
#   scripts/gpu.sh [IMPORTED_DATA]        IMPORTED_DATA: a data set from `mipgpu import` (MovieLens-1M), for training
#   dist/run.sh all                       on the GPU machine; writes results to dist/results (or $OUT)
#
# dist/run.sh also runs single stages: check, memcheck, racecheck, initcheck, synccheck, time, train.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${NVCC:-}" ] && ! command -v nvcc >/dev/null && [ ! -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
  scripts/get-nvcc.sh
fi
cargo build --release --locked
step=$(cargo bench --bench step --no-run --locked --message-format=json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*\/step-[^"]*\)".*/\1/p' | tail -1)
rm -rf dist
mkdir -p dist/peers
cp target/release/mipgpu dist/
cp "$step" dist/step
cp benches/peers/*.py dist/peers/
# Debug information is not used there.
strip --strip-debug dist/mipgpu dist/step
if [ $# -ge 1 ]; then
  cp -r "$1" dist/data
fi
git rev-parse HEAD > dist/commit
git diff --quiet HEAD || echo "with uncommitted changes" >> dist/commit

cat > dist/run.sh <<'RUN'
#!/usr/bin/env bash
# Tests and times this build on the GPU of this machine.
# Usage: run.sh [check|memcheck|racecheck|initcheck|synccheck|time|train|all]
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/results}
mkdir -p "$out"
export PATH="$here:$PATH:/usr/local/cuda/bin"
device=${DEVICE:-cuda:0}
failed=0

# say FILE COMMAND...: runs a command, stores its output, and prints its exit code.
say() {
  local file=$out/$1; shift
  local start=$SECONDS
  "$@" > "$file" 2>&1
  local code=$?
  tail -4 "$file"
  echo "== exit $code after $((SECONDS - start)) s: $*" | tee -a "$file"
  [ $code -eq 0 ] || failed=1
}

facts() {
  { date -u +%Y-%m-%d; echo "commit $(tr '\n' ' ' < "$here/commit")"; nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader; uname -srm; } > "$out/facts.txt" 2>&1
  cat "$out/facts.txt"
}

hopper() {
  mipgpu devices | grep -q "^ *$device .*compute capability 9\.0" && return
  echo "== $device does not have compute capability 9.0: wgmma kernels are skipped"
  return 1
}

check() {
  say devices.txt mipgpu devices
  grep -q cuBLASLt "$out/devices.txt" || { echo "== cuBLASLt was not found: products use mipgpu's own kernels, timings are not representative"; failed=1; }
  say check.txt mipgpu check --device "$device"
  MIPGPU_GEMM=own say check-own-gemm.txt mipgpu check --device "$device" --only linear
  if hopper; then
    MIPGPU_WGMMA=1 say check-wgmma.txt mipgpu check --device "$device" --precision bf16
  fi
}

# Runs one tool over every case with mipgpu's own kernels (also for products: MIPGPU_GEMM=own).
sanitizer() {
  if ! command -v compute-sanitizer >/dev/null; then
    echo "== skipped: compute-sanitizer is not installed" | tee "$out/$1.txt"
    failed=1
    return
  fi
  MIPGPU_GEMM=own say "$1.txt" timeout 540 compute-sanitizer --tool "$1" --error-exitcode 9 mipgpu check --device "$device" --largest "${2:-20000}"
}

# The shapes of the comparison (A, B, C: the gpu- jobs of compare.py), and the time per operation of a step.
times() {
  say compare.txt python3 "$here/peers/compare.py" --jobs gpu- --step "$here/step" --device cuda --dtypes bf16 --rounds 3 --out "$out/compare.json"
  local shape
  for shape in "64 2 3706" "128 4 3706" "256 4 26744"; do
    set -- $shape
    say "ops-d$1.txt" "$here/step" --device "$device" --ops --width "$1" --heads "$2" --items "$3" --batch 256
    if hopper; then
      MIPGPU_WGMMA=1 say "ops-d$1-wgmma.txt" "$here/step" --device "$device" --ops --width "$1" --heads "$2" --items "$3" --batch 256
    fi
  done
  # Time per operation of training steps, with the pages and traces of the profile.
  local data=()
  [ -d "$here/data" ] && data=("$here/data")
  rm -rf "$out/profile"
  say profile.txt mipgpu profile ${data[@]+"${data[@]}"} --device "$device" --out "$out/profile"
}

train() {
  [ -d "$here/data" ] || { echo "no data was packed: run scripts/gpu.sh IMPORTED_DATA"; failed=1; return; }
  say train.txt mipgpu train "$here/data" --device "$device" --out "$out/run"
  cp "$out/run/report.json" "$out/run/metrics.jsonl" "$out/run/timing.jsonl" "$out/" 2>/dev/null
  # Two runs with the same seed, one of them interrupted and resumed, must produce identical bytes.
  say short.txt mipgpu train "$here/data" --device "$device" --out "$out/short" --epochs 5 --checkpoint-seconds 0
  mipgpu -q train "$here/data" --device "$device" --out "$out/twin" --epochs 5 --checkpoint-seconds 0 > "$out/stopped.txt" 2>&1 &
  local pid=$!
  while kill -0 $pid 2>/dev/null && [ "$(wc -l < "$out/twin/metrics.jsonl" 2>/dev/null || echo 0)" -lt 2 ]; do sleep 0.1; done
  kill -KILL $pid 2>/dev/null
  wait $pid 2>/dev/null
  say resumed.txt mipgpu train --resume "$out/twin" --device "$device"
  say same-bytes.txt cmp "$out/short/last.safetensors" "$out/twin/last.safetensors"
  rm -rf "$out/run" "$out/short" "$out/twin"
}

facts
case ${1:-all} in
  check) check ;;
  memcheck | initcheck | synccheck) sanitizer "$1" ;;
  racecheck) sanitizer racecheck 4000 ;;
  time) times ;;
  train) train ;;
  all) check; sanitizer memcheck; sanitizer racecheck 4000; sanitizer initcheck; sanitizer synccheck; times; train ;;
  *) echo "run.sh: expected check, memcheck, racecheck, initcheck, synccheck, time, train or all" >&2; exit 1 ;;
esac
exit $failed
RUN
chmod +x dist/run.sh
du -sh dist | cut -f1 | sed 's/^/gpu.sh: size of dist: /'
echo "gpu.sh: copy dist/ to the GPU machine and run dist/run.sh all"
