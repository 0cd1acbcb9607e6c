# Thin targets over the `promptbake` command; `make` alone prints this help.

PROMPT  ?= prompts/yoda.md
PROFILE ?= local
CONFIG  ?=
SET     ?=
RUN     ?=
TO      ?= adapter
PYTHON  ?= python3

READY := .venv/.ready
BAKE  := .venv/bin/promptbake
ARGS   = "$(PROMPT)" --profile "$(PROFILE)" $(if $(CONFIG),--config "$(CONFIG)") \
         $(foreach setting,$(SET),--set "$(setting)") $(if $(RUN),--run "$(RUN)")

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup plan data bake verify chat export report plugins doctor test check fuzz plugin-authors bench-data bench-tinker clean

help: ## print this help
	@echo "make TARGET [PROMPT=$(PROMPT)] [PROFILE=$(PROFILE)] [CONFIG=FILE] [SET=\"a.b=1 c.d=2\"] [RUN=DIR]"
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
	@$(BAKE) plan $(ARGS)

data: $(READY) ## sample the prompted model's responses; saved without the prompt
	@$(BAKE) data $(ARGS)

bake: $(READY) ## train a LoRA to answer without the prompt as the model does with it
	@$(BAKE) bake $(ARGS)

verify: $(READY) ## measure the result on held-out queries; writes verify.json and report.html
	@$(BAKE) verify $(ARGS)

chat: $(READY) ## talk to the baked model
	@$(BAKE) chat $(ARGS)

export: $(READY) ## export the adapter into TO=folder, in PEFT's format
	@$(BAKE) export $(ARGS) --to "$(TO)"

report: $(READY) ## write report.html again
	@$(BAKE) report $(ARGS)

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

bench-data: $(READY) ## the data stage's throughput beside what the endpoint's latency allows
	.venv/bin/python ci/bench_data.py

bench-tinker: $(READY) ## what a bake costs on Tinker, beside the reference recipe
	.venv/bin/python ci/bench_tinker.py

clean: ## delete .venv, runs and caches
	rm -rf .venv runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
