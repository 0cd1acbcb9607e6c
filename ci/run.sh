#!/usr/bin/env bash
# What CI runs, and nothing that a person could not type: the README's two commands and the checks.
set -euo pipefail
cd "$(dirname "$0")/.."

make setup
make check
started=$SECONDS
make data bake verify PROMPT=prompts/yoda.md
echo "the main job took $((SECONDS - started)) seconds"
