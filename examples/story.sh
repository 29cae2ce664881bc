#!/usr/bin/env bash
# A minute that tells a story: the prompt changes three times on the way, in one video without a cut.
# Stopped half-way? Run it again: --resume goes on where it was.
set -euo pipefail
SORA=${SORA:-sora-cli}
SECONDS_LONG=${SECONDS_LONG:-60} RES=${RES:-1280x720} STEPS=${STEPS:-8} OUT=${OUT:-story.mp4}
at() { awk -v long="$SECONDS_LONG" -v part="$1" 'BEGIN { printf "%gs", long * part }'; }

$SORA generate "a cat surfing on the ocean" \
  --prompt-at "$(at 0.25)=a cat standing still in the meadow" \
  --prompt-at "$(at 0.5)=a cat bouncing in the snow" \
  --prompt-at "$(at 0.75)=a cat and a rocket in space" \
  --seconds "$SECONDS_LONG" --res "$RES" --steps "$STEPS" --resume -o "$OUT"
