#!/usr/bin/env bash
# Is this GPU machine right and fast?  bash benchmarks/gpu_acceptance.sh [--minutes 9] [--out DIR] [--device cuda|cpu] [--only PARTS]
# Takes $PYTHON, else the first python here that has torch; installs nothing, needs no network.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
for python in "${PYTHON:-python3}" python3 python "$root/.venv/bin/python"; do
  if "$python" -c "import torch" 2>/dev/null; then
    exec "$python" "$root/benchmarks/gpu_acceptance.py" "$@"
  fi
done
echo "error: no python with torch here; name one: PYTHON=<python with torch> bash benchmarks/gpu_acceptance.sh" >&2
exit 2
