#!/usr/bin/env bash
# Makes an environment with TRL 1.12.0, the last release with a PPO trainer, for benchmarks/ppo.py to measure against.
#
#     bash scripts/trl-1.12.sh [FOLDER]      # default: .venv-trl
#
# torch comes first, alone and for the CPU, so that nothing after it chooses a build. Its versions are those of
# constraints.txt, but for TRL's own: both sides of the comparison then run on the same kernels.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=${1:-$root/.venv-trl}
pytorch_cpu=https://download.pytorch.org/whl/cpu
pins=$root/constraints.txt

pinned() { sed -n "s/^$1==//p" "$pins"; }

pip_install() { PIP_USER=0 "$venv/bin/python" -m pip install --no-input --disable-pip-version-check -q "$@"; }

[ "$("$venv/bin/python" -c 'import trl; print(trl.__version__)' 2>/dev/null)" = 1.12.0 ] && exit 0

"${PYTHON:-python3}" -m venv --clear "$venv"
torch=$(pinned torch)
pip_install --no-deps "torch==$torch+cpu" || pip_install --no-deps --index-url "$pytorch_cpu" "torch==$torch"
grep -v '^trl==' "$pins" >"$venv/constraints.txt"
pip_install -c "$venv/constraints.txt" "torch==$torch" trl==1.12.0 transformers accelerate datasets safetensors
printf 'trl 1.12.0 in %s\n' "$venv"
