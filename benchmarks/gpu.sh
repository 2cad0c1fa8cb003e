#!/usr/bin/env bash
# All that needs a GPU: builds against the PyTorch that is installed, runs every test on CUDA, the kernels under
# compute-sanitizer and Nsight Compute, the benchmarks of ops, attacks and epochs of training, what a step costs up to
# 3x224x224, and a short comparison of trainings.
#
#   benchmarks/gpu.sh [FOLDER [STEP...]]    FOLDER (default: runs/gpu) receives log.txt, summary.json, ncu.csv, and ops.json,
#                                           attacks.json and training.json
#
# A STEP is one of the names below; without any, all run, each within its limit of seconds. The build always runs. Where a
# machine is lent for ten minutes at a time: `info ops attacks`, `memcheck racecheck initcheck ncu`, `tests`, `training`,
# `scaling trainings`. A step that is stopped at its limit keeps what it has measured.
# PYTHON (default: python3) has a CUDA build of PyTorch, ninja and pybind11. What else is missing there, such as jsonargparse,
# pytest with its plugins (the Makefile has the list) or libraries to compare with, comes from the folder WHEELS, if it is set;
# Fashion-MNIST from FASTADV_DATA. Nothing is downloaded: libraries to compare with that are missing are skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-runs/gpu}") python=${PYTHON:-python3} failed=0 wanted=" ${*:2} " site=$(mktemp -d)
mkdir -p "$out"
: >"$out/log.txt"
export FASTADV_CUDA=1 PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
results=()

# step NAME SECONDS COMMAND...: a failure does not keep the others from running.
step() {
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  [[ $wanted == "  " || $wanted == *" $name "* || $name == build ]] || return 0
  printf '\n==== %s: %s\n' "$name" "$*" >>"$out/log.txt"
  timeout --signal INT --kill-after 20 "$limit" "$@" >>"$out/log.txt" 2>&1 # interrupted, pytest writes its JSON
  status=$?
  results+=("\"$name\": {\"status\": $status, \"seconds\": $((SECONDS - start))}")
  printf '{%s}\n' "$(IFS=,; echo "${results[*]}")" >"$out/summary.json"
  echo "$name: status $status, $((SECONDS - start)) s: $(tail -n 1 "$out/log.txt")"
  [ "$status" -eq 0 ] || failed=1
}

[ -z "${WHEELS:-}" ] || "$python" -m pip install -q --no-index --no-deps --target "$site" "$WHEELS"/*.whl || exit
step build 180 "$python" setup.py -q build_ext --inplace
# Without kernels or what commands and tests import, nothing below would measure anything.
[ "$failed" -eq 0 ] && "$python" -c "import sys, fastadv.__main__, hypothesis, pytest_benchmark, xdist
sys.exit(fastadv.ops.MISSING['cuda'])" || exit 1
step info 60 "$python" -m fastadv info
step ops 240 "$python" -m pytest -q -p no:cacheprovider benchmarks/test_ops.py -k "not compile" \
  --benchmark-max-time=0.2 --benchmark-json="$out/ops.json"
step attacks 240 "$python" -m pytest -q -p no:cacheprovider benchmarks/test_attacks.py \
  -k "PGD-10-lenet5 or PGD-10-small or PGD-10-0-small or DeepFool-10-lenet5 or FAB or 5x100" --benchmark-json="$out/attacks.json"
# PyTorch's own allocator hides from the sanitizers where a tensor ends and what it had before. Only memcheck looks at the
# results of API calls, some of which PyTorch expects to fail.
for tool in "memcheck --report-api-errors no" racecheck initcheck; do
  step "${tool%% *}" 90 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $tool --error-exitcode 99 \
    "$python" -m pytest -q -p no:cacheprovider benchmarks/test_ops.py -k "fused and 128x3x32x32" --benchmark-disable
done
# How near each kernel is to the memory's bandwidth; the clock is left as it is.
step ncu 120 ncu --clock-control none --csv --log-file "$out/ncu.csv" --kernel-name 'regex:(rows|segments|partition)_kernel' --launch-count 60 \
  --metrics gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed,sm__throughput.avg.pct_of_peak_sustained_elapsed \
  "$python" -m pytest -q -p no:cacheprovider benchmarks/test_ops.py -k "fused and 24576" --benchmark-disable
step tests 400 "$python" -m pytest -q -n 8 --dist worksteal -p no:cacheprovider tests --ignore tests/test_simt.py \
  --ignore tests/test_build.py -k "cuda or captured or graphs"
step training 500 "$python" -m pytest -q -p no:cacheprovider benchmarks/test_training.py \
  -k "not robust and not (Blind and resnet18)" --benchmark-json="$out/training.json"
step scaling 300 "$python" -m benchmarks.scaling
step trainings 120 "$python" -m fastadv compare standard pgd blind madry friendly --device cuda --at-a-time 5 --epochs 4 --out "$(mktemp -d)/trainings"
exit "$failed"
