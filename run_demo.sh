#!/usr/bin/env bash
# The whole method on your laptop: simulate ECGs (or take yours), prepare the store, pre-train a small ST-MEM, fine-tune it
# and a twin from scratch, and compare the two with linear probes of what both start from.
set -eu
source "$(dirname "$0")/util/environment.sh"

usage() {
  cat <<TXT
usage: bash run_demo.sh [--data DIR] [--output DIR] [--records N]

  --data DIR     your own WFDB recordings (.hea with .mat or .dat, any depth) instead of simulated ones
  --output DIR   where everything goes (default demo_output); a second run reuses what is there
  --records N    ECGs to simulate (default 800)

Makes .venv with the requirements on its first run.  Then some ten minutes on 2 cores.
TXT
}

data="" output=demo_output records=800 given=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h|--help) usage; exit 0 ;;
    --data|--output|--records)
      [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; usage >&2; exit 2; }
      case " $given " in *" $1 "*) echo "error: $1 is given twice; give it once" >&2; exit 2 ;; esac
      given="$given $1"
      case "$1" in --data) data=$2 ;; --output) output=$2 ;; --records) records=$2 ;; esac
      shift 2 ;;
    *) echo "error: unknown flag $1" >&2; usage >&2; exit 2 ;;
  esac
done
[ -z "$data" ] || [ -d "$data" ] || { echo "error: --data $data is not a folder" >&2; exit 2; }

make_environment
step() { printf '\n== %s\n' "$*"; }
work="$output/simulated_$records"

if [ -z "$data" ]; then
  step "1/5 simulating $records ECGs"
  data="$work/recordings"
  "$python" "$root/data_preparation/simulate_physionet2020.py" --output_dir "$data" --records "$records" --seed 0
else
  # Every data folder gets results of its own.
  work="$output/$(basename "$data")_$(cd "$data" && pwd | cksum | cut -d' ' -f1)"
  step "1/5 recordings: $data"
fi

step "2/5 preparing the store (100 and 250 Hz)"
"$python" "$root/data_preparation/data_extraction_without_preprocessing.py" --input_dir "$data" --output_dir "$work/extracted"
"$python" "$root/data_preparation/reformat_memmap.py" --input_dir "$work/extracted" --output_dir "$work/store"

# Autocast to bf16 where the processor computes in it; elsewhere it would take longer.
amp=none
! grep -qsE '\b(avx512_bf16|amx_bf16)\b' /proc/cpuinfo || amp=bf16
# Small model, short crops, short training: enough to see the method work, not to judge it.
common=(--gpus cpu --output_dir "$work" --overlay demo --overlay short_crops --resume auto
        --set "dataset.store=$work/store" --set dataset.max_records=800 --set dataloader.batch_size=16
        --set train.steps_per_epoch=null --set train.log_every=5 --set "train.amp=$amp")
pretrain=(--config_path "$root/configs/pretrain/st_mem.yaml" --set model_name=st_mem_vit_tiny_dec128d2b
          --set model.mask_ratio=0.5 --set "dataset.exclude_folds=[0, 1]" --set train.epochs=40
          --set train.warmup_epochs=4 --set train.lr=2e-3 --set train.figure_every=10)
finetune=(--config_path "$root/configs/downstream/st_mem.yaml" --set model_name=st_mem_vit_tiny --set train.lr=3e-4
          --set train.epochs=6 --set train.head_init=probe --set "metric.target_metrics=[AUROC, AUPRC]" --set test.target_metric=AUROC)

step "3/5 pre-training ST-MEM on the unlabelled ECGs"
bash "$root/run_pretrain.sh" "${common[@]}" "${pretrain[@]}" --exp_name pretrain
# Heads start as a linear probe of frozen features; mode probe is that probe and nothing else.
probe=("${common[@]}" "${finetune[@]}" --set mode=probe)
step "4/5 linear probes: an untrained encoder, and the pre-trained one"
bash "$root/run_downstream.sh" "${probe[@]}" --exp_name random
bash "$root/run_downstream.sh" "${probe[@]}" --exp_name probe --encoder_path "$work/pretrain/encoder.pth"
step "5/5 fine-tuning it, and the same network from scratch"
bash "$root/run_downstream.sh" "${common[@]}" "${finetune[@]}" --exp_name finetune --set mode=finetune \
  --encoder_path "$work/pretrain/encoder.pth"
bash "$root/run_downstream.sh" "${common[@]}" "${finetune[@]}" --exp_name scratch --set mode=scratch

step "test fold"
"$python" "$root/experiments/compare_runs.py" "$work/random" "$work/probe" "$work/finetune" "$work/scratch" --test
echo
echo "reconstructions: $work/pretrain/figures/   curves: tensorboard --logdir $work"
