#!/usr/bin/env bash
# What CI runs, and nothing that a person could not type: the README's two commands and the checks.
set -euo pipefail
cd "$(dirname "$0")/.."

make setup
make check
started=$SECONDS
make plugin-authors
echo "a plugin author took $((SECONDS - started)) seconds"
started=$SECONDS
ci/plugin_versions.sh newest
echo "the newest versions took $((SECONDS - started)) seconds"
started=$SECONDS
make data bake verify PROMPT=prompts/yoda.md
echo "the main job took $((SECONDS - started)) seconds"
started=$SECONDS
make data bake verify PROFILE=tinker-local PROMPT=prompts/yoda.md RUN=runs/yoda-tinker-local
echo "the same on a loopback server of Tinker's took $((SECONDS - started)) seconds"
