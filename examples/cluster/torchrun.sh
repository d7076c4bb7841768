#!/bin/bash
# Two machines with eight GPUs each; run the same command on both:
#   NODES=2 GPUS=8 MEET=10.0.0.1:29500 ./torchrun.sh --data corpus --output /shared/run ...
# MEET is an address of one of them that the other can reach. Further arguments are passed to hermes
# train.
set -eu

exec torchrun \
  --nnodes "${NODES:-2}" \
  --nproc-per-node "${GPUS:-8}" \
  --rdzv-backend c10d \
  --rdzv-endpoint "$MEET" \
  --rdzv-id "${JOB:-hermes}" \
  --max-restarts "${RESTARTS:-3}" \
  --module hermes train --auto-resume "$@"
