#!/usr/bin/env bash
# Runs the host side of memory under Miri, the interpreter that sees undefined behaviour: accesses outside of allocations,
# slices that alias, memory that nobody wrote, misaligned and freed pointers, leaks.
#
#   scripts/miri.sh            the unit tests of `mem`, and the smallest case of every operation, by the reference
#   scripts/miri.sh cpu        the same cases by the CPU engine, in portable code (Miri knows few vector instructions)
#
# Needs a nightly toolchain with Miri: rustup toolchain install nightly --component miri,rust-src
# TOOLCHAIN names another one. What Miri does not see: kernels (scripts/emulator-sanitize.sh does), vector instructions of the
# CPU engine, and mapped files.
set -euo pipefail
cd "$(dirname "$0")/.."
toolchain=${TOOLCHAIN:-nightly}
cargo=(${CARGO:-cargo} "+$toolchain" miri test --locked)
# The environment says which code the CPU engine takes; clocks and files are asked for.
export MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}"
# Neither kernels nor emulator are built.
export CARGO_TARGET_DIR=target/miri NVCC= CXX=none
case ${1:-} in
  "")
    "${cargo[@]}" --lib -- mem::
    "${cargo[@]}" --test ops -- small_cases::the_reference
    ;;
  cpu)
    # Threads of the pool outlive the tests.
    MIRIFLAGS="$MIRIFLAGS -Zmiri-ignore-leaks" MIPGPU_ISA=portable RAYON_NUM_THREADS=2 \
      "${cargo[@]}" --test ops -- small_cases::the_cpu
    ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 1 ;;
esac
