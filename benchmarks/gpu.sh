#!/usr/bin/env bash
# All that needs a GPU, in three groups that take less than ten minutes each, on a machine that may have nothing but a CUDA build
# of PyTorch, nvcc, a C++ compiler and Python's headers, and no network:
#
#   benchmarks/gpu.sh FOLDER GROUP...
#
#   kernels    the build, every test on CUDA, and every op under compute-sanitizer's memcheck, racecheck and initcheck
#   training   epochs beside other ways to train, and robust networks, whose weights are kept in FOLDER/networks
#   attacks    ops, kernels under Nsight Compute, and attacks beside other libraries, on the networks of `training` if they
#              are there
#
# FOLDER receives log.txt, summary.json, ops.json, ncu.csv, training.json and attacks.json. A step that is stopped at its limit
# keeps what it has measured. PYTHON (python3) is the interpreter. Packages that it lacks come from the folder WHEELS, which
# `make wheels` fills where there is a network; benchmarks/wheels.txt lists them. Libraries to compare with that are missing all
# the same are skipped. Fashion-MNIST comes from FASTADV_DATA, or is the sample of it that fastadv has in it.
#
# Without a GPU all of this is rehearsed, tiny: nothing is built, and no tool watches.
set -uo pipefail
cd "$(dirname "$0")/.."

# The limit of every step in seconds. A group takes what its steps take together, and those in `always`.
declare -A limit=(
  [install]=20 [build]=140
  [info]=15 [tests]=195 [memcheck]=70 [racecheck]=70 [initcheck]=55
  [training]=400
  [ops]=90 [ncu]=40 [attacks]=275
)
always="install build"
declare -A group=(
  [kernels]="info tests memcheck racecheck initcheck"
  [training]="training"
  [attacks]="attacks ops ncu"
)

[ $# -ge 2 ] || { sed -n '2,21s/^# \{0,1\}//p' "$0"; exit 2; }
out=$(realpath -m "$1") python=${PYTHON:-python3} failed=0 site=$(mktemp -d) results=()
mkdir -p "$out"
: >"$out/log.txt"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:$PWD/tests:$site${PYTHONPATH:+:$PYTHONPATH}" PATH="$site/bin:$PATH"
device=$("$python" -c "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')") || exit
few=() && [ "$device" = cuda ] || few=(--benchmark-disable)

# step NAME COMMAND...: a failure does not keep the others from running.
step() {
  local name=$1 start=$SECONDS status
  shift
  printf '\n==== %s: %s\n' "$name" "$*" >>"$out/log.txt"
  # Interrupted, pytest and the benchmarks write what they have.
  timeout --signal INT --kill-after 5 "${limit[$name]}" "$@" >>"$out/log.txt" 2>&1
  status=$?
  results+=("\"$name\": {\"status\": $status, \"seconds\": $((SECONDS - start))}")
  printf '{%s}\n' "$(IFS=,; echo "${results[*]}")" >"$out/summary.json"
  echo "$name: status $status, $((SECONDS - start)) s: $(tail -n 1 "$out/log.txt")"
  [ "$status" -eq 0 ] || failed=1
}

# watched TOOL COMMAND...: under a tool of CUDA's, where there is a GPU.
watched() {
  local tool=$1
  shift
  [ "$device" = cuda ] && set -- $tool "$@"
  step "$name" "$@"
}

install() { [ -z "${WHEELS:-}" ] || step install "$python" -m benchmarks.wheels install "$WHEELS" "$site"; }
build() { [ "$device" = cpu ] || step build env FASTADV_CUDA=1 "$python" setup.py -q build_ext --inplace; }
info() { step info "$python" -m fastadv info; }
tests() {
  local how=(-n 8 --dist worksteal) && [ "$device" = cuda ] || how=(--collect-only)
  step tests "$python" -m pytest -q "${how[@]}" -p no:cacheprovider tests --ignore tests/test_simt.py --ignore tests/test_build.py \
    -k "cuda or captured or graphs"
}
# PyTorch's own allocator hides from these where a tensor ends and what it had before. Only memcheck looks at the results of
# API calls, some of which PyTorch expects to fail.
sanitized() { watched "env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 99 $1" "$python" -m ops.every "$device" "$2"; }
memcheck() { sanitized "--tool memcheck --report-api-errors no" 45; }
racecheck() { sanitized "--tool racecheck" 45; }
initcheck() { sanitized "--tool initcheck" 30; }
training() { step training "$python" -m benchmarks.gpu training "$out" 340; }
attacks() { step attacks "$python" -m benchmarks.gpu attacks "$out" 235; }
ops() {
  local cases="not compile and not eager" && [ "$device" = cuda ] || cases="fused and 128x3"
  step ops "$python" -m pytest -q -p no:cacheprovider benchmarks/test_ops.py -k "$cases" --benchmark-max-time=0.1 \
    --benchmark-json="$out/ops.json" "${few[@]}"
}
# How near each kernel is to the memory's bandwidth; the clock is left as it is.
ncu() {
  local metrics=gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed
  metrics+=,sm__throughput.avg.pct_of_peak_sustained_elapsed
  local kernels='regex:(rows|segments|partition)_kernel' size=24576 && [ "$device" = cuda ] || size=128x3
  watched "command ncu --clock-control none --csv --log-file $out/ncu.csv --kernel-name $kernels --launch-count 60 --metrics $metrics" \
    "$python" -m pytest -q -p no:cacheprovider benchmarks/test_ops.py -k "fused and $size" --benchmark-disable
}

for name in $always; do "$name"; done
# Without kernels, or what commands and tests import, nothing below would measure anything.
[ "$failed" -eq 0 ] && "$python" -c "import sys, fastadv.__main__, hypothesis, pytest_benchmark, xdist
sys.exit(fastadv.ops.MISSING['$device'])" || exit 1
for each in "${@:2}"; do
  for name in ${group[$each]}; do "$name"; done
done
exit "$failed"
