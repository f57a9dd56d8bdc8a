#!/usr/bin/env bash
# Sets up what is missing, then runs every check: ruff, mypy, pytest. Arguments go to pytest, with paths from the
# project's root; --quick leaves out what is slow or needs the real model.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"

arguments=()
whole=yes
for argument in "$@"; do
    if [ "$argument" = --quick ]; then
        arguments+=(-m "not slow and not model")
        whole=no
    else
        arguments+=("$argument")
    fi
done

# One test opens the report in a headless browser; without one it is skipped and says so.
find_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable; }
if [ $whole = yes ] && ! find_browser >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing chromium, to look at the report with"
        { DEBIAN_FRONTEND=noninteractive apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y \
            --no-install-recommends install chromium; } </dev/null >"$venv/chromium.log" 2>&1 ||
            say "can't install chromium ($venv/chromium.log): the report's browser test will be skipped"
    else
        say "no chromium or chrome here: the report's browser test will be skipped"
    fi
fi

# Some tests train in pieces by DeepSpeed, which works on CPUs, too. The demo has no need of it.
has_deepspeed() { "$venv/bin/python" -c 'import importlib.util as i, sys; sys.exit(i.find_spec("deepspeed") is None)'; }
if [ $whole = yes ] && ! has_deepspeed; then
    say "DeepSpeed $(pinned deepspeed), for its tests"
    DS_BUILD_OPS=0 pip_install -c constraints.txt --no-build-isolation "deepspeed==$(pinned deepspeed)" ||
        say "can't install DeepSpeed ($setup_log): its tests will be skipped"
fi

"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
# A file's tests share models, so a file goes to one process; each computes on one thread.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
arguments=(-n auto --maxprocesses 4 --dist loadfile ${arguments[@]+"${arguments[@]}"})
exec "$venv/bin/python" -m pytest ${arguments[@]+"${arguments[@]}"}
