# Sourced by the shell scripts of this project; sets $root and $python.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

# The active environment if there is one, else the one that run_demo.sh and run_tests.sh make.
find_python() {
  python=python3
  if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$root/.venv/bin/python" ]; then
    python="$root/.venv/bin/python"
  fi
}

# Makes .venv with requirements.txt in it, unless it is there already; removing .venv starts anew.
make_environment() {
  local stamp="$root/.venv/requirements.installed"
  python="$root/.venv/bin/python"
  cmp -s "$root/requirements.txt" "$stamp" && return
  local base
  base=$(command -v python3.11 || command -v python3) || { echo "error: Python 3.11 is needed" >&2; return 1; }
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "error: Python 3.11 or newer is needed, but $base is $("$base" --version)" >&2; return 1; }
  echo "Installing the requirements into .venv (once, some minutes) ..."
  [ -x "$python" ] || "$base" -m venv "$root/.venv" ||
    { echo "error: python -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; return 1; }
  "$python" -m pip install --quiet --disable-pip-version-check -r "$root/requirements.txt" || return 1
  cp "$root/requirements.txt" "$stamp"
}
