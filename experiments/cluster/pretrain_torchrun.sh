#!/usr/bin/env bash
# The paper's training on the GPUs of one machine: YouTube-VOS, DAVIS 2017 from its checkpoint, then Tables 1-3.
# Started again, it goes on where it was stopped. Arguments are passed on to both trainings.
#   YTVOS=... DAVIS=... experiments/cluster/pretrain_torchrun.sh [--coco COCO] [--accumulate 4] ...
set -euo pipefail

YTVOS=${YTVOS:?set it to the folder of YouTube-VOS}
DAVIS=${DAVIS:?set it to the folder of DAVIS 2017}
OUT=${OUT:-runs/paper}    # a folder that all machines see
WEIGHTS=${WEIGHTS:-auto}  # or a folder, see docs/weights.md
NETWORKS=${NETWORKS:-paper}
BATCH=${BATCH:-32}  # crops of a step over all processes, at least one each
CLIPS=${CLIPS:-8}   # clips of a step likewise
WORKERS=${WORKERS:-6}
LAUNCH=${LAUNCH:-torchrun --standalone --nproc-per-node=${PROCESSES:-gpu}}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
read -ra launch <<<"$LAUNCH"

# 100 epochs of crops and 20 of clips of 6 frames, as the presets; the batch should stay when a run goes on, whatever the
# number of processes.
train() {
  local data=$1 root=$2 frames=$3
  shift 3
  "${launch[@]}" -m experiments.train --preset "$data-$NETWORKS" --root "$root" --stage all --resume \
    --weights "$WEIGHTS" --batch-size "$BATCH" --segmentation-steps $((100 * frames / BATCH)) \
    --graph-batch-size "$CLIPS" --graph-steps $((20 * frames / (6 * CLIPS) * 6 * CLIPS)) --workers "$WORKERS" "$@"
}

train youtube_vos "$YTVOS" 94400 --out "$OUT/ytb" "$@"
train davis2017 "$DAVIS" 4209 --init "$OUT/ytb/checkpoint.pt" --out "$OUT/davis" "$@"
"${launch[@]}" -m experiments.tables --root "$DAVIS" "$YTVOS" --checkpoint "$OUT/davis/checkpoint.pt" --out "$OUT/tables"
