"""What a student can make, as a real API server says: quotas, limits, pod security and policies, without nodes.

The server is of a release of Kubernetes on this machine (`make demo` builds one), or of the directory that
HYPERSCALER_KUBERNETES_PROGRAMS names."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from emulator.core.data_files import share_dir
from emulator.kubernetes.release.modules.addon_objects import addon_image, addon_objects
from emulator.kubernetes.release.modules.module_set import read_module_set
from emulator.labfile.kubernetes_versions import MODULE_ADDONS, MODULE_MINORS
from tests.support.api_server import (
    ADMIN_TOKEN,
    WHERE,
    Answer,
    ApiServer,
    programs,
    release_version,
    releases,
    running,
    version_key,
)
from tests.support.playbook_modules import CLUSTER, PARAMS, RELEASE, kubeadm_config, kubernetes_apply, load, user_end
from tests.support.student_manifests import GPU, params, policies, students

users = load("library/kubernetes_users.py", "kubernetes_users")
serving = load("library/serving_certificate.py", "serving_certificate")
kubeconfigs = load("roles/k8s_users/files/kubeconfigs.py", "kubeconfigs")

pytestmark = pytest.mark.host

# What `latest` of upstream serves: before, some of the rules below are not held, and the documents say so.
POLICIES_SINCE = (1, 36)
NAMESPACE = "student-ada"
TOOLS = "hyperscaler.invalid/kubernetes/tools:1"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The newest Kubernetes of this machine, set up as the playbook does, with the student ada."""
    work = tmp_path_factory.mktemp("kubernetes")
    named = os.environ.get(WHERE)
    found: Path | None = Path(named) if named else None
    version = ""
    for release in [] if named else releases():
        found, version = programs(release, work / release.name), release_version(release)
        if found:
            break
    if found is None:
        pytest.skip(f"no release of Kubernetes on this machine: make demo builds one; or name programs in {WHERE}")
    (work / "state").mkdir()
    arguments = [f"--{name}={value}" for name, value in options(version or "1.37.0").items()]
    with pytest.MonkeyPatch.context() as patch, running(found, work / "state", *arguments) as server:
        patch.setenv("PATH", f"{found}:{os.environ['PATH']}")
        patch.setattr(kubernetes_apply, "KUBECONFIG", str(server.kubeconfig))
        patch.setattr(kubernetes_apply, "VALIDATE", "--validate=strict")
        for module in (user_end, kubeconfigs):
            patch.setattr(module, "ADMIN_CONF", str(server.kubeconfig))
        set_up(server)
        yield server


def options(version: str) -> dict[str, str]:
    """What the playbook tells kubeadm of the API server, beside kubeadm's own."""
    release = {**RELEASE, "version": version}
    documents = kubeadm_config.init_documents(release, CLUSTER, PARAMS["node"], 60)
    found = documents[1]["apiServer"]["extraArgs"]
    return dict(found) if isinstance(found, dict) else {each["name"]: each["value"] for each in found}


def set_up(server: ApiServer) -> None:
    there, server_lacks = kubernetes_apply.served(policies())
    has_all = version_key(server.version)[:2] >= POLICIES_SINCE
    assert (server_lacks == []) is has_all
    documents = [json.dumps(each) for each in [*there, *students()]]
    changes, _ = kubernetes_apply.apply(documents, [], [], check=False)
    assert len(changes) == len(documents)
    assert kubernetes_apply.apply(documents, [], [], check=False)[0] == [], "a second run changes nothing"
    assert users.converge(params("ada"), check=False)
    assert users.converge(params("ada"), check=False) == [], "nor does one of the users"
    for namespace in (NAMESPACE, "students", "default"):
        server.account(namespace)
        server.settle_quotas(namespace)
    if has_all:
        wait_for_policies(server)


