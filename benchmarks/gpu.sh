#!/usr/bin/env bash
# Brings what ecgexp and its benchmarks need to a machine without network that has Python 3.12 with PyTorch, Lightning
# and JAX for its GPU, and takes all figures of the GPU there, in steps of less than ten minutes:
#
#   benchmarks/gpu.sh collect .wheels           # where there is a network; about 40 MB
#   benchmarks/gpu.sh steps                     # lists the steps, what is to be known first at the beginning
#   benchmarks/gpu.sh step .wheels 1 RESULTS    # on the machine, in a copy of this folder: the first of them
#   benchmarks/gpu.sh run .wheels COMMAND       # there too: any command
#
# The figures of a step are copied to the folder RESULTS, also where its time was over. Put them into
# benchmarks/results before the next one: `project` computes from them. Nothing of the machine's Python is changed:
# the packages go to a folder of their own, below TMPDIR.
set -euo pipefail
cd "$(dirname "$0")/.."

MISSING="alembic annotated-types blinker cachetools cffi colorlog cryptography databricks-sdk docker fastapi flask
  flask-cors gitdb gitpython google-auth graphene graphql-core graphql-relay gunicorn huey hydra-core
  hydra-joblib-launcher importlib-metadata itsdangerous keras mako mlflow mlflow-skinny mlflow-tracing namex
  omegaconf opentelemetry-api opentelemetry-proto opentelemetry-sdk opentelemetry-semantic-conventions optree optuna
  prettytable pyasn1 pyasn1-modules pycparser pydantic pydantic-core python-dotenv skops smmap soundfile sqlalchemy
  sqlparse starlette typing-inspection uvicorn wcwidth wfdb"

STEPS=(
  "train --nets ribeiro --precisions bf16 --batch-sizes 16 256"
  "train --nets rajpurkar --precisions bf16 --batch-sizes 16 256"
  "trials --nets ribeiro --at-once 1 4"
  "trials --nets rajpurkar --at-once 1 4"
  "project"
  "train --nets ribeiro rajpurkar --precisions bf16 --batch-sizes 64"
  "train --nets ribeiro --precisions fp32"
  "train --nets rajpurkar --precisions fp32"
  "trials --nets ribeiro --at-once 2"
  "trials --nets rajpurkar --at-once 2"
  "project"
)

collect() {
  local platforms=() n
  for n in 34 31 28 27 24 17 5; do platforms+=(--platform "manylinux_2_${n}_x86_64"); done
  platforms+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)
  # the one package that has no wheel
  python3 -m pip wheel --quiet --no-deps --constraint constraints.txt --wheel-dir "$1" antlr4-python3-runtime
  # shellcheck disable=SC2086
  python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --constraint constraints.txt --dest "$1" $MISSING
}

install() {
  local needed='import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, sys.argv[1:])))'
  python3 -c "$needed" torch pytorch_lightning jax || fail "python3 needs PyTorch, Lightning and JAX for the GPU."
  compgen -G "$1/*.whl" >/dev/null || fail "There are no wheels in $1: benchmarks/gpu.sh collect $1, with a network."
  python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$2" "$1"/*.whl ||
    { rm -rf "$2"; fail "The wheels in $1 could not be installed."; }
}

fail() {
  echo "$1" >&2
  exit 2
}

run() {
  local wheels="$1" site="${TMPDIR:-/tmp}/ecgexp-site"
  shift
  [[ -d $site ]] || install "$wheels" "$site"
  PYTHONPATH="$PWD/src:$site" "$@"
}

steps() {
  local n
  for n in "${!STEPS[@]}"; do echo "$((n + 1)) ${STEPS[n]}"; done
}

step() {
  local status=0
  run "$1" true # installs, which takes of the ten minutes
  # shellcheck disable=SC2086
  run "$1" timeout $((580 - SECONDS)) python3 -m benchmarks.gpu ${STEPS[$2 - 1]} || status=$?
  mkdir -p "$3" && cp benchmarks/results/*.json "$3"
  return "$status"
}

are_right() {
  case "${1:-}" in
  collect) [[ $# == 2 ]] ;;
  run) [[ $# -ge 3 ]] ;;
  step) [[ $# == 4 && $3 =~ ^[1-9][0-9]?$ && $3 -le ${#STEPS[@]} ]] ;;
  steps) [[ $# == 1 ]] ;;
  *) false ;;
  esac
}

are_right "$@" || fail "$(sed -n '2,13s/^# \{0,1\}//p' "$0")"
"$@"
