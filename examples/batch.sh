#!/usr/bin/env bash
# Several prompts (a line each in PROMPTS), each with several seeds: one MP4 a pair, named after both.
# The weights are loaded once a prompt; a pair that cannot be made stops the batch.
set -euo pipefail
SORA=${SORA:-sora-cli}
PROMPTS=${PROMPTS:-$'a cat surfing\na rocket rising in space\na penguin in the snow'}
SEEDS=${SEEDS:-4} SECONDS_LONG=${SECONDS_LONG:-5} RES=${RES:-1280x720} STEPS=${STEPS:-8} OUT=${OUT:-batch}

mkdir -p "$OUT"
while IFS= read -r prompt; do
  $SORA generate "$prompt" -n "$SEEDS" --seconds "$SECONDS_LONG" --res "$RES" --steps "$STEPS" \
    -o "$OUT/{prompt}-{seed}.mp4"
done <<< "$PROMPTS"