def wait_for_policies(server: ApiServer) -> None:
    """A policy is held some moments after it was stored."""
    path = "/api/v1/namespaces/students/pods?dryRun=All"
    hostile = pod("early", tolerations=[{"operator": "Exists"}])
    for _ in range(3000):
        made = server.request("POST", path, hostile)
        plain = server.request("POST", path, pod("early"))
        if made.status != 201 and dropped(plain.body) == ["NET_RAW"]:
            return
    raise AssertionError(f"no policy is held: {made.status} {made.message}, {plain.message}")


@pytest.fixture(scope="module")
def ada(api: ApiServer) -> str:
    """Ada's token."""
    return api.token("hyperscaler-users", "ada")


@pytest.fixture
def policy(api: ApiServer) -> ApiServer:
    """The server, if it holds policies of its own."""
    if version_key(api.version)[:2] < POLICIES_SINCE:
        pytest.skip(f"Kubernetes {api.version} has no mutating policies")
    return api


def pod(name: str, *, container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    held = {"name": "c", "image": TOOLS, **(container or {})}
    meta = spec.pop("metadata", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **meta},
        "spec": {"containers": [held], **spec},
    }


def make(api: ApiServer, token: str, body: dict[str, Any], *, namespace: str = NAMESPACE, dry: bool = True) -> Answer:
    """Create an object as its user would; stored only if not `dry`."""
    group = "/api/v1" if body["apiVersion"] == "v1" else f"/apis/{body['apiVersion']}"
    kind = f"{body['kind'].lower()}s"
    query = "?dryRun=All" if dry else ""
    return api.request("POST", f"{group}/namespaces/{namespace}/{kind}{query}", body, token=token)


def dropped(made: dict[str, Any], kind: str = "containers") -> list[str]:
    (container,) = made["spec"][kind]
    found: list[str] = container.get("securityContext", {}).get("capabilities", {}).get("drop", [])
    return found


def test_an_ordinary_pod_runs_with_limits_and_without_raw_sockets(api: ApiServer, ada: str) -> None:
    made = make(api, ada, pod("plain"))
    assert made.status == 201, made.message
    resources = made.body["spec"]["containers"][0]["resources"]
    assert resources == {
        "limits": {"cpu": "1", "memory": "256Mi", "ephemeral-storage": "512Mi"},
        "requests": {"cpu": "100m", "memory": "64Mi", "ephemeral-storage": "64Mi"},
    }
    if version_key(api.version)[:2] >= POLICIES_SINCE:
        assert dropped(made.body) == ["NET_RAW"]


def test_a_pod_with_a_gpu_and_a_deployment_are_admitted(api: ApiServer, ada: str) -> None:
    made = make(api, ada, pod("gpu", container={"resources": {"limits": {GPU: "1"}}}))
    assert made.status == 201, made.message
    greedy = make(api, ada, pod("gpus", container={"resources": {"limits": {GPU: "2"}}}))
    assert (greedy.status, "exceeded quota" in greedy.message) == (403, True)
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": pod("web")["spec"]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template},
    }
    made = make(api, ada, deployment)
    assert made.status == 201, made.message


CAPABILITIES: list[tuple[dict[str, Any], list[str]]] = [
    ({"securityContext": {}}, ["NET_RAW"]),
    ({"securityContext": {"runAsUser": 1000}}, ["NET_RAW"]),
    ({"securityContext": {"capabilities": {}}}, ["NET_RAW"]),
    ({"securityContext": {"capabilities": {"add": ["CHOWN"]}}}, ["NET_RAW"]),
    ({"securityContext": {"capabilities": {"drop": ["CHOWN"]}}}, ["CHOWN", "NET_RAW"]),
    ({"securityContext": {"capabilities": {"drop": ["NET_RAW"]}}}, ["NET_RAW"]),
    ({"securityContext": {"capabilities": {"drop": ["ALL"]}}}, ["ALL"]),
]


