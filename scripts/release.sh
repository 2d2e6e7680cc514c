#!/usr/bin/env bash
# Creates the archive of a release in target/release-archive: binary (profile `dist`), completions, man pages, licences
# (also that of the embedded data), README and CHANGELOG, its SHA-256, and the release notes from CHANGELOG.md.
#
#   scripts/release.sh            with the CUDA kernels; fails without nvcc
#   scripts/release.sh --cpu      CPU only
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  "") ;;
  --cpu) export NVCC= ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 1 ;;
esac
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
host=$(rustc -vV | sed -n 's/^host: //p')
name=mipgpu-$version-$host
out=target/release-archive
cargo build --locked --profile dist
binary=target/dist/mipgpu
if [[ ${1:-} != --cpu ]] && "$binary" devices | grep -q "built without the CUDA kernels"; then
  echo "release: this build has no CUDA kernels: run scripts/get-nvcc.sh, or pass --cpu" >&2
  exit 1
fi
rm -rf "$out" && mkdir -p "$out/$name/completions"
cp "$binary" README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$out/$name"
# The terms of the embedded MovieLens sample, at the path that README.md names.
licence=data/ml-small-2016/LICENSE.txt
mkdir -p "$out/$name/${licence%/*}" && cp "$licence" "$out/$name/$licence"
"$binary" man --out "$out/$name/man"
for shell in bash zsh fish powershell elvish; do
  "$binary" completions "$shell" >"$out/$name/completions/mipgpu.$shell"
done
tar -C "$out" -czf "$out/$name.tar.gz" "$name"
(cd "$out" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
# The section of this version.
awk -v head="## [$version]" 'index($0, "## ") == 1 { on = index($0, head) == 1; next } on' CHANGELOG.md >"$out/notes.md"
[[ -s $out/notes.md ]] || { echo "release: CHANGELOG.md has no section [$version]" >&2; exit 1; }
rm -rf "${out:?}/$name"
ls -l "$out"
