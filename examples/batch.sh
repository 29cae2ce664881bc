#!/usr/bin/env bash
# Several prompts (a line each in PROMPTS), each with several seeds: one MP4 a pair, named after both.
# The weights are loaded once. What is made already is skipped, so that the same command goes on after anything.
set -euo pipefail
SORA=${SORA:-sora-cli}
PROMPTS=${PROMPTS:-$'a cat surfing\na rocket rising in space\na penguin in the snow'}
SEEDS=${SEEDS:-4} SECONDS_LONG=${SECONDS_LONG:-5} RES=${RES:-1280x720} STEPS=${STEPS:-8} OUT=${OUT:-batch}

mkdir -p "$OUT"
printf '%s\n' "$PROMPTS" > "$OUT/prompts.txt"
$SORA batch "$OUT/prompts.txt" -n "$SEEDS" --seconds "$SECONDS_LONG" --res "$RES" --steps "$STEPS" \
  -o "$OUT/{prompt}-{seed}.mp4"