@pytest.mark.parametrize(("container", "expected"), CAPABILITIES)
def test_raw_sockets_are_given_up_whatever_else_a_container_asks_for(
    policy: ApiServer, ada: str, container: dict[str, Any], expected: list[str]
) -> None:
    first = {"name": "first", "image": TOOLS, **container}
    made = make(policy, ada, pod("p", container=container, initContainers=[first]))
    assert made.status == 201, made.message
    assert dropped(made.body) == expected
    assert dropped(made.body, "initContainers") == expected
    # Nothing else of it was touched.
    given = made.body["spec"]["containers"][0]["securityContext"]
    assert {**given, "capabilities": 0} == {**container["securityContext"], "capabilities": 0}
    assert given["capabilities"].get("add") == container["securityContext"].get("capabilities", {}).get("add")


def test_two_containers_give_up_raw_sockets_both(policy: ApiServer, ada: str) -> None:
    body = pod("two")
    body["spec"]["containers"].append({"name": "d", "image": TOOLS})
    made = make(policy, ada, body)
    assert made.status == 201, made.message
    assert [each["securityContext"]["capabilities"]["drop"] for each in made.body["spec"]["containers"]] == [
        ["NET_RAW"],
        ["NET_RAW"],
    ]


# Held since before: pod security, and quotas. (The words that the student reads.)
REFUSED_EVERYWHERE: list[tuple[str, dict[str, Any]]] = [
    ("privileged", pod("p", container={"securityContext": {"privileged": True}})),
    ("hostPath", pod("p", volumes=[{"name": "v", "hostPath": {"path": "/"}}])),
    # The first to speak is pod security, whatever else is wrong.
    (
        "hostPath",
        pod(
            "p",
            volumes=[{"name": "v", "hostPath": {"path": "/"}}],
            nodeName="cloud-control-plane",
            tolerations=[{"operator": "Exists"}],
        ),
    ),
    ("host namespaces", pod("p", hostNetwork=True)),
    ("host namespaces", pod("p", hostPID=True)),
    ("hostPort", pod("p", container={"ports": [{"containerPort": 80, "hostPort": 80}]})),
    ("non-default capabilities", pod("p", container={"securityContext": {"capabilities": {"add": ["NET_RAW"]}}})),
    ("non-default capabilities", pod("p", container={"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}})),
    ("exceeded quota: hyperscaler-priority", pod("p", priorityClassName="system-node-critical")),
    ("maximum cpu usage per Container is 2", pod("p", container={"resources": {"limits": {"cpu": "64"}}})),
    ("maximum memory usage per Container is 2Gi", pod("p", container={"resources": {"limits": {"memory": "64Gi"}}})),
    (
        "maximum ephemeral-storage usage per Container is 5Gi",
        pod("p", container={"resources": {"limits": {"ephemeral-storage": "1Ti"}}}),
    ),
]


@pytest.mark.parametrize(("word", "body"), REFUSED_EVERYWHERE)
def test_a_pod_that_reaches_for_its_node_or_for_too_much_is_refused(
    api: ApiServer, ada: str, word: str, body: dict[str, Any]
) -> None:
    made = make(api, ada, body)
    assert made.status == 403, made.body
    assert word in made.message


NODE_ROLE = "node-role.kubernetes.io/control-plane"
REFUSED_BY_POLICY: list[tuple[str, dict[str, Any]]] = [
    ("spec.tolerations", pod("p", tolerations=[{"operator": "Exists"}])),
    ("spec.tolerations", pod("p", tolerations=[{"key": NODE_ROLE, "operator": "Exists", "effect": "NoSchedule"}])),
    ("spec.tolerations", pod("p", tolerations=[{"key": "dedicated", "value": "infra"}])),
    ("spec.nodeName", pod("p", nodeName="cloud-control-plane")),
    ("spec.terminationGracePeriodSeconds", pod("p", terminationGracePeriodSeconds=31_536_000)),
    ("spec.volumes", pod("p", volumes=[{"name": "v", "nfs": {"server": "10.244.1.7", "path": "/"}}])),
    (
        "spec.volumes",
        pod(
            "p", volumes=[{"name": "v", "iscsi": {"targetPortal": "10.0.0.1:3260", "iqn": "iqn.2026-01.a:b", "lun": 0}}]
        ),
    ),
    ("metadata.finalizers", pod("p", metadata={"finalizers": ["example.org/never"]})),
    (
        "metadata.finalizers",
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "finalizers": ["kubernetes.io/never"]}},
    ),
    (
        "metadata.finalizers",
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "c", "finalizers": ["example.org/never"]},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        },
    ),
    (
        "without an end",
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/service-account-token",
            "metadata": {"name": "s", "annotations": {"kubernetes.io/service-account.name": "default"}},
        },
    ),
    (
        "262144 bytes at most",
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "x" * 300_000}},
    ),
    (
        "262144 bytes at most",
        pod("p", container={"env": [{"name": f"E{number}", "value": "x" * 1000} for number in range(300)]}),
    ),
    ("262144 bytes at most", pod("p", metadata={"labels": {f"k{number}": "x" * 60 for number in range(4000)}})),
    (
        "262144 bytes at most",
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "QUFB" * 75_000}},
    ),
]


