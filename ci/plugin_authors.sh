#!/usr/bin/env bash
# What a plugin author does, by the documentation alone, with promptbake installed from a wheel: the
# commands of plugins/README.md, then a distribution of each kind as `new-plugin` writes it, which is
# installed, listed, tested, type-checked and used.
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

say "a distribution of each kind, installed and listed"
kinds="data-provider teacher loss backend evaluator tracker command"
for kind in $kinds; do
  promptbake new-plugin "my-$kind" --kind "$kind" > /dev/null
  pip install "./promptbake-my-$kind"
done
test "$(promptbake plugins | tee listed.txt | grep -c ' my_.* 0\.1\.0 ')" = "$(wc -w <<< "$kinds")"
grep ' my_' listed.txt

say "their tests, their types by mypy --strict, and a whole bake with a plugin of each kind, side by side"
pytest -q -c promptbake-my-loss/pyproject.toml --rootdir . promptbake-my-*/tests > tests.txt 2>&1 &
tests=$!
python -m mypy --strict --cache-dir "$PROMPTBAKE/.mypy_cache/plugin_authors" \
  promptbake-my-*/promptbake_*.py promptbake-my-*/tests > types.txt 2>&1 &
types=$!
echo "Answer like a pirate who has lost his map, his ship and his parrot." > pirate.md
cat > pirate.toml << END
data.provider = "my_data_provider"
teacher.source = "my_teacher"
train.backend = "my_backend"
train.loss = "my_loss"
train.trackers = ["jsonl", "my_tracker"]
verify.evaluators = ["my_evaluator"]
END
promptbake data pirate.md --profile mock
promptbake bake pirate.md --profile mock
promptbake verify pirate.md --profile mock
promptbake my_command pirate.md --profile mock --max-tokens 8 | grep -q .
grep -q '"my_evaluator"' runs/pirate/verify.json
test -s runs/pirate/my_tracker.csv
wait "$tests" || { cat tests.txt; exit 1; }
wait "$types" || { cat types.txt; exit 1; }
tail -qn1 tests.txt types.txt
say "done"
