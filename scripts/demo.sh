#!/usr/bin/env bash
# Sets up what is missing, then takes a real model through the whole loop: `cai demo`, with this script's arguments.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# The default model and our own prompts are all here; what the arguments name may have to be fetched.
case " $* " in
*" --model"* | *" --prompts"*) ;;
*) export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" ;;
esac
exec "$venv/bin/cai" demo "$@"
