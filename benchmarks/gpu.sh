#!/usr/bin/env bash
# All checks of the training core that need a CUDA device, the most important first: tests, speed, sharing a device.
#
#   benchmarks/gpu.sh FOLDER [STEP ...]
#
# For a machine with torch, torchvision, numpy and pytest that you may have for minutes only. The output and the figures of
# each step are written to FOLDER at once. No step takes longer than its limit in seconds. If a step fails, the others still
# run. Without STEP, all steps run. PYTHON in the environment names the interpreter; SHORT=1 runs the steps on few images,
# also on a CPU. Exit code: 1 if a step failed, 2 without FOLDER or with an unknown STEP.
set -uo pipefail
[ $# -gt 0 ] || { echo "give the FOLDER for output and figures: benchmarks/gpu.sh FOLDER [STEP ...]" >&2; exit 2; }
mkdir -p "$1" || exit 2
folder=$(realpath "$1")
wanted=" ${*:2} "
cd "$(dirname "$0")/.."
short=() code=0 known=" "
[ -z "${SHORT:-}" ] || short=(--short)

step() { # NAME LIMIT MODULE ARGUMENTS
  known+="$1 "
  [ "$wanted" = "  " ] || [[ $wanted == *" $1 "* ]] || return 0
  echo "== $1"
  timeout --kill-after=10 "$2" "${PYTHON:-python3}" -m "${@:3}" 2>&1 | tee "$folder/$1.txt" && return
  echo "$1 failed"
  code=1
}
training() { step "$1" "$2" benchmarks.training --json "$folder/$1.json" "${@:3}" "${short[@]}"; }
sharing() { step "$1" "$2" benchmarks.sharing --json "$folder/$1.json" "${@:3}" "${short[@]}"; }

# The project's own settings name plugins that such a machine may lack.
printf '[pytest]\nmarkers =\n    gpu\n    slow\nfilterwarnings = error\n' > "$folder/pytest.ini"
step tests 240 pytest -c "$folder/pytest.ini" --rootdir=. --import-mode=importlib -q -m gpu tests/trainables
training paper_cnn_epochs 120 --only epochs --models paper_cnn
training resnet50_epochs 300 --only epochs --models resnet50_cifar
training paper_cnn 240 --only loops --models paper_cnn
sharing paper_cnn_sharing 120 --model paper_cnn
sharing small_cnn_sharing 120 --model small_cnn
sharing resnet50_sharing 240 --model resnet50_cifar --images 20000
training epochs_deterministic 240 --only epochs --deterministic
training epochs_cudnn_benchmark 240 --only epochs --cudnn-benchmark
training epochs_compiled 240 --only epochs --models paper_cnn --compile
training others 300 --only loops --models small_cnn resnet50 resnet50_cifar
for name in $wanted; do
  [[ $known == *" $name "* ]] || { echo "no step is called $name; known:$known" >&2; code=2; }
done
exit "$code"
