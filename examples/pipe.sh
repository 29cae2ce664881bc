#!/usr/bin/env bash
# pipe.sh IN OUT: any video through ffmpeg, extended in the middle of the pipe, through ffmpeg into any other.
# Frames between the programs are raw y4m, which cannot say how its colours are meant: bt709 at both ends.
set -euo pipefail
SORA=${SORA:-sora-cli}
FFMPEG=${FFMPEG:-$SORA ffmpeg}
PROMPT=${PROMPT:-a cat surfing} AFTER=${AFTER:-5} STEPS=${STEPS:-8}

$FFMPEG -nostdin -loglevel error -i "$1" \
  -vf scale=out_color_matrix=bt709:out_range=tv -pix_fmt yuv420p -f yuv4mpegpipe - |
  $SORA extend - "$PROMPT" --after "$AFTER" --steps "$STEPS" -o - |
  $FFMPEG -loglevel error -y -f yuv4mpegpipe -i - \
    -vf setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv -pix_fmt yuv420p -crf 18 "$2"