@pytest.mark.parametrize(("word", "body"), REFUSED_BY_POLICY)
def test_what_pod_security_lets_pass_is_refused_by_a_policy(
    policy: ApiServer, ada: str, word: str, body: dict[str, Any]
) -> None:
    made = make(policy, ada, body)
    assert made.status in (403, 422), made.body
    assert word in made.message
    assert "hyperscaler-students" in made.message


ADMITTED: list[dict[str, Any]] = [
    pod("p", tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]),
    pod("p", terminationGracePeriodSeconds=600),
    pod("p", volumes=[{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "c"}}]),
    pod("p", metadata={"finalizers": ["batch.kubernetes.io/job-tracking"]}),
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "x" * 200_000}},
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "binaryData": {"a": "QUFB" * 1000}},
    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "QUFB"}},
    {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "finalizers": ["kubernetes.io/pvc-protection"]},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    },
]


@pytest.mark.parametrize("body", ADMITTED)
def test_what_students_need_is_admitted(api: ApiServer, ada: str, body: dict[str, Any]) -> None:
    made = make(api, ada, body)
    assert made.status == 201, made.message


def test_a_claim_has_a_largest_size(api: ApiServer, ada: str) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "6Gi"}}}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": spec}
    made = make(api, ada, body)
    assert made.status == 403
    assert "maximum storage usage per PersistentVolumeClaim is 5Gi" in made.message


@pytest.mark.parametrize("kind", ["NodePort", "LoadBalancer"])
def test_ports_of_the_nodes_are_not_for_students(api: ApiServer, ada: str, kind: str) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"type": kind, "ports": [{"port": 80}], "selector": {"app": "web"}},
    }
    made = make(api, ada, body)
    assert (made.status, "exceeded quota" in made.message) == (403, True), made.message
    body["spec"]["type"] = "ClusterIP"  # type: ignore[index]
    assert make(api, ada, body).status == 201


