# The two commands to know: `make demo` and `make test`.
VENV := .venv/bin

.PHONY: help demo setup setup-dev check test lint types quick unit coverage lock kubernetes-modules hooks wheel test-libvirt test-isolation test-host e2e e2e-demo e2e-slurm e2e-system e2e-kubernetes e2e-kubernetes-short e2e-killed e2e-upgrade e2e-thorough e2e-packer fuzz stress bench destroy-demo clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-20s", $$1; n = 27; words = split($$2, word, " "); \
	  for (i = 1; i <= words; i++) { if (n + 1 + length(word[i]) > 80) { printf "\n%27s", ""; n = 27 } \
	    printf " %s", word[i]; n += 1 + length(word[i]) } print "" }' $(MAKEFILE_LIST)

demo: setup ## set up, build the images, provision the demo lab, run a real job on it
	@scripts/demo.sh

setup: ## install Debian and Python packages (names them first)
	@scripts/setup.sh

setup-dev: ## the same, with what the tests need
	@scripts/setup.sh dev

check: setup-dev lint types quick ## the loop while you work: linters, types, the quick tests (a minute on two quiet cores)

test: setup-dev lint types unit ## linters, types, all tests that need no hypervisor

lint: ## ruff; `make lint FIX=1` repairs what it can and formats
	@echo "test: ruff"
	@$(VENV)/ruff check $(if $(FIX),--fix) . && $(VENV)/ruff format $(if $(FIX),,--check) --quiet .

types: ## mypy --strict
	@echo "test: mypy --strict" && $(VENV)/mypy

PYTEST := $(VENV)/pytest -q -n 2 --dist worksteal
NO_HYPERVISOR := not e2e and not hardware and not host

# What the loop leaves to `make test`: the ten slowest, which take two thirds of the time of tests/unit.
SLOW := apply/test_executor_rollback.py apply/handlers/gpu/test_vgpu_slice.py cli/commands/host gpu/placement/test_solver.py \
  guests/configure/test_playbook.py images lab/planning/test_gpu_placement_claims.py operations/host \
  operations/test_provision_refusals.py playbooks/test_node_state.py
QUICK := tests/architecture tests/packaging/test_constraints.py tests/unit $(SLOW:%=--ignore=tests/unit/%)

quick:
	@echo "test: pytest, the quick ones" && $(PYTEST) -m "$(NO_HYPERVISOR)" $(QUICK) $(ARGS)

unit: ## tests that need no hypervisor; some: make unit ARGS='-k name', ARGS=tests/unit/gpu
	@echo "test: pytest" && $(PYTEST) -m "$(NO_HYPERVISOR)" $(ARGS)

coverage: setup-dev ## the same with a report of the lines that no test runs (htmlcov/); never a condition
	@$(PYTEST) -m "$(NO_HYPERVISOR)" --cov --cov-report=term --cov-report=html $(ARGS)

lock: ## pin the newest Python packages that fit, with checksums (constraints/); ARGS=--upgrade renews all
	@scripts/lock.sh $(ARGS)

kubernetes-modules: setup-dev ## pin the Go modules of a Kubernetes minor version: MINOR=1.37, and ARGS=kubernetes=1.37.3 for one alone
	@PYTHONPATH=. $(VENV)/python scripts/update-kubernetes-modules.py $(MINOR) $(ARGS)

hooks: setup-dev ## have git run ruff and mypy before each commit (.pre-commit-config.yaml)
	@$(VENV)/pre-commit install

wheel: setup-dev ## build dist/hyperscaler-VERSION-py3-none-any.whl
	@$(VENV)/python -m pip --disable-pip-version-check --quiet wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . && ls dist/*.whl

test-host: setup-dev ## tests on a real private libvirtd and QEMU (root, some minutes)
	@$(VENV)/pytest -v -m host tests

test-libvirt: setup-dev ## the tests of test-host that boot no golden image: libvirtd, packet filter, locks, crashes (five minutes)
	@$(VENV)/pytest -v -m host tests/contract tests/host/test_concurrency.py tests/host/test_crash_sweep.py \
	  tests/host/test_embedded_lifecycle.py tests/host/test_guest_accounts.py tests/host/test_node_firewall.py

test-isolation: setup-dev ## the test of test-host that sends packets between the guests of both clusters (five minutes)
	@$(VENV)/pytest -v -m host tests/host/test_isolation.py tests/host/test_isolation_ipv6.py

e2e: e2e-demo e2e-slurm e2e-system e2e-killed e2e-kubernetes ## all labs on real VMs, one after the other

e2e-demo: setup-dev ## `make demo` from nothing to nothing (ten minutes without KVM, with the images built)
	@$(VENV)/pytest -v -m "e2e and not thorough" tests/e2e/test_demo.py

e2e-slurm: setup-dev ## the Slurm lab (a quarter of an hour without KVM); RELEASE=trixie: with guests of that Debian release
	@$(VENV)/pytest -v -m "e2e and not thorough" tests/e2e/test_slurm_lab.py

e2e-system: setup-dev ## a lab on a libvirt as a distribution starts it, in namespaces of its own (four minutes without KVM)
	@$(VENV)/pytest -v -m "e2e and not thorough" tests/e2e/test_system_libvirt.py

e2e-killed: setup-dev ## a lab whose command is killed at every stage (five minutes without KVM)
	@$(VENV)/pytest -v -m "e2e and not thorough" tests/e2e/test_killed_lab.py

e2e-kubernetes: setup-dev ## the Kubernetes lab (an hour without KVM, and Kubernetes' build once)
	@$(VENV)/pytest -v -m "e2e and not thorough" tests/e2e/test_kubernetes_lab.py

e2e-kubernetes-short: setup-dev ## the same without scaling, reboots, rotation and a half-finished join
	@$(VENV)/pytest -v -m "e2e and not thorough and not long" tests/e2e/test_kubernetes_lab.py

e2e-upgrade: setup-dev ## a lab of Kubernetes 1.36 that is upgraded to 1.37 (an hour without KVM, and both builds once; not part of `make e2e`)
	@$(VENV)/pytest -v -m e2e tests/e2e/test_upgrade.py

e2e-thorough: setup-dev ## all labs' long variants, the exercises on Slurm among them (over an hour without KVM; not part of `make e2e`)
	@THOROUGH=1 $(VENV)/pytest -v -m e2e tests/e2e/test_slurm_lab.py tests/e2e/test_killed_lab.py \
	  tests/e2e/test_kubernetes_lab.py

e2e-packer: setup-dev ## an image through Packer and a lab on it (ten minutes without KVM; not part of `make e2e`)
	@$(VENV)/pytest -v -s -m e2e tests/e2e/test_packer_image.py

fuzz: setup-dev ## the random tests with many new examples (FUZZ_FACTOR=30 times those of `make test`)
	@FUZZ_FACTOR=$${FUZZ_FACTOR:-30} $(VENV)/pytest -q -n 2 tests/fuzz tests/property tests/crash

stress: setup-dev ## create and remove 200 small labs on a real libvirtd; prints what leaks (half an hour; CYCLES=5: a minute)
	@$(VENV)/python benchmarks/stress.py --cycles $${CYCLES:-200}

bench: setup-dev ## measurements, as ratios
	@failed=0; for file in benchmarks/bench_*.py; do echo "== $$file"; $(VENV)/python $$file || failed=1; done; exit $$failed

destroy-demo: ## remove the demo lab
	@$(VENV)/hyperscaler destroy demo --yes

clean: ## remove what setup and the tests left in the checkout
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov build dist *.egg-info emulator/core/_version.py
