"""Probes a Kubernetes cluster through a shell on its control plane; `kubernetes_verdicts` judges the answers.

All questions go to the real API server with kubectl. The probe pods have a namespace of their own, which is deleted at
the end in any case.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping

from emulator.core.errors import HyperscalerError, VerifyError
from emulator.core.pool import threads
from emulator.core.ports import GuestAddress, GuestShell
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Clock, Look, Watch, wait_until
from emulator.guests.inventory.model import NodeGpu
from emulator.guests.verify import kubernetes_verdicts as judge
from emulator.guests.verify.helm_check import helm_check, helm_script
from emulator.guests.verify.kubernetes_addons import apply_own, metrics_check, policy_check
from emulator.guests.verify.kubernetes_ingress import ingress_check
from emulator.guests.verify.report import SUMMARY_SECONDS, CheckResult, Verdict, VerifyReport, after_waiting, check_from
from emulator.kubernetes.config.kubectl import ADMIN_CONF, KUBECTL
from emulator.kubernetes.config.resources import MigStrategy, node_resources
from emulator.labfile.model import ClusterKind, ClusterSpec, Role

NAMESPACE = "hyperscaler-verify"
SERVICE = f"probe.{NAMESPACE}.svc.cluster.local"
PORT = 8080
POLL_SECONDS = 2.0
_RELEASE = "/usr/lib/hyperscaler/kubernetes.json"
# Namespaces with pods of kubeadm and the add-ons only.
SYSTEM_NAMESPACES = ("kube-system", "kube-flannel", "traefik", "lab-ingress", "ingress-nginx", "local-path-storage")
_SYSTEM_PODS = ("etcd-", "kube-apiserver-", "kube-controller-manager-", "kube-scheduler-", "kube-proxy-")
# Seconds and least tries for one page.
_PAGE_SECONDS = 20
_PAGE_TRIES = 3
# Starting kubectl takes seconds on an emulated CPU, so one answer serves all checks of the cluster.
_LISTING = "get nodes,namespaces,pods,deployments,daemonsets --all-namespaces -o json"

Question = Callable[[judge.ClusterState], Verdict]


def verify_kubernetes(
    spec: ClusterSpec,
    shell: GuestShell,
    addresses: Mapping[str, GuestAddress],
    gpus: Mapping[str, tuple[NodeGpu, ...]] | None = None,
    *,
    clock: Clock | None = None,
    pace: Pace | None = None,
    on_check: Callable[[CheckResult], None] | None = None,
) -> VerifyReport:
    """Whether the lab's Kubernetes cluster works: nodes, system pods, a pod on each node, pod network, DNS, GPUs.

    Args:
        spec: the lab; each wait has `timeouts.verify`, and longer while there is progress.
        shell: runs commands in the guests.
        addresses: node name -> how to reach it.
        gpus: node name -> its GPUs by the allocation.
        clock: time; the real one if not given.
        pace: of this host.
        on_check: called with each check when it is done.

    Raises:
        VerifyError: the lab has no Kubernetes cluster.
    """
    if spec.kubernetes is None or not spec.nodes_of(ClusterKind.CLOUD):
        raise VerifyError("the lab has no Kubernetes cluster to verify", where=spec.name)
    probes = _Probes(spec, shell, addresses, clock or Clock(), pace or Pace())
    checks: list[CheckResult] = []

    def done(check: CheckResult) -> bool:
        checks.append(check)
        if on_check is not None:
            on_check(check)
        return check.ok

    strategy = MigStrategy(spec.kubernetes.mig_strategy)
    wanted = {
        node: node_resources(((gpu.type, gpu.count) for gpu in granted if gpu.count), strategy)
        for node, granted in (gpus or {}).items()
    }
    wanted = {node: resources for node, resources in wanted.items() if resources and node in probes.nodes}
    looks: dict[str, Question] = {
        "kubernetes nodes": lambda cluster: judge.judge_nodes(cluster.nodes, probes.nodes),
        "system pods": lambda cluster: judge.judge_pods(
            cluster.pods_of(SYSTEM_NAMESPACES), _SYSTEM_PODS, cluster.workloads_of(SYSTEM_NAMESPACES)
        ),
    }
    if wanted:
        looks["kubernetes gpus"] = lambda cluster: judge.judge_gpus(cluster.nodes, wanted)
    if not {"kubernetes nodes", "system pods"} <= set(probes.settle(looks, done)):
        # Probe pods in a cluster that is not up would wait in vain.
        done(CheckResult("pods", False, "not tried: nodes or system pods are not ready", 0.0))
        return VerifyReport(tuple(checks))
    try:
        if done(probes.spread()):
            reached = [done(check) for check in probes.reach()]
            if probes.has_metrics:
                done(metrics_check(probes.kubectl, probes.nodes, probes.patience, probes.clock))
            if spec.kubernetes.helm:
                done(probes.helm())
            if spec.kubernetes.ingress == "lab-ingress" and all(reached):
                done(probes.ingress())
            # The last: from then on the probe pods take no connection.
            if spec.kubernetes.network_policy == "default-deny" and all(reached) and len(probes.pods) > 1:
                done(policy_check(probes.kubectl, NAMESPACE, PORT, probes.pods, probes.patience, probes.clock))
    finally:
        probes.clean()
    return VerifyReport(tuple(checks))


def kubernetes_summary(spec: ClusterSpec, shell: GuestShell, addresses: Mapping[str, GuestAddress], pace: Pace) -> str:
    """One line about the nodes, for a status display.

    Raises:
        HyperscalerError: the control plane cannot be asked.
    """
    head = addresses[control_plane(spec)]
    command = f"{KUBECTL} get nodes -o json --request-timeout={math.ceil(pace.seconds(SUMMARY_SECONDS))}s"
    return judge.summarise(judge.parse_nodes(shell.run(head, command, timeout=SUMMARY_SECONDS).stdout))


def control_plane(spec: ClusterSpec) -> str:
    """Name of the node that runs the API server."""
    return next(node.name for node in spec.nodes if node.role is Role.CLOUD_CONTROL_PLANE)


class _Probes:
    def __init__(
        self, spec: ClusterSpec, shell: GuestShell, addresses: Mapping[str, GuestAddress], clock: Clock, pace: Pace
    ) -> None:
        self.nodes = tuple(node.name for node in spec.nodes_of(ClusterKind.CLOUD))
        self.patience = pace.patience(spec.timeouts.verify)
        self._pace = pace
        self._head = addresses[control_plane(spec)]
        self._shell = shell
        self.clock = clock
        self.pods: tuple[judge.PodState, ...] = ()
        self._leftover = False
        self.has_metrics = False

    def kubectl(self, words: str, *, seconds: float = 120, stdin: str | None = None) -> tuple[str, str]:
        """Output and complaint; with a complaint the output is not reliable."""
        return self._run(f"{KUBECTL} {words}", seconds=seconds, stdin=stdin)

    def _run(self, command: str, *, seconds: float, stdin: str | None = None) -> tuple[str, str]:
        try:
            done = self._shell.run(self._head, command, timeout=seconds, check=False, stdin=stdin)
        except HyperscalerError as error:
            return "", error.what
        said = (done.stderr or done.stdout).strip()
        return done.stdout, "" if done.returncode == 0 else said or f"exit status {done.returncode}"

    def settle(self, looks: Mapping[str, Question], done: Callable[[CheckResult], bool]) -> tuple[str, ...]:
        """Look at the cluster until every check passes or nothing moves any more; returns the names of passed checks.

        `done` is called with each check, in the order of `looks`.
        """
        watch = Watch(self.patience, self.clock.now)
        decided: dict[str, CheckResult] = {}
        reported = 0
        names = tuple(looks)
        while True:
            output, complaint = self.kubectl(_LISTING)
            cluster = judge.parse_cluster(output)
            self.has_metrics = "metrics-server" in {each.name for each in cluster.workloads_of(("kube-system",))}
            self._leftover = NAMESPACE in cluster.namespaces
            verdicts = {name: Verdict(False, complaint) if complaint else look(cluster) for name, look in looks.items()}
            given_up = watch.look((complaint, *(verdict.detail for verdict in verdicts.values())))
            for name, verdict in verdicts.items():
                if name not in decided and (verdict.ok or given_up):
                    decided[name] = check_from(name, after_waiting(verdict, given_up), watch.seconds)
            while reported < len(names) and names[reported] in decided:
                done(decided[names[reported]])
                reported += 1
            if reported == len(names):
                return tuple(name for name in names if decided[name].ok)
            self.clock.sleep(POLL_SECONDS)

    def spread(self) -> CheckResult:
        """Start a probe pod on every node."""
        started = self.clock.now()
        try:
            record = self._shell.run(self._head, f"cat {_RELEASE}", timeout=60).stdout
            image = json.loads(record)["tools"]
        except (HyperscalerError, ValueError, KeyError, TypeError, RecursionError) as error:
            return check_from("pods", Verdict(False, f"{_RELEASE}: {error}"), self.clock.now() - started)
        if self._leftover:
            # One of an interrupted run would answer with yesterday's pods.
            words = f"delete namespace {NAMESPACE} --ignore-not-found --timeout={math.ceil(self._pace.seconds(120))}s"
            self.kubectl(words, seconds=180)
        complaint = apply_own(self.kubectl, probe_manifest(str(image)), self.patience, self.clock)
        if complaint:
            return check_from("pods", Verdict(False, complaint), self.clock.now() - started)
        waited = wait_until(self._look_at_pods, self.patience, clock=self.clock)
        verdict = after_waiting(waited.value, waited.given_up)
        return check_from("pods", verdict, self.clock.now() - started)

    def _look_at_pods(self) -> Look[Verdict]:
        """How the probe pods are, once the daemon set is rolled out or after a while. kubectl watches meanwhile: each
        start of it costs an emulated CPU seconds."""
        seconds = self.patience.usual / 16
        watch = f"rollout status daemonset/probe -n {NAMESPACE} --timeout={math.ceil(self._pace.seconds(seconds))}s"
        self.kubectl(watch, seconds=seconds + 60)
        # The pods are judged by their own state, also after a timeout: it gives the reason.
        output, complaint = self.kubectl(f"get pods -n {NAMESPACE} -o json")
        self.pods = judge.parse_pods(output)
        verdict = Verdict(False, complaint) if complaint else judge.judge_spread(self.pods, self.nodes)
        return Look(verdict, verdict.ok, sign=verdict.detail, pause=POLL_SECONDS)

    def reach(self) -> tuple[CheckResult, CheckResult]:
        """Fetch a page from every probe pod and from the service by its name, in every probe pod."""
        started = self.clock.now()
        targets = [*(pod.ip for pod in self.pods), SERVICE]

        def ask(pod: judge.PodState) -> tuple[judge.Reach, ...]:
            script = round_script(targets, self._pace.seconds(self.patience.usual))
            words = shlex.join(["exec", "-n", NAMESPACE, pod.name, "--", "/bin/sh", "-c", script])
            longest = self.patience.usual + len(targets) * _PAGE_TRIES * (_PAGE_SECONDS + POLL_SECONDS)
            output, _ = self.kubectl(words, seconds=longest)
            return judge.parse_reaches(pod.node, output)

        with threads(4, "verify") as pool:
            reaches = tuple(reach for found in pool.map(ask, self.pods) for reach in found)
        seconds = self.clock.now() - started
        return (
            check_from("pod network", judge.judge_pod_network(reaches, self.pods), seconds),
            check_from("service by name", judge.judge_service(reaches, SERVICE, self.nodes), 0.0),
        )

    def ingress(self) -> CheckResult:
        """Get the page of a probe pod from every node's address."""

        def shell(command: str) -> str:
            return self._run(command, seconds=600)[0]

        return ingress_check(self.kubectl, shell, NAMESPACE, PORT, self.nodes, self.patience, self.clock)

    def helm(self) -> CheckResult:
        """Install a chart and remove it."""

        def shell(script: str) -> tuple[str, str]:
            return self._run(f"sudo -n sh -c {shlex.quote(script)}", seconds=600)

        return helm_check(shell, helm_script(ADMIN_CONF, NAMESPACE), self.clock.now)

    def clean(self) -> None:
        self.kubectl(f"delete namespace {NAMESPACE} --ignore-not-found --wait=false", seconds=60)


