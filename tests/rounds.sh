#!/usr/bin/env bash
# The default suite in six rounds that round float32 differently, as other processors, thread counts and libraries do:
# a test that passes in one alone holds by luck.  By hand, not in CI: six times as long as run_tests.sh.
#   bash tests/rounds.sh [pytest flags], e.g. tests/test_dino.py, -k store
# A line a round; what a failed round printed follows it.  The active environment serves if there is one.
set -u
source "$(dirname "$0")/../util/environment.sh"
if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then find_python; else make_environment || exit 1; fi
cd "$root" || exit 1
output=$(mktemp)
trap 'rm -f "$output"' EXIT
failed=0
for round in OMP_NUM_THREADS=1 OMP_NUM_THREADS=2 ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 \
             "ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2" TESTS_MATMUL_PRECISION=medium; do
  # shellcheck disable=SC2086  # a round may be several variables
  if env $round "$python" -m pytest -q -n 2 --dist loadfile "$@" > "$output" 2>&1; then status=passed; else status=FAILED failed=1; fi
  printf '%s  %s: %s\n' "$status" "$round" "$(tail -n 1 "$output")"
  [ "$status" = passed ] || cat "$output"
done
exit "$failed"
