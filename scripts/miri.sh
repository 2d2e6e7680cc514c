#!/usr/bin/env bash
# Runs the host side under Miri, the interpreter that detects undefined behaviour: accesses out of bounds, aliased mutable
# slices, reads of uninitialised memory, misaligned and dangling pointers, data races, leaks.
#
#   scripts/miri.sh            the unit tests of `mem`, and one small case of every op on the reference backend
#   scripts/miri.sh cpu        the same cases on the CPU engine, in portable code (Miri supports few vector instructions)
#   scripts/miri.sh data       the unit tests of `data`: text readers, import, spills, shards, data sets
#
# Requires a nightly toolchain with Miri: rustup toolchain install nightly --component miri,rust-src
# TOOLCHAIN selects another one. Miri does not cover kernels (scripts/emulator-sanitize.sh does), the vector
# instructions of the CPU engine, or mapped files. Under Miri a file is read into memory instead (src/data/shard.rs).
#
# `cpu` and `data` use threads of rayon. Its dependency crossbeam-epoch violates Stacked Borrows, Miri's default rules of
# aliasing, so they run under Tree Borrows. The threads outlive the tests, so these runs do not report leaks.
# Tests too slow for Miri run with smaller sizes (`cfg!(miri)`); a few are ignored and state why. `data` skips `get`,
# which downloads from a server on a socket.
set -euo pipefail
cd "$(dirname "$0")/.."
toolchain=${TOOLCHAIN:-nightly}
cargo=(${CARGO:-cargo} "+$toolchain" miri test --locked)
# Without isolation, tests see environment, clocks and files.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-provenance-gc=100000 ${MIRIFLAGS:-}"
# Build neither kernels nor emulator.
export CARGO_TARGET_DIR=target/miri NVCC= CXX=none
threaded() {
  export MIRIFLAGS="$MIRIFLAGS -Zmiri-tree-borrows -Zmiri-ignore-leaks" RAYON_NUM_THREADS=2
}
case ${1:-} in
  "")
    "${cargo[@]}" --lib -- mem::
    "${cargo[@]}" --test small_cases -- the_reference --nocapture
    ;;
  cpu)
    threaded
    MIPGPU_ISA=portable "${cargo[@]}" --test small_cases -- the_cpu --nocapture
    ;;
  data)
    threaded
    "${cargo[@]}" --lib -- data:: --skip data::get::
    ;;
  *) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 1 ;;
esac
