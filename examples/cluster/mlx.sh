#!/bin/bash
# Several Macs, from one of them; hosts.json names them:
#   ./mlx.sh hosts.json --data corpus --output /Volumes/shared/run ...
# Each needs the same Python, hermes, folder and files. What follows goes to hermes train.
set -eu
hosts=$1
shift

exec mlx.launch --hostfile "$hosts" --backend "${NETWORK:-ring}" --python "${PYTHON:-python}" \
  -- -m hermes train --backend mlx --auto-resume "$@"
