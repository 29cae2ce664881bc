#!/usr/bin/env bash
# bridge.sh A B OUT: exactly BETWEEN new frames from the end of A to the beginning of B, and all three in a row.
# Both clips have the size RES and the rate FPS; of each, the CONTEXT frames next to the gap are looked at.
set -euo pipefail
SORA=${SORA:-sora-cli}
FFMPEG=${FFMPEG:-$SORA ffmpeg}
PROMPT=${PROMPT:-} BETWEEN=${BETWEEN:-47} CONTEXT=${CONTEXT:-13}
RES=${RES:-1280x720} FPS=${FPS:-24} STEPS=${STEPS:-8}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ffmpeg() { $FFMPEG -nostdin -loglevel error -y "$@"; }

ffmpeg -sseof -5 -i "$1" -vf "reverse,trim=end_frame=$CONTEXT,reverse" -c:v ffv1 "$work/tail.mkv"
ffmpeg -i "$2" -vf "trim=end_frame=$CONTEXT" -c:v ffv1 "$work/head.mkv"
$SORA generate "$PROMPT" --anchor "$work/tail.mkv@0" --anchor "$work/head.mkv@-1" \
  --frames $((CONTEXT + BETWEEN + CONTEXT)) --res "$RES" --fps "$FPS" --steps "$STEPS" \
  --no-metadata -o "$work/bridge.mp4" > /dev/null
ffmpeg -i "$1" -i "$work/bridge.mp4" -i "$2" -filter_complex \
  "[1]trim=start_frame=$CONTEXT:end_frame=$((CONTEXT + BETWEEN)),setpts=PTS-STARTPTS[new];[0][new][2]concat=n=3" \
  -r "$FPS" -pix_fmt yuv420p -crf 18 "$3"
echo "$3"