def test_the_ingress_controller_is_admitted_by_the_strictest_standard(api: ApiServer, tmp_path: Path) -> None:
    """Its namespace is held to it, so that a pod that is refused would be seen in a lab only."""
    path = share_dir() / "config/kubernetes/addons/traefik.yaml"
    (tmp_path / "traefik.yaml").write_text(path.read_text().replace("{version}", "v1.2.3"))
    addon = {"name": "traefik", "path": str(tmp_path / "traefik.yaml"), "edits": []}
    changes, _ = kubernetes_apply.apply([], [addon], [], check=False)
    assert {"deployment/traefik created", "service/traefik created", "ingressclass/traefik created"} <= set(changes)
    # Later runs change nothing, and those for other objects leave the add-on alone.
    assert kubernetes_apply.apply([], [addon], [], check=False)[0] == []
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other", "namespace": "traefik"}}
    assert kubernetes_apply.apply([json.dumps(other)], None, [], check=False)[0] == ["configmap/other created"]
    (deployment,) = [each for each in yaml.safe_load_all(path.read_text()) if each["kind"] == "Deployment"]
    template = deployment["spec"]["template"]
    template["spec"]["containers"][0]["image"] = TOOLS
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "t"}, "spec": template["spec"]}
    made = api.request("POST", "/api/v1/namespaces/traefik/pods?dryRun=All", body)
    assert made.status == 201, made.message
    body["spec"]["hostNetwork"] = True
    assert "violates PodSecurity" in api.request("POST", "/api/v1/namespaces/traefik/pods?dryRun=All", body).message
    # With its token nothing can be made, and no access given away.
    token = api.token("traefik", "traefik")
    assert api.request("GET", "/apis/networking.k8s.io/v1/ingresses", token=token).status == 200
    for target in ("/api/v1/namespaces/students/pods", "/apis/rbac.authorization.k8s.io/v1/clusterroles"):
        assert api.request("POST", target, {}, token=token).status == 403


def test_a_flood_of_objects_ends_at_the_quota(api: ApiServer, ada: str) -> None:
    """Each kind ends at its own count, and the admin goes on."""
    made = []
    for number in range(60):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"flood-{number}"}, "data": {"a": "x"}}
        made.append(make(api, ada, body, dry=False))
    assert [each.status for each in made] == [201] * 50 + [403] * 10
    assert "exceeded quota: hyperscaler, requested: configmaps=1" in made[-1].message
    assert make(api, ADMIN_TOKEN, {**body, "metadata": {"name": "one-more"}}, namespace="default").status == 201
    for number in range(50):
        api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}/configmaps/flood-{number}", token=ada)


