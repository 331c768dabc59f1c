#!/usr/bin/env bash
# All that is to be measured on one CUDA device, in under 9 minutes: see benchmarks/README.md.
#
#     bash benchmarks/gpu.sh OUT [WHEELS [--dry]]
#
# WHEELS is a folder of what this environment lacks: it is put beside it for this run alone, and
# what is installed stays as it is. PYTHON names another interpreter than python3.
set -euo pipefail
out=$(realpath -m "${1:?usage: bash benchmarks/gpu.sh OUT [WHEELS [--dry]]}")
wheels=${2:+$(realpath "$2")}
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

if [ -n "$wheels" ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install -q --no-index --find-links "$wheels" --no-deps --no-compile --no-cache-dir --target "$site" "$wheels"/*.whl
  PYTHONPATH="$PYTHONPATH:$site"
fi
"$python" -m benchmarks.gpu "$out" "${@:3}"
