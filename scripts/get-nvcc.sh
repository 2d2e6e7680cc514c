#!/usr/bin/env bash
# Downloads NVIDIA's CUDA compiler into .cuda/ (about 300 MB, as Python packages), for machines without a CUDA toolkit.
# Nothing else on the machine changes. Needs python3 with venv. The next build finds the compiler in .cuda/.
set -euo pipefail
cd "$(dirname "$0")/.."

# The kernels run on drivers of CUDA 13.0 (580) and newer. For older drivers set NVCC to a toolkit of their release.
RELEASE="13.0.*"

if [ -f .cuda/ready ] && [ -x "$(cat .cuda/ready)" ]; then
  echo "get-nvcc: $(cat .cuda/ready) is already installed"
  exit 0
fi
rm -rf .cuda
python3 -m venv .cuda || { echo "get-nvcc: needs python3 with the venv module (Debian: apt install python3-venv)" >&2; exit 1; }
.cuda/bin/pip install --quiet --disable-pip-version-check \
  "nvidia-cuda-nvcc==$RELEASE" "nvidia-nvvm==$RELEASE" "nvidia-cuda-crt==$RELEASE" \
  "nvidia-cuda-runtime==$RELEASE" "nvidia-cuda-cccl==$RELEASE" nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
nvcc=$(ls -d "$PWD"/.cuda/lib/python3*/site-packages/nvidia/cu13)/bin/nvcc
"$nvcc" --version | tail -2 | head -1
# Written last: a folder without this file is an incomplete download, which the next run replaces.
echo "$nvcc" > .cuda/ready
echo "get-nvcc: $nvcc; the next cargo build uses it"
