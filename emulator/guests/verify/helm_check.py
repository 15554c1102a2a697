"""Whether Helm works where people log in: it makes the object of a chart of our own, and removes it."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from emulator.guests.verify.report import CheckResult, Verdict, check_from

_CHART = "apiVersion: v2\nname: probe\nversion: 1.0.0\n"
_TEMPLATE = (
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\n  namespace: {{ .Release.Namespace }}\n"
    'data:\n  made-by: "{{ .Chart.Name }} {{ .Chart.Version }}"\n'
)
RELEASE = "probe"


def helm_script(kubeconfig: str, namespace: str) -> str:
    """A shell script that installs a chart and removes it; its last line is what the chart made."""
    there = f"--kubeconfig {kubeconfig} --namespace {namespace}"
    return f"""\
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME="$work"
mkdir -p "$work/chart/templates"
printf %s {shlex.quote(_CHART)} >"$work/chart/Chart.yaml"
printf %s {shlex.quote(_TEMPLATE)} >"$work/chart/templates/map.yaml"
helm {there} upgrade --install {RELEASE} "$work/chart" >/dev/null
made=$(kubectl {there} get configmap {RELEASE} -o 'jsonpath={{.data.made-by}}')
helm {there} uninstall {RELEASE} >/dev/null
echo "$made"
"""


def helm_check(shell: Callable[[str], tuple[str, str]], script: str, now: Callable[[], float]) -> CheckResult:
    """Helm installs a chart and removes it.

    Args:
        shell: runs a command line on the control plane: output and complaint.
        script: of `helm_script`.
        now: the time.
    """
    started = now()
    output, complaint = shell(script)
    return check_from("helm", judge_helm(output, complaint), now() - started)


def judge_helm(output: str, complaint: str) -> Verdict:
    """By the last line of the script."""
    if "helm: not found" in complaint or "helm: command not found" in complaint:
        why = "the image of the control plane has no Helm: it was made for another lab file"
        return Verdict(False, f"{why}; destroy the lab and provision it again")
    if complaint:
        return Verdict(False, complaint)
    made = output.strip().splitlines()[-1:]
    if made != ["probe 1.0.0"]:
        return Verdict(False, f"the chart's object says {made[0] if made else 'nothing'}")
    return Verdict(True, "a chart was installed and removed")
