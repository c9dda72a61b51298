#!/usr/bin/env bash
# The test suite, in the environment that run_demo.sh uses.   bash run_tests.sh [pytest flags], e.g. -m slow, -k store
set -eu
source "$(dirname "$0")/util/environment.sh"
make_environment
cd "$root"
# Two at a time: much of the suite waits for processes that it has started.  -n 0 in the flags: one at a time, for --pdb
exec "$python" -m pytest -q -n 2 --dist loadfile "$@"