def test_a_pod_that_runs_is_changed_into_nothing_else(policy: ApiServer, ada: str) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/changing"
    assert make(policy, ada, pod("changing"), dry=False).status == 201
    kept = policy.request("GET", path, token=ada).body["spec"]["tolerations"]
    for change, word in (
        ({"spec": {"tolerations": [*kept, {"operator": "Exists"}]}}, "spec.tolerations"),
        ({"metadata": {"finalizers": ["example.org/never"]}}, "metadata.finalizers"),
    ):
        done = policy.request("PATCH", path, change, token=ada)
        assert (done.status, word in done.message) == (422, True), done.body
    assert policy.request("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, token=ada).status == 200
    larger = {"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}}
    assert policy.request("PATCH", f"{path}/resize", larger, token=ada).status == 403
    policy.request("DELETE", f"{path}?gracePeriodSeconds=0", token=ada)


DEBUGGERS: list[tuple[dict[str, Any], str]] = [
    ({"securityContext": {"privileged": True}}, "violates PodSecurity"),
    ({"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}, "violates PodSecurity"),
    ({"ports": [{"containerPort": 80, "hostPort": 80}]}, "cannot be set"),
    ({"resources": {"limits": {"memory": "64Gi"}}}, "cannot be set"),
    ({"env": [{"name": "A", "value": "x" * 270_000}]}, "bytes at most"),
]


@pytest.fixture
def looked_into(policy: ApiServer, ada: str) -> str:
    """The path of a pod of a student's; one for all, since nothing counts down a quota here."""
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/looked-into"
    if policy.request("GET", path).status == 404:
        assert make(policy, ada, pod("looked-into"), dry=False).status == 201
    return path


@pytest.mark.parametrize("who", ["student", "admin"])
@pytest.mark.parametrize(("more", "word"), [({}, ""), *DEBUGGERS])
def test_a_container_that_looks_into_a_pod_is_held_like_the_others(
    policy: ApiServer, ada: str, looked_into: str, who: str, more: dict[str, Any], word: str
) -> None:
    """`kubectl debug`. It brings no raw sockets, whoever adds it."""
    body = policy.request("GET", looked_into).body
    body["spec"]["ephemeralContainers"] = [{"name": "d", "image": TOOLS, **more}]
    token = ada if who == "student" else ADMIN_TOKEN
    done = policy.request("PUT", f"{looked_into}/ephemeralcontainers?dryRun=All", body, token=token)
    if word:
        assert (done.status in (403, 422), word in done.message) == (True, True), done.message
    else:
        assert (done.status, dropped(done.body, "ephemeralContainers")) == (200, ["NET_RAW"]), done.message


def test_nobody_looks_into_pods_of_others(api: ApiServer, ada: str) -> None:
    path = "/api/v1/namespaces/kube-system/pods/any/ephemeralcontainers"
    assert api.request("PATCH", path, {}, token=ada).status == 403


def test_tokens_have_an_end_within_a_day(policy: ApiServer, ada: str) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default/token"
    for seconds, status in ((86400, 201), (86401, 422), (10**9, 422)):
        wish = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        assert policy.request("POST", path, wish, token=ada).status == status, seconds


def test_nobody_outside_students_namespaces_is_held_to_this(api: ApiServer) -> None:
    for _, body in REFUSED_BY_POLICY:
        made = make(api, ADMIN_TOKEN, body, namespace="default")
        assert made.status == 201, made.message
    made = make(api, ADMIN_TOKEN, pod("p", hostNetwork=True, tolerations=[{"operator": "Exists"}]), namespace="default")
    assert made.status == 201, made.message
    assert dropped(made.body) == []


def test_limits_of_a_whole_pod_are_limits(policy: ApiServer, ada: str) -> None:
    """A pod may have resources of its own, beside those of its containers."""
    made = make(policy, ada, pod("p", resources={"limits": {"memory": "64Gi"}, "requests": {"memory": "64Gi"}}))
    assert made.status == 403, made.body


def test_requests_of_students_go_through_a_flow_of_their_own(policy: ApiServer, ada: str) -> None:
    flows = policy.request("GET", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas").body["items"]
    names = {flow["metadata"]["uid"]: flow["metadata"]["name"] for flow in flows}
    level = policy.request(
        "GET", "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/hyperscaler-students"
    ).body["metadata"]["uid"]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    pods_own = policy.token(NAMESPACE, "default")
    for token in (ada, pods_own):
        answer = policy.request("GET", path, token=token)
        assert names[answer.headers["X-Kubernetes-Pf-Flowschema-Uid"]] == "hyperscaler-student-ada"
        assert answer.headers["X-Kubernetes-Pf-Prioritylevel-Uid"] == level
    # How many of their requests the server takes at a time, all students together.
    metrics = policy.request("GET", "/metrics").message
    seats = re.findall(
        r'^apiserver_flowcontrol_nominal_limit_seats\{priority_level="hyperscaler-students"\} (\d+)$', metrics, re.M
    )
    assert seats == ["2"]
    answer = policy.request(
        "GET", "/api/v1/namespaces/students/pods", token=policy.token("hyperscaler-users", "student")
    )
    assert names[answer.headers["X-Kubernetes-Pf-Flowschema-Uid"]] == "hyperscaler-students"
    policy.account("default", "other")
    answer = policy.request("GET", "/api/v1/nodes", token=policy.token("default", "other"))
    assert names[answer.headers["X-Kubernetes-Pf-Flowschema-Uid"]] == "service-accounts"


def test_the_node_gets_a_token_for_who_has_access_and_for_nobody_else(api: ApiServer) -> None:
    token = kubeconfigs.request_token("ada", "hyperscaler-users")
    assert 0 < kubeconfigs.expiry(token) - time.time() <= kubeconfigs.TOKEN_SECONDS
    assert api.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods", token=token).status == 200
    assert api.request("GET", "/api/v1/nodes", token=token).status == 403
    with pytest.raises(kubeconfigs.NoAccountError):
        kubeconfigs.request_token("mallory", "hyperscaler-users")


# ---------------------------------------------------------------- add-ons
def addon_documents() -> list[dict[str, Any]]:
    """The objects of the add-ons that are built with Kubernetes, with a certificate where the playbook fills one in."""
    modules = read_module_set(share_dir() / "config/kubernetes/modules", MODULE_MINORS[-1])
    names = {module.programs[0].name: addon_image(module) for module in modules.addons}
    text, _ = serving.ensure("metrics-server", "kube-system", check=False)
    found: list[dict[str, Any]] = []
    for objects in addon_objects(modules, {**names, "tools": TOOLS}).values():
        filled = objects.replace("SERVING-CERTIFICATE", base64.b64encode(text.encode()).decode())
        found += [each for each in yaml.safe_load_all(filled) if each]
    return found


def test_addons_are_admitted_as_they_are_and_are_not_for_students(
    api: ApiServer, ada: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "PKI", str(tmp_path))
    documents = addon_documents()
    changes, _ = kubernetes_apply.apply([json.dumps(each) for each in documents], None, [], check=False)
    assert len(changes) == len(documents)
    again, _ = kubernetes_apply.apply([json.dumps(each) for each in documents], None, [], check=False)
    assert again == [], "a second run changes nothing"
    workloads = [each for each in documents if each["kind"] in ("Deployment", "DaemonSet")]
    assert len(workloads) == len(MODULE_ADDONS)
    for each in workloads:
        meta, spec = each["metadata"], each["spec"]["template"]["spec"]
        api.account(meta["namespace"])
        made = make(api, ADMIN_TOKEN, pod(meta["name"], **spec), namespace=meta["namespace"])
        assert made.status == 201, made.message
        refused = make(api, ada, pod(meta["name"], **{**spec, "serviceAccountName": "default"}))
        assert refused.status == 403, meta["name"]
        assert make(api, ada, pod(meta["name"], **spec), namespace=meta["namespace"]).status == 403
    helper = next(each["data"]["helperPod.yaml"] for each in documents if each["kind"] == "ConfigMap")
    made = make(api, ADMIN_TOKEN, yaml.safe_load(helper), namespace="local-path-storage")
    assert made.status == 201, made.message


def test_volumes_are_the_clusters_and_not_the_students(api: ApiServer) -> None:
    """What a provisioner makes for a claim: an object without a namespace, with a finalizer of its own."""
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "pvc-1", "finalizers": ["external-provisioner.volume.example.org/finalizer"]},
        "spec": {
            "capacity": {"storage": "16Mi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/var/lib/local-path/pvc-1"},
            "claimRef": {"namespace": NAMESPACE, "name": "data"},
        },
    }
    made = api.request("POST", "/api/v1/persistentvolumes?dryRun=All", volume)
    assert made.status == 201, made.message


@pytest.mark.parametrize(
    ("verb", "resource", "namespace", "allowed"),
    [
        ("list", "pods", NAMESPACE, True),
        ("list", "pods", "kube-system", False),
        ("list", "pods", "", False),
        ("list", "nodes", "", False),
        ("delete", "pods", NAMESPACE, False),
    ],
)
def test_students_see_what_their_own_pods_use(
    api: ApiServer, ada: str, verb: str, resource: str, namespace: str, allowed: bool
) -> None:
    """Asked as `kubectl auth can-i` does: the metrics API leaves this to the API server in front of it."""
    what = {"group": "metrics.k8s.io", "verb": verb, "resource": resource, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": what},
    }
    answer = api.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, token=ada)
    assert answer.body["status"]["allowed"] is allowed


# ---------------------------------------------------------------- Helm
CHART = {
    "Chart.yaml": "apiVersion: v2\nname: notes\nversion: 1.2.3\n",
    "templates/notes.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}'}\n"
    "data: {text: '{{ .Values.text }}'}\n",
    "templates/role.yaml": "{{ if .Values.role }}\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\n"
    "metadata: {name: mine}\nrules: []\n{{ end }}\n",
}


def test_a_chart_makes_what_its_student_may_and_nothing_else(api: ApiServer, ada: str, tmp_path: Path) -> None:
    """With the Helm of a release on this machine, if one was made with it."""
    found = [path for path in (release / "bin/helm" for release in releases()) if path.is_file()]
    if not found:
        pytest.skip("no release on this machine has Helm: a lab file with helm: true makes one")
    config = json.loads(api.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": ada}
    config["contexts"][0]["context"]["namespace"] = NAMESPACE
    (tmp_path / "config").write_text(json.dumps(config))
    (tmp_path / "config").chmod(0o600)
    for name, text in CHART.items():
        path = tmp_path / "chart" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def helm(*words: str) -> subprocess.CompletedProcess[str]:
        env = {"HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "config"), "PATH": os.environ["PATH"]}
        argv = [str(found[0]), *words]
        return subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)

    made = f"/api/v1/namespaces/{NAMESPACE}/configmaps/mine"
    steps = {
        "first": ("install", "mine", "chart", "--set", "text=first"),
        "second": ("upgrade", "mine", "chart", "--set", "text=second"),
        "first ": ("rollback", "mine", "1"),
    }
    for after, words in steps.items():
        done = helm(*words)
        assert done.returncode == 0, done.stderr
        assert api.request("GET", made, token=ada).body["data"] == {"text": after.strip()}
    assert helm("list", "--short").stdout.split() == ["mine"]
    for more in (("--namespace", "students"), ("--set", "role=1")):
        refused = helm("install", "other", "chart", *more)
        assert (refused.returncode != 0, "forbidden" in refused.stderr) == (True, True), refused.stderr
    assert helm("uninstall", "mine").returncode == 0
    assert api.request("GET", made, token=ada).status == 404


# ---------------------------------------------------------------- the end
def test_an_end_leaves_no_pod_and_no_token_whatever_the_student_prepared(api: ApiServer) -> None:
    """The last test: it takes the access of a student, with the program that the nodes run."""
    namespace, path = "student-eve", "/api/v1/namespaces/student-eve"
    users.converge(params("ada", "eve"), check=False)
    api.account(namespace)
    api.settle_quotas(namespace)
    eve = api.token("hyperscaler-users", "eve")
    api.account(namespace, "worker")
    lasting = api.token(namespace, "worker")
    # A finalizer of Kubernetes' own that no controller takes away here.
    held = pod("held", metadata={"finalizers": ["batch.kubernetes.io/job-tracking"]}, terminationGracePeriodSeconds=600)
    for body in (held, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "results"}}):
        assert make(api, eve, body, namespace=namespace, dry=False).status == 201
    assert api.request("GET", "/api", token=lasting).status == 200
    user = {"name": "eve", "uid": 3001, "end": 0, "namespace": namespace}
    assert user_end.end_in_kubernetes(user) == []
    assert api.request("GET", f"{path}/pods").body["items"] == []
    assert api.request("GET", f"{path}/configmaps/results").status == 200, "what is stored stays"
    # The API server keeps what it found of a token for ten seconds.
    for token in (eve, lasting):
        for _ in range(60):
            if api.request("GET", "/api", token=token).status == 401:
                break
            time.sleep(1)
        else:
            raise AssertionError("a token outlasts its account")
    quota = api.request("GET", f"{path}/resourcequotas/hyperscaler").body["spec"]["hard"]
    assert quota == {"pods": "0"}
    assert make(api, ADMIN_TOKEN, pod("late"), namespace=namespace).status == 403
