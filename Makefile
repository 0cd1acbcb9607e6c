# Thin targets over the `promptbake` command; `make` alone prints this help.

PROMPT  ?= prompts/yoda.md
PROFILE ?= local
CONFIG  ?=
SET     ?=
RUN     ?=
TO      ?= adapter
FORCE   ?=
PYTHON  ?= python3

# What a user gives reaches the command through the environment, as it is: never as text of a recipe,
# which the shell would expand, and never expanded by make (a value may hold `...` or $(...)).
INPUTS  := PROMPT PROFILE CONFIG SET RUN TO FORCE
$(foreach name,$(INPUTS),$(eval override $(name) := $$(value $(name))))
export $(INPUTS)

READY := .venv/.ready
BAKE  := .venv/bin/promptbake
# Options by = and the prompt behind --: a value may begin with a dash.
ARGS   = --profile="$$PROFILE" $${CONFIG:+--config="$$CONFIG"} $${RUN:+--run="$$RUN"} -- "$$PROMPT"
WITH   = PROMPTBAKE_SET="$$SET" $(BAKE)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup plan data bake verify chat export report plugins doctor test check fuzz plugin-authors plugin-versions bench-data bench-tinker clean

help: ## print this help
	@printf 'make TARGET [PROMPT=%s] [PROFILE=%s] [CONFIG=FILE] [SET="a.b=1 c.d=2"] [RUN=DIR] [FORCE=1]\n' \
		"$$PROMPT" "$$PROFILE"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(READY) ## make .venv and install promptbake into it (the other targets do this, too)

$(READY): pyproject.toml ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "promptbake needs Python 3.11 or newer; found $$($(PYTHON) --version). Set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint ci/constraints.txt --editable '.[dev,openai,tinker,trackio,wandb]'
	@touch $@

plan: $(READY) ## estimate tokens, dollars and minutes; sends nothing
	@$(WITH) plan $(ARGS)

data: $(READY) ## sample the prompted model's responses; saved without the prompt
	@$(WITH) data $${FORCE:+--force} $(ARGS)

bake: $(READY) ## train a LoRA to answer without the prompt as the model does with it
	@$(WITH) bake $${FORCE:+--force} $(ARGS)

verify: $(READY) ## measure the result on held-out queries; writes verify.json and report.html
	@$(WITH) verify $${FORCE:+--force} $(ARGS)

chat: $(READY) ## talk to the baked model
	@$(WITH) chat $(ARGS)

export: $(READY) ## export the adapter into TO=folder, in PEFT's format
	@$(WITH) export --to="$$TO" $(ARGS)

report: $(READY) ## write report.html again
	@$(WITH) report $(ARGS)

plugins: $(READY) ## list the plugins, and what did not load
	@$(BAKE) plugins

doctor: $(READY) ## show versions, devices, keys (never their values), and what is missing per profile
	@$(BAKE) doctor

test: $(READY) ## run the tests; needs no network and no key
	.venv/bin/pytest --numprocesses=auto

check: $(READY) ## what CI runs: ruff, mypy --strict, the tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pytest --numprocesses=auto

fuzz: $(READY) ## give 12,000 damaged files and answers to what reads them (FUZZ="--seed 1 --only 42")
	.venv/bin/python ci/fuzz.py $$FUZZ

plugin-authors: $(READY) ## run the README's commands for plugin authors, with promptbake installed from a wheel
	ci/plugin_authors.sh

plugin-versions: $(READY) ## the scaffolds' tests on the oldest and the newest versions allowed; downloads them
	ci/plugin_versions.sh

bench-data: $(READY) ## the data stage's throughput beside what the endpoint's latency allows
	.venv/bin/python ci/bench_data.py

bench-tinker: $(READY) ## what a bake costs on Tinker, beside the reference recipe
	.venv/bin/python ci/bench_tinker.py

clean: ## delete .venv, runs and caches
	rm -rf .venv runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
