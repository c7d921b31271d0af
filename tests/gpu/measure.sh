#!/usr/bin/env bash
# Measures on one GPU (80 GB or more) what PERFORMANCE.md has no figures of yet, in 8 minutes:
#
#   tests/gpu/measure.sh OUT
#
# OUT/GPU.md is the table for PERFORMANCE.md. It is written after each part, the most wanted
# first, so that it is there whenever the time ends. Weights are random and made on the GPU,
# speech is noise: nothing is fetched or read.
#
# Packages: torch and those that the first lines below check. Wheels of what a machine lacks
# (pip download --no-deps; of an image for PyTorch msgspec, jiwer and rapidfuzz) are installed
# from WHEELS, a directory, into OUT.
# In the environment: PYTHON, SECONDS_IN_ALL, REPEATS, and for the rehearsal on a CPU
# (tests/bench/test_gpu_measure.py) ROWS, a YAML as conf/bench_8b.yaml, and DEVICE.
set -uo pipefail
[ $# = 1 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
mkdir -p "$1" || exit 1
out=$(cd "$1" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3} device=${DEVICE:-cuda}
rows=${ROWS:-$root/conf/bench_8b.yaml}
end=$((SECONDS + ${SECONDS_IN_ALL:-480}))
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if [ -d "${WHEELS:-}" ]; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$out/site" \
    "$WHEELS"/*.whl && export PYTHONPATH="$out/site:$PYTHONPATH"
fi
"$python" - "$device" <<'PY' || exit 1
import importlib.util
import sys

needed = "torch transformers tokenizers peft safetensors huggingface_hub msgspec numpy"
needed += " scipy yaml tqdm filelock jiwer rapidfuzz matplotlib"
lacking = [name for name in needed.split() if importlib.util.find_spec(name) is None]
if lacking:
    sys.exit(f"measure.sh: lacking {' '.join(lacking)}; give wheels of them (WHEELS)")
import torch

if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit("measure.sh: torch sees no GPU")
PY

part() {  # part NAME MOST OPTION...: a bench of at most so many seconds
  local name=$1 left=$((end - SECONDS)) rc=0
  [ "$left" -lt "$2" ] || left=$2
  shift 2
  [ "$left" -gt 5 ] || { echo "==== $name: no time left"; return; }
  echo "==== $name ($left s at most)"
  timeout "$left" "$python" -m espnet_llada.bin.bench "$rows" --model random --data noise \
    --device "$device" --output "$out/$name" --repeats "${REPEATS:-3}" "$@" >"$out/$name.log" 2>&1 || rc=$?
  [ "$rc" = 0 ] || { echo "==== $name: exit status $rc"; tail -n 5 "$out/$name.log"; }
  "$python" "$root/tests/gpu/table.py" "$out" >"$out/GPU.md"
}

# Nothing to compile: all durations and batches, prefix cached, block cache.
part plain 200 --durations "7.4 2 15 30" --batches "1 4" \
  --rows "!release !llama !llama_static !*_compile !*_int8 !diffusion_steps1 !diffusion_steps16"
part training 150 --durations "7.4 15" --training
# Each shape is compiled, which takes longest.
part compiled 480 --durations "7.4 30 2 15" --batches "1" \
  --rows "llama_compile diffusion_steps6_compile diffusion_steps6_blind_compile"
cat "$out/GPU.md"
[ -s "$out/GPU.md" ]
