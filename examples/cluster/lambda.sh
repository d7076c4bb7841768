#!/bin/bash
# On an instance of Lambda with a filesystem attached, which outlives the instance:
#   LAMBDA_API_KEY=... LAMBDA_INSTANCE_ID=... RUN=/lambda/nfs/FILESYSTEM/run ./lambda.sh --config llama-1b.yaml ...
# When the run ends, also by an error, the instance is terminated by Lambda's API and no longer costs anything;
# checkpoints stay on the filesystem. The id is in the answer to the launch, and on the page of instances. Further
# arguments are passed to hermes train.
set -eu
: "${LAMBDA_API_KEY:?}" "${LAMBDA_INSTANCE_ID:?}" "${RUN:?}"
export LAMBDA_API="${LAMBDA_API:-https://cloud.lambda.ai/api/v1}" LAMBDA_API_KEY LAMBDA_INSTANCE_ID

exec hermes train --num-gpus "${GPUS:-8}" --output "$RUN" --auto-resume --save-minutes 15 --keep-last 2 \
  --on-finish 'curl --fail --silent --show-error --retry 5 --header "Authorization: Bearer $LAMBDA_API_KEY" --json "{\"instance_ids\": [\"$LAMBDA_INSTANCE_ID\"]}" "$LAMBDA_API/instance-operations/terminate"' "$@"
