#!/usr/bin/env bash
# Fine-tuning, linear probing and training from scratch on one CPU, many GPUs or several machines;  bash run_downstream.sh -h  explains the flags.
set -eu
source "$(dirname "$0")/util/environment.sh"
find_python
exec "$python" -m util.processes.launcher "$root/main_finetune.py" "$@"
