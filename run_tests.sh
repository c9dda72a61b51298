#!/usr/bin/env bash
# The test suite, in the environment that run_demo.sh uses.   bash run_tests.sh [pytest flags], e.g. -m slow, -k store
set -eu
source "$(dirname "$0")/util/environment.sh"
make_environment
cd "$root"
exec "$python" -m pytest -q "$@"
