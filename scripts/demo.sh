#!/usr/bin/env bash
# The demo: provisions the demo lab, runs real jobs on Slurm and a real pod on Kubernetes. `make demo` calls it after
# `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."
hyperscaler=.venv/bin/hyperscaler
began=$SECONDS

slurm() { "$hyperscaler" ssh demo hpc-controller -- "$@"; }
kubectl() { "$hyperscaler" ssh demo cloud-control-plane -- kubectl "$@"; }
# The same again while it fails, up to five times: an API server that has just come up on a busy host answers late.
again() {
  local try
  for try in 1 2 3 4; do
    "$@" && return
    echo "demo: once more ($try), the API server may have been too busy" >&2
    sleep "${DEMO_PAUSE:-10}"
  done
  "$@"
}
gpu_pod() { kubectl apply --validate=false -f - <config/examples/gpu-pod.yaml; }

cat <<'FIRST'
demo: provisioning the lab of config/demo.yaml: five virtual machines, a Slurm
demo: and a Kubernetes cluster, one simulated GPU. Golden images come first if
demo: this host has none yet (11 to 17 minutes, most of them for compiling
demo: Kubernetes). Then it takes about six minutes without KVM, fewer with it,
demo: and several times as long on a host with other work: nothing is given up
demo: while it makes progress. Each step is shown as it goes. Ctrl-C is safe at
demo: any time, and `make demo` goes on from there.
FIRST
"$hyperscaler" provision config/demo.yaml --yes
provisioned=$((SECONDS - began))
echo
echo "A real Slurm job on both compute nodes (srun -N2 hostname):"
slurm srun -N2 hostname </dev/null
echo
echo "Another one that asks for a slice of the (simulated) GPU (srun --gres=gpu:1g.10gb:1):"
slurm "srun --gres=gpu:1g.10gb:1 sh -c 'echo \$(hostname) was granted GPU \$CUDA_VISIBLE_DEVICES'" </dev/null
echo
echo "A real Kubernetes pod that asks for another slice of the same GPU (config/examples/gpu-pod.yaml):"
again kubectl delete pod gpu-pod --ignore-not-found --wait </dev/null
again gpu_pod
# Usually some seconds; on a busy host it may take minutes. It is given up when its state has not changed for five.
phase= state= moved=$SECONDS said=$SECONDS
while :; do
  # No blanks: ssh hands the words to the node's shell, which would take them apart there.
  now=$(kubectl get pod gpu-pod -o "jsonpath={.status.phase}:{.status.conditions[*].status}:{.status.containerStatuses[*].state}" </dev/null || true)
  phase=${now%%:*}
  case $phase in Succeeded | Failed) break ;; esac
  if [ "$now" != "$state" ]; then state=$now moved=$SECONDS; fi
  if [ $((SECONDS - moved)) -ge 300 ]; then break; fi
  if [ $((SECONDS - said)) -ge 20 ]; then
    echo "demo: the pod is ${phase:-not known yet}, $((SECONDS - moved)) s without a change"
    said=$SECONDS
  fi
  sleep 2
done
again kubectl logs gpu-pod </dev/null
if [ "$phase" != Succeeded ]; then
  echo "the pod did not end well: it is ${phase:-not known}. See: kubectl describe pod gpu-pod" >&2
  exit 1
fi
echo
echo "The demo took $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s, of which $((provisioned / 60)) min" \
  "$((provisioned % 60)) s until"
echo "both clusters were verified. What to try next:"
cat <<'NEXT'
  .venv/bin/hyperscaler status demo                the nodes and both clusters
  .venv/bin/hyperscaler gpu plan config/demo.yaml  the GPU and its slices
  .venv/bin/hyperscaler ssh demo hpc-controller    a shell on Slurm's controller
  .venv/bin/hyperscaler ssh demo cloud-control-plane -- kubectl get nodes
  .venv/bin/hyperscaler plan config/demo.yaml      nothing to change; edit the
                                                   file (count: 3), look again
  .venv/bin/hyperscaler access add demo ada        an account for a student
  .venv/bin/hyperscaler destroy demo               takes everything away
NEXT
