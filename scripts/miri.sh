#!/usr/bin/env bash
# Runs the memory code of the host under Miri, the interpreter that detects undefined behaviour: accesses outside of
# allocations, aliased slices, uninitialised memory, misaligned and freed pointers, leaks.
#
#   scripts/miri.sh            the unit tests of `mem`, and the smallest case of every op on the reference backend
#   scripts/miri.sh cpu        the same cases on the CPU engine, in portable code (Miri has few vector instructions)
#
# Needs a nightly toolchain with Miri: rustup toolchain install nightly --component miri,rust-src
# TOOLCHAIN specifies another one. Not covered by Miri: kernels (see scripts/emulator-sanitize.sh), vector instructions
# of the CPU engine, and mapped files.
set -euo pipefail
cd "$(dirname "$0")/.."
toolchain=${TOOLCHAIN:-nightly}
cargo=(${CARGO:-cargo} "+$toolchain" miri test --locked)
# Without isolation: the environment selects the code path of the CPU engine, and tests read clocks and files.
export MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}"
# Do not build kernels and emulator.
export CARGO_TARGET_DIR=target/miri NVCC= CXX=none
case ${1:-} in
  "")
    "${cargo[@]}" --lib -- mem::
    "${cargo[@]}" --test ops -- small_cases::the_reference
    ;;
  cpu)
    # Pool threads outlive the tests.
    MIRIFLAGS="$MIRIFLAGS -Zmiri-ignore-leaks" MIPGPU_ISA=portable RAYON_NUM_THREADS=2 \
      "${cargo[@]}" --test ops -- small_cases::the_cpu
    ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 1 ;;
esac
