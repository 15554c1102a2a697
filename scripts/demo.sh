#!/usr/bin/env bash
# The demo: provisions the demo lab and runs a real job on it. `make demo` calls it after `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."
hyperscaler=.venv/bin/hyperscaler
began=$SECONDS

"$hyperscaler" provision config/demo.yaml --yes
echo
echo "A real Slurm job on both compute nodes (srun -N2 hostname):"
"$hyperscaler" ssh demo hpc-controller -- srun -N2 hostname
echo
echo "Another one that asks for a slice of the (simulated) GPU:"
"$hyperscaler" ssh demo hpc-controller -- \
  "srun --gres=gpu:1g.10gb:1 sh -c 'echo \$(hostname) was granted GPU \$CUDA_VISIBLE_DEVICES'"
echo
echo "The demo took $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s. What to try next:"
cat <<'NEXT'
  .venv/bin/hyperscaler status demo                  the nodes and Slurm
  .venv/bin/hyperscaler gpu plan config/demo.yaml    the board and its slices
  .venv/bin/hyperscaler ssh demo hpc-controller      a shell on the controller
  .venv/bin/hyperscaler plan config/demo.yaml        nothing to change; edit the file (count: 3) and look again
  .venv/bin/hyperscaler destroy demo                 takes everything away
NEXT
