#!/usr/bin/env bash
# The tests that `new-plugin` writes, as they are, on the oldest and the newest versions of the
# dependencies that pyproject.toml allows: `plugin_versions.sh [oldest|newest]`, both without an
# argument. Downloads them; torch alone is borrowed from .venv.
set -euo pipefail
PROMPTBAKE=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=$(cd "$PROMPTBAKE" && realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1 OMP_NUM_THREADS=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

"$PYTHON" -m pip wheel --no-deps --no-build-isolation --wheel-dir . "$PROMPTBAKE"
borrowed=$("$PYTHON" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])')
torch=$("$PYTHON" -c 'import torch; print(torch.__version__)')
echo "torch==$torch" > torch.txt
cp "$PROMPTBAKE/ci/oldest.txt" oldest.txt
: > newest.txt

run() { # oldest|newest
  "$PYTHON" -m venv --without-pip "$1"
  ln -s "$borrowed"/torch "$borrowed"/torch-* "$borrowed"/torchgen "$1"/lib/python*/site-packages
  "$PYTHON" -m pip --python "$1/bin/python" install --constraint torch.txt --constraint "$1.txt" \
    "$(echo ./promptbake-*.whl)[testing]"
  mkdir "$1/plugins"
  for kind in data-provider teacher loss backend evaluator tracker command; do
    "$1/bin/promptbake" new-plugin "my-$kind" --kind "$kind" --to "$1/plugins" > /dev/null
    "$PYTHON" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$1/wheels" \
      "./$1/plugins/promptbake-my-$kind"
  done
  "$PYTHON" -m pip --python "$1/bin/python" install --no-deps "$1"/wheels/*.whl
  "$1/bin/python" -c 'from importlib.metadata import version as v; print(*(
    f"{name} {v(name)}" for name in ("transformers", "peft", "pydantic", "typer", "pytest")), sep=", ")'
  PATH="$folder/$1/bin:$PATH" "$1/bin/python" -m pytest -q -p no:cacheprovider \
    -c "$1/plugins/promptbake-my-loss/pyproject.toml" --rootdir "$1/plugins" \
    "$1"/plugins/*/tests
}

names=${*:-oldest newest}
processes=()
for name in $names; do
  run "$name" > "$name.log" 2>&1 &
  processes+=($!)
done
status=0
for process in "${processes[@]}"; do wait "$process" || status=1; done
for name in $names; do
  echo "== $name: $(grep '^transformers ' "$name.log"): $(tail -n 1 "$name.log")"
  test "$status" = 0 || cat "$name.log"
done
exit "$status"
