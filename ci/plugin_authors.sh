#!/usr/bin/env bash
# What a plugin's author does, in a new environment and by the documentation alone; then a
# stranger's distribution with a plugin of each kind: installed, listed, tested, type-checked, used.
set -euo pipefail
PROMPTBAKE=$(cd "$(dirname "$0")/.." && pwd)
export PROMPTBAKE PIP_CONSTRAINT=$PROMPTBAKE/ci/constraints.txt PIP_QUIET=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_WAIT_POLICY=PASSIVE COLUMNS=120

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

say() { printf '\n== %s (%s seconds so far)\n' "$1" "$SECONDS"; }

say "the commands of plugins/README.md"
sed -n '/^## In five minutes/,/^## What/s/^    //p' "$PROMPTBAKE/plugins/README.md" > commands.sh
grep -q new-plugin commands.sh
bash -euxo pipefail commands.sh

say "a stranger's distribution, installed"
. venv/bin/activate
cp -r "$PROMPTBAKE/tests/third_party" parrot
pip install ./parrot mypy
promptbake plugins > listed.txt
test "$(grep -c ' parrot  *parrot  *1\.2\.3 ' listed.txt)" = 6
grep ' parrot ' listed.txt
rm -rf parrot/promptbake_parrot.was && mv parrot/promptbake_parrot parrot/promptbake_parrot.was
(cd parrot && pytest -q)

say "its types, by mypy --strict against promptbake's"
mv parrot/promptbake_parrot.was parrot/promptbake_parrot
(cd parrot && mypy)

say "a whole bake with a plugin of each kind"
echo "Answer like a pirate who has lost his map, his ship and his parrot." > parrot.md
cat > parrot.toml <<'TOML'
data.provider = "parrot"
teacher.source = "parrot"
train.loss = "parrot"
train.backend = "parrot"
train.trackers = ["jsonl", "parrot"]
verify.evaluators = ["parrot"]
TOML
promptbake doctor --profile mock | grep parrot
promptbake data parrot.md --profile mock
promptbake bake parrot.md --profile mock
promptbake verify parrot.md --profile mock
grep -q '"repetition"' runs/parrot/verify.json
test -s runs/parrot/parrot.sqlite
say "done"