def round_script(targets: list[str], seconds: float) -> str:
    """A shell script that gets a page from each target and prints a line for each. What does not answer is asked again
    until the `seconds` of the whole round are over: the first news of a service may be on its way to kube-proxy and the
    DNS still."""
    # busybox's own wget timeout crashes on a refused connection, so the time is kept from outside.
    page = f'timeout {_PAGE_SECONDS} wget -q -O - "http://$target:{PORT}/"'
    given_up = f'{{ tries=$((tries + 1)); [ "$tries" -ge {_PAGE_TRIES} ] && [ "$(date +%s)" -ge "$end" ]; }}'
    return (
        f"end=$(($(date +%s) + {math.ceil(seconds)})); for target in {shlex.join(targets)}; do tries=0; "
        f"until answer=$({page}) || {given_up}; do sleep {POLL_SECONDS:.0f}; done; "
        'echo "$target $answer"; done'
    )


def probe_manifest(image: str) -> str:
    """A web server on every node that answers with the node's name, behind one service; JSON documents."""
    serve = f'mkdir -p /tmp/www && echo "$NODE" >/tmp/www/index.html && exec httpd -f -p {PORT} -h /tmp/www'
    labels = {"app": "probe"}
    container = {
        "name": "probe",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", serve],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
    }
    pod = {
        "metadata": {"labels": labels},
        "spec": {
            "containers": [container],
            "tolerations": [{"operator": "Exists"}],
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
        },
    }
    documents = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "probe", "namespace": NAMESPACE},
            "spec": {"selector": labels, "ports": [{"port": PORT, "targetPort": PORT}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "probe", "namespace": NAMESPACE},
            "spec": {"selector": {"matchLabels": labels}, "template": pod},
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}) + "\n"
