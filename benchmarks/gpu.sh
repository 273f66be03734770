#!/usr/bin/env bash
# Brings what ecgexp and its benchmarks need to a machine without network that has Python 3.12 with PyTorch, Lightning
# and JAX for its GPU, and runs a command there:
#
#   benchmarks/gpu.sh collect .wheels                                        # where there is a network; about 40 MB
#   benchmarks/gpu.sh run .wheels python3 -m benchmarks.gpu train            # on the machine, in a copy of this folder
#
# Nothing of the machine's Python is changed: the packages go to a folder of their own, below TMPDIR.
set -euo pipefail
cd "$(dirname "$0")/.."

MISSING="alembic annotated-types blinker cachetools cffi cryptography databricks-sdk docker fastapi flask flask-cors
  gitdb gitpython google-auth graphene graphql-core graphql-relay gunicorn huey hydra-core hydra-joblib-launcher
  importlib-metadata itsdangerous keras mako mlflow mlflow-skinny mlflow-tracing namex omegaconf opentelemetry-api
  opentelemetry-proto opentelemetry-sdk opentelemetry-semantic-conventions optree prettytable pyasn1 pyasn1-modules
  pycparser pydantic pydantic-core python-dotenv skops smmap soundfile sqlalchemy sqlparse starlette typing-inspection
  uvicorn wcwidth wfdb"

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

run() {
  local wheels="$1" site="${TMPDIR:-/tmp}/ecgexp-site"
  shift
  [[ -d $site ]] || python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
  PYTHONPATH="$PWD/src:$site" "$@"
}

case "${1:-}" in
collect | run) "$@" ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
