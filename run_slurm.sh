#!/usr/bin/env bash
# Train on a Slurm cluster: several nodes, preemption, a node's own copy of the store.
#
#   bash run_slurm.sh [--stage DIR] [flags of sbatch] -- run_pretrain.sh [its flags]
#   bash run_slurm.sh --nodes=2 --gpus-per-node=4 --time=24:00:00 --partition=gpu -- \
#       run_pretrain.sh --config_path ./configs/pretrain/st_mem.yaml --output_dir ./output --exp_name st_mem
#
# Every node starts the launcher with its own --node_rank, all its GPUs, and (unless given) --resume auto.  Five minutes before
# the time is over, and when the job is preempted, a checkpoint is written and the job goes back into the queue.
# --stage DIR copies the store of --set dataset.store=STORE into DIR on every node first, and trains on that copy.
set -eu

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

fail() { echo "run_slurm.sh: $1" >&2; exit 2; }

# ============ 1. at your shell: submit ============
submit() {
  local root stage="" flags=()
  root=$(cd "$(dirname "$0")" && pwd)
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case "$1" in
      -h | --help) usage; exit 0 ;;
      --stage) stage=${2:?--stage needs a folder}; shift 2 ;;
      --stage=*) stage=${1#*=}; shift ;;
      *) flags+=("$1"); shift ;;
    esac
  done
  [ $# -gt 1 ] || fail "what to run is missing; end with  -- run_pretrain.sh --config_path ...  (-h explains)"
  shift
  case "$1" in
    run_pretrain.sh | run_downstream.sh) ;;
    *) fail "after -- comes run_pretrain.sh or run_downstream.sh, not $1" ;;
  esac
  command -v sbatch > /dev/null || fail "no sbatch here: this machine is no Slurm cluster; use $1 itself"
  # Slurm runs a copy of this script, which would not find the project by itself: hence the root.
  exec sbatch --ntasks-per-node=1 --requeue --open-mode=append --signal=B:USR1@300 "${flags[@]}" \
    "$root/run_slurm.sh" in_job "$root" "$stage" "$@"
}

# ============ 2. in the job: one task a node ============
in_job() {
  local root=$1 head status step asked=1
  head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  srun --ntasks-per-node=1 bash "$root/run_slurm.sh" on_node "$head" "$@" &
  step=$!
  trap 'asked=1; kill -USR1 "$step" 2> /dev/null || true' USR1 TERM  # srun hands it on to every node
  while [ -n "$asked" ]; do  # a signal ends the waiting, not the step
    asked="" status=0
    wait "$step" || status=$?
  done
  case "$status" in
    75 | 76) echo "stopped on request: back into the queue"; scontrol requeue "$SLURM_JOB_ID" ;;
  esac
  exit "$status"
}

# A number that another store, or a store that was made again, does not share: of the checksums that it keeps.
contents() { (cd "$1" && cat fs*/meta.json labels/*.json splits/*.json 2> /dev/null | cksum | cut -d ' ' -f 1); }

# Two jobs of one node may copy at the same time, and a copy may be cut short: it gets its name when it is whole.
copy_whole() {
  mkdir -p "$(dirname "$2")"
  cp -r "$1" "$2.$$" || return 1
  mv -T "$2.$$" "$2" 2> /dev/null || rm -rf "$2.$$"
}

# ============ 3. on every node: the launcher ============
on_node() {
  local head=$1 root=$2 stage=$3 launcher=$4
  shift 4
  local count=${SLURM_GPUS_ON_NODE:-0} gpus=cpu args=() store="" copy
  [ "$count" = 0 ] || gpus=$(seq -s, 0 $((count - 1)))
  while [ $# -gt 0 ]; do
    case "$1" in
      dataset.store=*)
        store=${1#*=}
        copy="$stage/$(basename "$store")-$(contents "$store")"
        [ -z "$stage" ] || set -- "dataset.store=$copy" "${@:2}" ;;
    esac
    args+=("$1")
    shift
  done
  if [ -n "$stage" ]; then
    [ -n "$store" ] || fail "--stage needs to know the store: give --set dataset.store=STORE"
    [ -d "$copy" ] || copy_whole "$store" "$copy" || fail "cannot copy $store to $copy on $(hostname)"
  fi
  [ "${SLURM_JOB_NUM_NODES:-1}" = 1 ] ||
    args+=(--nnodes "$SLURM_JOB_NUM_NODES" --node_rank "$SLURM_NODEID" --master_addr "$head")
  case " ${args[*]} " in
    *" --resume "* | *" --resume="*) ;;  # as you say
    *) args+=(--resume auto) ;;
  esac
  exec bash "$root/$launcher" --gpus "$gpus" "${args[@]}"
}

case "${1:-}" in
  in_job | on_node) part=$1; shift; "$part" "$@" ;;
  *) submit "$@" ;;
esac
