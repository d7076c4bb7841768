#!/bin/bash
# Run on one of several Macs, which hosts.json lists:
#   ./mlx.sh hosts.json --data corpus --output /Volumes/shared/run ...
# All need the same Python, hermes, folder and files. Further arguments are passed to hermes train.
set -eu
hosts=$1
shift

exec mlx.launch --hostfile "$hosts" --backend "${NETWORK:-ring}" --python "${PYTHON:-python}" \
  -- -m hermes train --backend mlx --auto-resume "$@"
