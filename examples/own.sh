#!/usr/bin/env bash
# From a folder of clips to a model with words of its own: four patterns with captions in German, a few minutes on a
# laptop. own/own.png shows every clip, and beside it what the model makes of its caption. Stopped half-way? Run it again.
set -euo pipefail
SORA=${SORA:-sora-cli}
FFMPEG=${FFMPEG:-$SORA ffmpeg}
TRAIN_STEPS=${TRAIN_STEPS:-800} WORD_STEPS=${WORD_STEPS:-200} RES=${RES:-640x360} STEPS=${STEPS:-8}
CLIP_SECONDS=${CLIP_SECONDS:-3} SIZE=${SIZE:-320x192}
mkdir -p own/clips

clip() {  # NAME CAPTION SOURCE
  [ -e "own/clips/$1.mp4" ] || $FFMPEG -v error -f lavfi -i "$3" -t "$CLIP_SECONDS" -pix_fmt yuv420p "own/clips/$1.mp4"
  echo "$2" > "own/clips/$1.txt"
}
clip bars    "bunte Balken"           testsrc2=s=640x360:r=24
clip fractal "ein Apfelmännchen"      mandelbrot=s=640x360:r=24
clip dusk    "der Himmel am Abend"    gradients=s=640x360:r=24:c0=0x102040:c1=0xff8040:n=2:seed=1:speed=0.02
clip tiles   "Kacheln kommen und gehen" "life=s=20x12:r=3:seed=1:mold=20:life_color=white:mold_color=teal,fps=24,scale=640:360:flags=neighbor"

$SORA data build own/clips -o own/dataset --size "$SIZE"
$SORA train clip --data own/dataset --steps "$WORD_STEPS" --out own/words
$SORA train dit --data own/dataset --text own/words --init pocket --batch 8 --steps "$TRAIN_STEPS" --out own/run
$SORA train export --init own/run --text own/words --out own/model

rm -f own/*.mp4  # made by an earlier model
echo "prompt,output" > own/jobs.csv
pairs=() rows="" stack=""
for clip in own/clips/*.mp4; do
  name=$(basename "$clip" .mp4)
  echo "\"$(cat "own/clips/$name.txt")\",own/$name.mp4" >> own/jobs.csv
  one=$((${#pairs[@]} / 8))
  pairs+=(-ss 0.5 -i "$clip" -ss 0.5 -i "own/$name.mp4")
  rows+="[$((2 * one))]scale=320:180[a$one];[$((2 * one + 1))]scale=320:180[b$one];[a$one][b$one]hstack[row$one];"
  stack+="[row$one]"
done
$SORA batch own/jobs.csv --model ./own/model --seconds 1 --res "$RES" --steps "$STEPS" --force
$FFMPEG -v error -y "${pairs[@]}" -filter_complex "$rows${stack}vstack=inputs=$((one + 1))" -frames:v 1 own/own.png
