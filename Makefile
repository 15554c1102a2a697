# The two commands to know: `make demo` and `make test`.
VENV := .venv/bin

.PHONY: help demo setup setup-dev test lint types unit test-libvirt test-isolation test-host e2e e2e-demo e2e-slurm e2e-system e2e-kubernetes e2e-kubernetes-short e2e-killed e2e-thorough e2e-packer fuzz stress bench destroy-demo clean

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
	@echo "test: pytest" && $(VENV)/pytest -q -n 2 --dist worksteal -m "not e2e and not hardware and not host"

test-host: setup-dev ## tests on a real private libvirtd and QEMU (root, some minutes)
	@$(VENV)/pytest -v -m host tests

test-libvirt: setup-dev ## those of test-host that boot no golden image: libvirtd, packet filter, locks, crashes (five minutes)
	@$(VENV)/pytest -v -m host tests/contract tests/host/test_concurrency.py tests/host/test_crash_sweep.py \
	  tests/host/test_embedded_lifecycle.py tests/host/test_node_firewall.py

test-isolation: setup-dev ## that of test-host which sends packets between the guests of both clusters (five minutes)
	@$(VENV)/pytest -v -m host tests/host/test_isolation.py tests/host/test_isolation_ipv6.py

e2e: e2e-demo e2e-slurm e2e-system e2e-killed e2e-kubernetes ## all labs on real VMs, one after the other

e2e-demo: setup-dev ## `make demo` from nothing to nothing (ten minutes without KVM, with the images built)
	@$(VENV)/pytest -v -m "e2e and not thorough" tests/e2e/test_demo.py

e2e-slurm: setup-dev ## the Slurm lab (a quarter of an hour without KVM)
	@$(VENV)/pytest -v -m "e2e and not thorough" tests/e2e/test_slurm_lab.py

e2e-system: setup-dev ## a lab on a libvirt as a distribution starts it, in namespaces of its own (four minutes without KVM)
	@$(VENV)/pytest -v -m "e2e and not thorough" tests/e2e/test_system_libvirt.py

e2e-killed: setup-dev ## a lab whose command is killed at every stage (five minutes without KVM)
	@$(VENV)/pytest -v -m "e2e and not thorough" tests/e2e/test_killed_lab.py

e2e-kubernetes: setup-dev ## the Kubernetes lab (an hour without KVM, and Kubernetes' build once)
	@$(VENV)/pytest -v -m "e2e and not thorough" tests/e2e/test_kubernetes_lab.py

e2e-kubernetes-short: setup-dev ## the same without scaling, reboots, rotation and a half-finished join
	@$(VENV)/pytest -v -m "e2e and not thorough and not long" tests/e2e/test_kubernetes_lab.py

e2e-thorough: setup-dev ## the killed and the Kubernetes lab with their long variants (an hour without KVM; not part of `make e2e`)
	@THOROUGH=1 $(VENV)/pytest -v -m e2e tests/e2e/test_killed_lab.py tests/e2e/test_kubernetes_lab.py

e2e-packer: setup-dev ## an image through Packer and a lab on it (ten minutes without KVM; not part of `make e2e`)
	@$(VENV)/pytest -v -s -m e2e tests/e2e/test_packer_image.py

fuzz: setup-dev ## the random tests with many new examples (FUZZ_FACTOR=30 times those of `make test`)
	@FUZZ_FACTOR=$${FUZZ_FACTOR:-30} $(VENV)/pytest -q -n 2 tests/fuzz tests/property tests/crash

stress: setup-dev ## 200 small labs made and taken away on a real libvirtd; prints what leaks (half an hour; CYCLES=5: a minute)
	@$(VENV)/python benchmarks/stress.py --cycles $${CYCLES:-200}

bench: setup-dev ## the figures, as ratios
	@failed=0; for file in benchmarks/bench_*.py; do echo "== $$file"; $(VENV)/python $$file || failed=1; done; exit $$failed

destroy-demo: ## take the demo lab away
	@$(VENV)/hyperscaler destroy demo --yes

clean: ## remove what setup and the tests left in the checkout
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
