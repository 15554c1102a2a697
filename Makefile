# The two commands to know: `make demo` and `make test`.
VENV := .venv/bin

.PHONY: help demo setup setup-dev test lint types unit test-host e2e e2e-kubernetes bench destroy-demo clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## set up, build the image, provision the demo lab, run a real job on it
	@scripts/demo.sh

setup: ## install Debian and Python packages (names them first)
	@scripts/setup.sh

setup-dev: ## the same, with what the tests need
	@scripts/setup.sh '[dev]'

test: setup-dev lint types unit ## linters, types, all tests that need no hypervisor

lint:
	@echo "test: ruff" && $(VENV)/ruff check . && $(VENV)/ruff format --check --quiet .

types:
	@echo "test: mypy --strict" && $(VENV)/mypy

unit:
	@echo "test: pytest" && $(VENV)/pytest -q -n 2 --dist loadfile -m "not e2e and not hardware and not host"

test-host: setup-dev ## tests on a real private libvirtd and QEMU (root, some minutes)
	@$(VENV)/pytest -v -m host tests

e2e: setup-dev ## the Slurm lab on real VMs, from nothing to nothing (ten minutes without KVM)
	@$(VENV)/pytest -v -m e2e tests/e2e/test_slurm_lab.py

e2e-kubernetes: setup-dev ## the Kubernetes lab on real VMs (half an hour without KVM, Kubernetes' build included)
	@$(VENV)/pytest -v -m e2e tests/e2e/test_kubernetes_lab.py

bench: setup-dev ## the figures, as ratios
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(VENV)/python $$file; done

destroy-demo: ## take the demo lab away
	@$(VENV)/hyperscaler destroy demo --yes

clean: ## remove what setup and the tests left in the checkout
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
