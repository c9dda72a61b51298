#!/usr/bin/env bash
# Pre-training on one CPU, many GPUs or several machines;  bash run_pretrain.sh -h  explains the flags.
set -eu
source "$(dirname "$0")/util/environment.sh"
find_python
exec "$python" -m util.processes.launcher "$root/main_pretrain.py" "$@"
