#!/usr/bin/env bash
# A seamless loop as MP4, GIF and WebP, and a page, index.html, that plays it for ever.
# Its length is rounded to whole chunks of four frames.
set -euo pipefail
SORA=${SORA:-sora-cli}
PROMPT=${PROMPT:-a sailboat on the ocean} SECONDS_LONG=${SECONDS_LONG:-4} RES=${RES:-640x360} STEPS=${STEPS:-8}
OUT=${OUT:-loop}

mkdir -p "$OUT"
$SORA loop "$PROMPT" --seconds "$SECONDS_LONG" --res "$RES" --steps "$STEPS" -o "$OUT/loop.mp4"
$SORA decode "$OUT/loop.safetensors" -o "$OUT/loop.gif"
$SORA decode "$OUT/loop.safetensors" -o "$OUT/loop.webp"
cat > "$OUT/index.html" <<'PAGE'
<!doctype html>
<title>An endless loop</title>
<body style="margin: 0; background: black">
<video src="loop.mp4" autoplay loop muted playsinline style="width: 100vw; height: 100vh"></video>
PAGE
