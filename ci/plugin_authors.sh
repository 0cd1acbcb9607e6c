#!/usr/bin/env bash
# What a plugin author does, by the documentation alone, with promptbake installed from a wheel: the
# commands of plugins/README.md, then a third-party distribution with a plugin of each kind, which
# is installed, listed, tested, type-checked and used.
#
# Dependencies are borrowed from the environment of $PYTHON, so that nothing is downloaded.
set -euo pipefail
PROMPTBAKE=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=$(cd "$PROMPTBAKE" && realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
export PROMPTBAKE PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1 COLUMNS=120
export OMP_NUM_THREADS=1 # the processes run side by side

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

say() { printf '\n== %s (%s seconds so far)\n' "$1" "$SECONDS"; }

# The README's commands call these in place of the programs.
python3() { # -m venv DIR: an environment that finds $PYTHON's packages, but not its promptbake
  "$PYTHON" -m venv --without-pip "$3"
  "$PYTHON" -c 'import site; print(*site.getsitepackages(), sep="\n")' \
    > "$(echo "$3"/lib/python*/site-packages)/borrowed.pth"
}
pip() { "$PYTHON" -m pip --python "$VIRTUAL_ENV/bin/python" "$@" --no-deps --no-build-isolation; }
pytest() { python -m pytest "$@"; }

say "the commands of plugins/README.md"
sed -n '/^## In five minutes/,/^## What/s/^    //p' "$PROMPTBAKE/plugins/README.md" > commands.sh
grep -q new-plugin commands.sh
set -x
. ./commands.sh
{ set +x; } 2> /dev/null
cd "$folder"

say "the wheel has every file of the packages"
site=$(echo venv/lib/python*/site-packages)
python -c "import promptbake; assert '/venv/lib/' in promptbake.__file__, promptbake.__file__"
for root in core plugins; do
  (cd "$PROMPTBAKE/$root" && git ls-files 'promptbake*') | while read -r file; do
    test -e "$site/$file" || { echo "the wheel lacks $root/$file" >&2; exit 1; }
  done
done

say "a third-party distribution, installed, without its sources beside it"
cp -r "$PROMPTBAKE/tests/third_party" example
pip install ./example
mv example/promptbake_example sources
test "$(promptbake plugins | tee listed.txt | grep -c ' example  *example  *1\.2\.3 ')" = 8
grep ' example ' listed.txt

say "its tests, its types by mypy --strict, and a whole bake with a plugin of each kind, side by side"
(cd example && pytest -q) > tests.txt 2>&1 &
tests=$!
(
  mkdir typed
  cp -r example/pyproject.toml example/tests sources typed
  cd typed
  mv sources promptbake_example
  python -m mypy --cache-dir "$PROMPTBAKE/.mypy_cache/plugin_authors"
) > types.txt 2>&1 &
types=$!
echo "Answer like a pirate who has lost his map, his ship and his parrot." > pirate.md
promptbake data pirate.md --profile example
promptbake bake pirate.md --profile example
promptbake verify pirate.md --profile example
promptbake example pirate.md --profile example | grep -q '^held_out: '
grep -q '"repetition"' runs/pirate/verify.json
test -s runs/pirate/example.sqlite
wait "$tests" || { cat tests.txt; exit 1; }
wait "$types" || { cat types.txt; exit 1; }
tail -qn1 tests.txt types.txt
say "done"
