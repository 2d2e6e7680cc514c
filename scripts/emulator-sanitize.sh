#!/usr/bin/env bash
# Runs a program on the emulator with instrumented kernels. AddressSanitizer + UndefinedBehaviorSanitizer detect
# overruns of shared memory and allocations, misaligned vectors and overflows. ThreadSanitizer detects races of lanes,
# warps and blocks.
#
#   scripts/emulator-sanitize.sh                       both, over the cases of `mipgpu check --device emu` with up to 5,000
#                                                      (TSan: 700) elements
#   scripts/emulator-sanitize.sh full                  both, ASan over all cases and whole steps (9 minutes on two cores)
#   scripts/emulator-sanitize.sh asan|tsan [COMMAND…]  one of them, over a command that you specify
#   scripts/emulator-sanitize.sh self-test [COMMAND…]  plants an overrun and a race in the block reduction and checks
#                                                      that both are detected (`mipgpu check --device emu --only norm`)
#
# The program itself is not instrumented: only the emulator library is replaced, through MIPGPU_EMU_LIB. The library is
# loaded late, so the sanitiser's runtime must be preloaded: LD_PRELOAD.
# Needs g++ with its sanitiser libraries; CXX specifies another compiler. Exit code 0: no errors were found.
set -euo pipefail
cd "$(dirname "$0")/.."
cxx=${CXX:-g++}
out=target/sanitize

# build asan|tsan [folder of the kernels]: prints the path of the library, rebuilt if a source is newer.
build() {
  local kind=$1 kernels=${2:-kernels} folder sanitize define
  folder=$out/$kind-$(basename "$kernels")
  case $kind in
    asan)
      sanitize="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
      define=-DSIMT_ASAN
      ;;
    tsan) sanitize="-fsanitize=thread" define=-DSIMT_TSAN ;;
    *) echo "emulator-sanitize: $kind is neither asan nor tsan" >&2; exit 1 ;;
  esac
  mkdir -p "$folder"
  local flags="-std=c++20 -O1 -g1 -fPIC -fvisibility=hidden -fno-tree-loop-distribute-patterns -fno-strict-aliasing \
    -pthread -DMIPGPU_EMU $define -Wall -Wextra -Wno-unknown-pragmas"
  local newest objects=() jobs=()
  newest=$(find "$kernels" scripts/emulator-sanitize.sh \( -name '*.h' -o -name '*.hpp' -o -name '*.cuh' -o -name '*.sh' \) \
    -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2-)
  for source in "$kernels"/*.cu "$kernels"/emu/*.cpp; do
    local object=$folder/$(basename "$source").o extra=
    [[ $source == *.cu ]] && extra=$sanitize  # only the kernels: the runtime switches stacks, which sanitisers cannot follow
    objects+=("$object")
    if [[ ! $object -nt $source || ! $object -nt $newest ]]; then
      # shellcheck disable=SC2086
      jobs+=("$cxx $flags $extra -c -x c++ $source -o $object")
    fi
  done
  if ((${#jobs[@]})); then
    printf '%s\0' "${jobs[@]}" | xargs -0 -n1 -P"$(nproc)" bash -c 'eval "$0"' >&2
  fi
  # shellcheck disable=SC2086
  $cxx -shared -pthread -Wl,-soname,libcuda.so $sanitize "${objects[@]}" -o "$folder/libmipgpu-emu.so"
  realpath "$folder/libmipgpu-emu.so"
}

# run asan|tsan LIBRARY COMMAND…
run() {
  local kind=$1 library=$2 runtime
  shift 2
  runtime=$("$cxx" -print-file-name="lib$kind.so")
  [[ -e $runtime ]] || { echo "emulator-sanitize: $cxx has no lib$kind.so" >&2; exit 1; }
  # No leak detection: the library lives as long as the process, and Rust's own statics look like leaks.
  local asan="detect_leaks=0:${ASAN_OPTIONS:-}"
  # Only accesses of the kernels are checked: TSan cannot see the synchronisation of the program itself.
  local tsan="ignore_noninstrumented_modules=1:exitcode=66:halt_on_error=1:${TSAN_OPTIONS:-}"
  local fixed=()
  # TSan needs fixed memory ranges, which are incompatible with wide address randomisation.
  [[ $kind == tsan ]] && command -v setarch >/dev/null && fixed=(setarch -R)
  MIPGPU_EMU_LIB=$library ASAN_OPTIONS=$asan TSAN_OPTIONS=$tsan UBSAN_OPTIONS=print_stacktrace=1 \
    "${fixed[@]}" env LD_PRELOAD="$runtime" "$@"
}

# prove asan|tsan [COMMAND…]
prove() {
  local kind=$1 library begin=$SECONDS
  shift
  library=$(build "$kind")
  local hopper=()
  if ((!$#)); then
    hopper=(cross_entropy sampled_softmax)
    cargo build --locked --quiet
    set -- target/debug/mipgpu check --device emu
    # TSan slows each lane down by a factor of about 25: use the small cases of every kernel. ASan leaves out the
    # largest cases, which take six of its nine minutes; run `full` after a change of kernels and before a release.
    if [[ $kind == tsan ]]; then set -- "$@" --largest 700; elif [[ -z ${full:-} ]]; then set -- "$@" --largest 5000; fi
  fi
  run "$kind" "$library" "$@"
  # The Hopper variants.
  for op in "${hopper[@]}"; do
    MIPGPU_WGMMA=1 run "$kind" "$library" "$@" --precision bf16 --only "$op"
  done
  echo "emulator-sanitize: $kind found no errors ($((SECONDS - begin)) s): $*"
}

# plant asan|tsan SED-SCRIPT EXPECTED-MESSAGE COMMAND…
plant() {
  local kind=$1 change=$2 said=$3 library kernels=$out/planted-$1 report=$out/planted-$1.log
  shift 3
  rm -rf "$kernels" && mkdir -p "$kernels" && cp -rp kernels/. "$kernels"
  sed -i "$change" "$kernels/common/reduce.cuh"
  if cmp -s kernels/common/reduce.cuh "$kernels/common/reduce.cuh"; then
    echo "emulator-sanitize: the sed script changed nothing: kernels/common/reduce.cuh differs from what it expects" >&2
    exit 1
  fi
  library=$(build "$kind" "$kernels")
  if run "$kind" "$library" "$@" >"$report" 2>&1 || ! grep -q "$said" "$report"; then
    echo "emulator-sanitize: $kind did not detect the planted fault, see $report" >&2
    exit 1
  fi
  echo "emulator-sanitize: $kind detected the planted fault: $(grep -m1 "SUMMARY" "$report")"
}
self_test() {
  if ((!$#)); then
    cargo build --locked --quiet
    set -- target/debug/mipgpu check --device emu --only norm
  fi
  plant asan 's|scratch\[threadIdx.x / 32\] = x;|scratch[threadIdx.x / 32 + 1] = x;|' 'AddressSanitizer: use-after-poison' "$@"
  plant tsan '/scratch\[threadIdx.x \/ 32\] = x;/{n;s|__syncthreads();||}' 'ThreadSanitizer: data race' "$@"
}

case ${1:-} in
  "") prove asan && prove tsan ;;
  full) full=1 prove asan && prove tsan ;;
  asan | tsan) prove "$@" ;;
  self-test) shift && self_test "$@" ;;
  *) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 1 ;;
esac
