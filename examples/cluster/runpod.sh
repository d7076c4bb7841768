#!/bin/bash
# On a RunPod pod with a network volume at /workspace, which outlives the pod:
#   ./runpod.sh --config llama-1b.yaml --data /workspace/corpus --tokenizer /workspace/tokenizer.json
# When the run ends, also by an error, the pod is removed and no longer costs anything; checkpoints stay on the
# volume, and another pod goes on from them with the same command. RUNPOD_POD_ID is set in every pod, and runpodctl
# is installed there. Without a network volume use `runpodctl stop pod`, which keeps the pod's disk, at a price.
# Further arguments are passed to hermes train.
set -eu

exec hermes train --num-gpus "${GPUS:-1}" --output "${RUN:-/workspace/run}" --auto-resume --save-minutes 15 --keep-last 2 \
  --on-finish 'runpodctl remove pod "$RUNPOD_POD_ID"' "$@"
