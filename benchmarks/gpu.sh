#!/usr/bin/env bash
# All that needs a GPU: builds against the PyTorch that is installed, runs every test on CUDA, the kernels under
# compute-sanitizer and Nsight Compute, the benchmarks of ops, attacks and epochs of training, what a step costs up to
# 3x224x224, and a short comparison of trainings.
#
#   benchmarks/gpu.sh [FOLDER [STEP...]]    FOLDER (default: runs/gpu) receives log.txt, summary.json, ncu.csv, and ops.json,
#                                           attacks.json and training.json
#
# A STEP is one of the names below; without any, all run, each within its limit of seconds. The build always runs: where a
# machine is lent for minutes, name `info tests memcheck racecheck initcheck ops` first, and the others then.
# PYTHON (default: python3) has a CUDA build of PyTorch, and pytest, pytest-benchmark and hypothesis. Nothing is downloaded:
# libraries to compare with that are missing are skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-runs/gpu}") python=${PYTHON:-python3} failed=0 wanted=" ${*:2} "
mkdir -p "$out"
: >"$out/log.txt"
export FASTADV_CUDA=1 PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
results=()

# step NAME SECONDS COMMAND...: a failure does not keep the others from running.
step() {
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  [[ $wanted == "  " || $wanted == *" $name "* || $name == build ]] || return 0
  printf '\n==== %s: %s\n' "$name" "$*" >>"$out/log.txt"
  timeout "$limit" "$@" >>"$out/log.txt" 2>&1
  status=$?
  results+=("\"$name\": {\"status\": $status, \"seconds\": $((SECONDS - start))}")
  echo "$name: status $status, $((SECONDS - start)) s: $(tail -n 1 "$out/log.txt")"
  [ "$status" -eq 0 ] || failed=1
}

step build 180 "$python" setup.py -q build_ext --inplace
step info 60 "$python" -m fastadv info
step tests 180 "$python" -m pytest -q -p no:cacheprovider tests --deselect tests/test_simt.py -k "cuda or CUDA"
for tool in memcheck racecheck initcheck; do
  step "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 99 \
    "$python" -m pytest -q -p no:cacheprovider benchmarks/test_ops.py -k "fused and 128x3x32x32" --benchmark-disable
done
step ops 240 "$python" -m pytest -q -p no:cacheprovider benchmarks/test_ops.py -k "not compile" \
  --benchmark-max-time=0.2 --benchmark-json="$out/ops.json"
# How near each kernel is to the memory's bandwidth; the clock is left as it is.
step ncu 120 ncu --clock-control none --csv --log-file "$out/ncu.csv" --kernel-name 'regex:(rows|segments|partition)_kernel' --launch-count 60 \
  --metrics gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed,sm__throughput.avg.pct_of_peak_sustained_elapsed \
  "$python" -m pytest -q -p no:cacheprovider benchmarks/test_ops.py -k "fused and 24576" --benchmark-disable
step attacks 200 "$python" -m pytest -q -p no:cacheprovider benchmarks/test_attacks.py \
  -k "PGD-10-lenet5 or PGD-10-small or PGD-10-0-small or DeepFool-10-lenet5 or FAB or 5x100" --benchmark-json="$out/attacks.json"
step training 240 "$python" -m pytest -q -p no:cacheprovider benchmarks/test_training.py -k "not robust" \
  --benchmark-json="$out/training.json"
step scaling 200 "$python" -m benchmarks.scaling
step trainings 60 "$python" -m fastadv compare standard pgd blind madry friendly --device cuda --epochs 4 --out "$(mktemp -d)/trainings"

printf '{%s}\n' "$(IFS=,; echo "${results[*]}")" >"$out/summary.json"
exit "$failed"
