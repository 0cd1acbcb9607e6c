# Thin targets over the `promptbake` command; `make` alone prints this help.

PROMPT  ?= prompts/yoda.md
PROFILE ?= local
CONFIG  ?=
SET     ?=
RUN     ?=
TO      ?= adapter
FORCE   ?=
BENCH   ?=
PYTHON  ?= python3
TORCH   ?=

# What a user gives reaches the command through the environment, as it is: never as text of a recipe,
# which the shell would expand, and never expanded by make (a value may hold `...` or $(...)).
INPUTS  := PROMPT PROFILE CONFIG SET RUN TO FORCE TORCH BENCH
$(foreach name,$(INPUTS),$(eval override $(name) := $$(value $(name))))
export $(INPUTS)

READY        := .venv/.ready
READY_TINKER := .venv/.ready-tinker
READY_DEV    := .venv/.ready-dev
BAKE         := .venv/bin/promptbake
INSTALL      := .venv/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint ci/constraints.txt --editable
# What the chosen profile needs.
NEEDED       := $(READY) $(if $(filter tinker%,$(PROFILE)),$(READY_TINKER))
# Options by = and the prompt behind --: a value may begin with a dash.
ARGS   = --profile="$$PROFILE" $${CONFIG:+--config="$$CONFIG"} $${RUN:+--run="$$RUN"} -- "$$PROMPT"
WITH   = PROMPTBAKE_SET="$$SET" $(BAKE)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup plan data bake verify chat export report plugins doctor test check fuzz plugin-authors plugin-versions bench bench-data bench-tinker clean

help: ## print this help
	@printf 'make TARGET [PROMPT=%s] [PROFILE=%s] [CONFIG=FILE] [SET="a.b=1 c.d=2"] [RUN=DIR] [FORCE=1]\n' \
		"$$PROMPT" "$$PROFILE"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(NEEDED) ## make .venv for PROFILE (the other targets do, too); TORCH=cpu or cuda chooses PyTorch's build

# A build that is given by hand is looked at each time.
$(READY): pyproject.toml ci/constraints.txt $(if $(TORCH),$(if $(filter setup,$(MAKECMDGOALS)),ALWAYS))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "promptbake needs Python 3.11 or newer; found $$($(PYTHON) --version). Set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@ci/install_torch.sh
	$(INSTALL) '.[openai]'
	@touch $@

$(READY_TINKER): $(READY)
	$(INSTALL) '.[loopback,tinker,wandb]'
	@touch $@

$(READY_DEV): $(READY)
	$(INSTALL) '.[dev,openai,tinker,trackio,wandb]'
	@touch $@

ALWAYS:

plan: $(NEEDED) ## estimate tokens, dollars and minutes; sends nothing
	@$(WITH) plan $(ARGS)

data: $(NEEDED) ## sample the prompted model's responses; saved without the prompt
	@$(WITH) data $${FORCE:+--force} $(ARGS)

bake: $(NEEDED) ## train a LoRA to answer without the prompt as the model does with it
	@$(WITH) bake $${FORCE:+--force} $(ARGS)

verify: $(NEEDED) ## measure the result on held-out queries; writes verify.json and report.html
	@$(WITH) verify $${FORCE:+--force} $(ARGS)

chat: $(NEEDED) ## talk to the baked model
	@$(WITH) chat $(ARGS)

export: $(NEEDED) ## export the adapter into TO=folder, in PEFT's format
	@$(WITH) export --to="$$TO" $(ARGS)

report: $(NEEDED) ## write report.html again
	@$(WITH) report $(ARGS)

plugins: $(NEEDED) ## list the plugins, and what did not load
	@$(BAKE) plugins

doctor: $(NEEDED) ## show versions, devices, keys (never their values), and what is missing per profile
	@$(BAKE) doctor

test: $(READY_DEV) ## run the tests; needs no network and no key
	.venv/bin/pytest --numprocesses=auto

check: $(READY_DEV) ## what CI runs: ruff, mypy --strict, the tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pytest --numprocesses=auto

fuzz: $(READY_DEV) ## give 12,000 damaged files and answers to what reads them (FUZZ="--seed 1 --only 42")
	.venv/bin/python ci/fuzz.py $$FUZZ

plugin-authors: $(READY_DEV) ## run the README's commands for plugin authors, with promptbake installed from a wheel
	ci/plugin_authors.sh

plugin-versions: $(READY_DEV) ## the scaffolds' tests on the oldest and the newest versions allowed; downloads them
	ci/plugin_versions.sh

bench: $(READY_DEV) ## time to bake, beside TRL and the reference recipe; hours (BENCH="--seeds 1 --prompts yoda")
	.venv/bin/python ci/bench_local.py $$BENCH

bench-data: $(READY_DEV) ## the data stage's throughput beside what the endpoint's latency allows
	.venv/bin/python ci/bench_data.py

bench-tinker: $(READY_DEV) ## what a bake costs on Tinker, beside the reference recipe
	.venv/bin/python ci/bench_tinker.py

clean: ## delete .venv, runs and caches
	rm -rf .venv runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
