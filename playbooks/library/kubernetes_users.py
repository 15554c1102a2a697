#!/usr/bin/python3
"""Ansible module: the users of a lab in its Kubernetes cluster, in one round trip on its control plane.

A user has a service account in a namespace that only admins get into. A student works in a namespace of their own,
with a role like the built-in `edit`, quotas and limits, and their requests wait for those of other students only; an
admin has the role `cluster-admin`. When access ends, the namespace stays with what is stored in it; account, role and
everything that runs there go.

Only what carries the lab's label is changed or taken away.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kubernetes_apply import ClusterError, Key, Object, kubectl, served
from ansible.module_utils.user_end import LABEL, close_quota, end_pods

DOCUMENTATION = r"""
module: kubernetes_users
short_description: Service accounts, namespaces, roles and quotas of a lab's users
options:
  users:
    description: Who has access, each with C(name), C(role) (student or admin) and C(namespace).
    type: list
    elements: dict
  former:
    description: Who had access, each with C(name) and C(namespace).
    type: list
    elements: dict
  accounts_namespace:
    description: Where the service accounts are.
    type: str
  quota:
    description: C(hard) of each student's ResourceQuota.
    type: dict
  limits:
    description: C(limits) of each student's LimitRange.
    type: list
    elements: dict
  labels:
    description: Labels of each student's namespace, by which admission knows it.
    type: dict
  student_role:
    description: The ClusterRole that each student has in their namespace, as a document.
    type: dict
  isolate:
    description: Whether pods of a student talk to each other and to the cluster's DNS only.
    type: bool
  ingress_peers:
    description: Peers of a NetworkPolicy that reach pods of students all the same.
    type: list
    elements: dict
"""

RETURN = r"""
changes:
  description: What was changed, one line each.
  type: list
"""


class FormerUser(TypedDict):
    name: str
    namespace: str


class User(FormerUser):
    role: Literal["student", "admin"]


class Params(TypedDict):
    users: list[User]
    former: list[FormerUser]
    accounts_namespace: str
    quota: dict[str, str]
    limits: list[Object]
    labels: dict[str, str]
    student_role: Object
    isolate: bool
    ingress_peers: list[Object]


# On the quota of a former user, once nothing was left in the namespace.
SETTLED = "hyperscaler/ended"
KINDS = "namespaces,serviceaccounts,clusterroles,rolebindings,clusterrolebindings,resourcequotas,limitranges"
KINDS += ",networkpolicies,flowschemas"
# What access consists of, and so ends with it. Namespaces are never among them: they hold the users' data.
GRANTS = ("ClusterRoleBinding", "RoleBinding", "ServiceAccount")
CLUSTER_WIDE = ("Namespace", "ClusterRole", "ClusterRoleBinding", "FlowSchema")
FLOW_CONTROL = "flowcontrol.apiserver.k8s.io/v1"
RBAC = "rbac.authorization.k8s.io"
CLOSED = {"pods": "0"}
# Pods of the system's own priorities take the place of others, those of the cluster's DNS included. Since Kubernetes
# 1.17 any namespace may have them, unless a quota says otherwise.
SYSTEM_PRIORITIES = {
    "matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["system-cluster-critical", "system-node-critical"]}
    ]
}
CLUSTER_DNS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}


# ---------------------------------------------------------------- what is wanted
def thing(api: str, kind: str, name: str, user: str, namespace: str | None = None, **rest: object) -> Object:
    metadata: Object = {"name": name, "labels": {LABEL: user}}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}


def binding(kind: str, name: str, user: str, cluster_role: str, accounts: str, namespace: str | None = None) -> Object:
    reference = {"apiGroup": RBAC, "kind": "ClusterRole", "name": cluster_role}
    subjects = [{"kind": "ServiceAccount", "name": user, "namespace": accounts}]
    return thing(f"{RBAC}/v1", kind, name, user, namespace, roleRef=reference, subjects=subjects)


def quota(user: str, namespace: str, hard: Mapping[str, str]) -> Object:
    return thing("v1", "ResourceQuota", "hyperscaler", user, namespace, spec={"hard": hard})


def no_system_priorities(user: str, namespace: str) -> Object:
    spec = {"hard": {"pods": "0"}, "scopeSelector": SYSTEM_PRIORITIES}
    return thing("v1", "ResourceQuota", "hyperscaler-priority", user, namespace, spec=spec)


def namespace_of(user: str, name: str, labels: Mapping[str, str]) -> Object:
    wanted = thing("v1", "Namespace", name, user)
    wanted["metadata"]["labels"].update(labels)
    return wanted


def flow(user: str, namespace: str, accounts: str) -> Object:
    """Requests of a student, and of the accounts that their pods have, as those that wait for each other alone."""
    everything: Object = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": True}
    spec = {
        "priorityLevelConfiguration": {"name": "hyperscaler-students"},
        # Before the flows that Kubernetes has for all accounts, and after those of nodes and of the system.
        "matchingPrecedence": 1000,
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [
            {
                "subjects": [
                    {"kind": "ServiceAccount", "serviceAccount": {"namespace": accounts, "name": user}},
                    {"kind": "Group", "group": {"name": f"system:serviceaccounts:{namespace}"}},
                ],
                "resourceRules": [{**everything, "namespaces": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }
        ],
    }
    return thing(FLOW_CONTROL, "FlowSchema", f"hyperscaler-student-{user}", user, spec=spec)


def student_objects(user: str, namespace: str, params: Params) -> list[Object]:
    objects = [
        namespace_of(user, namespace, params["labels"]),
        quota(user, namespace, params["quota"]),
        no_system_priorities(user, namespace),
        thing("v1", "LimitRange", "hyperscaler", user, namespace, spec={"limits": params["limits"]}),
        flow(user, namespace, params["accounts_namespace"]),
    ]
    if params["isolate"]:
        dns = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
        spec = {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {}}, *params["ingress_peers"]]}],
            "egress": [{"to": [{"podSelector": {}}]}, {"to": [CLUSTER_DNS], "ports": dns}],
        }
        objects.append(thing("networking.k8s.io/v1", "NetworkPolicy", "default-deny", user, namespace, spec=spec))
    # The role comes last: when it is there, so are the limits. What a binding binds to cannot be changed: those of
    # older versions, to another role, had another name and go as stale.
    role = params["student_role"]["metadata"]["name"]
    objects.append(binding("RoleBinding", "hyperscaler-student", user, role, params["accounts_namespace"], namespace))
    return objects


def wanted_objects(params: Params) -> list[Object]:
    """Everything that the users of the lab have, namespaces first."""
    accounts = params["accounts_namespace"]
    objects = [thing("v1", "Namespace", accounts, "")]
    if any(entry["role"] != "admin" for entry in params["users"]):
        objects.append(params["student_role"])
    for entry in params["users"]:
        user = entry["name"]
        account = thing("v1", "ServiceAccount", user, user, accounts, automountServiceAccountToken=False)
        objects.append(account)
        if entry["role"] == "admin":
            objects.append(binding("ClusterRoleBinding", f"hyperscaler:admin:{user}", user, "cluster-admin", accounts))
        else:
            objects += student_objects(user, entry["namespace"], params)
    return objects


# ---------------------------------------------------------------- what differs
def key_of(item: Object) -> Key:
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace", ""), metadata["name"]


def covers(seen: object, wanted: object) -> bool:
    """Whether all of `wanted` is so in `seen`, which may say more: defaults, status, what the API server adds."""
    if isinstance(wanted, dict):
        return isinstance(seen, dict) and all(covers(seen.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(seen, list)
            and len(seen) == len(wanted)
            and all(covers(one, other) for one, other in zip(seen, wanted, strict=True))
        )
    return seen == wanted


def stale_grants(wanted: Sequence[Object], seen: Mapping[Key, Object], *, isolate: bool = True) -> list[Key]:
    """Keys of grants on the cluster that no one should have any more; without isolation its policies, too."""
    keep = {key_of(item) for item in wanted}
    kinds = (*GRANTS, "FlowSchema") if isolate else (*GRANTS, "FlowSchema", "NetworkPolicy")
    return sorted(key for key in seen if key[0] in kinds and key not in keep)


def open_namespaces(former: Sequence[FormerUser], seen: Mapping[Key, Object]) -> list[FormerUser]:
    """Namespaces of former users in which something may still run."""
    names = []
    for entry in former:
        namespace = ("Namespace", "", entry["namespace"])
        limit = seen.get(("ResourceQuota", entry["namespace"], "hyperscaler"), {})
        closed = limit.get("spec", {}).get("hard") == CLOSED
        if namespace in seen and not (closed and SETTLED in limit["metadata"]["labels"]):
            names.append(entry)
    return names


# ---------------------------------------------------------------- effects
def snapshot() -> dict[Key, Object]:
    """What carries the lab's label, by kind, namespace and name."""
    items = json.loads(kubectl("get", KINDS, "--all-namespaces", "--selector", LABEL, "-o", "json"))["items"]
    return {key_of(item): item for item in items}


def send(verb: str, items: Sequence[Object], *options: str) -> str:
    """What kubectl said of it."""
    if not items:
        return ""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    return kubectl(verb, *options, "-f", "-", stdin=text)


def create_shared(items: Sequence[Object]) -> None:
    """Make objects of the whole cluster. Only they can be another's, and `create` refuses what is there; where it
    had to be tried again, what is there may be of the first try, so that its mark decides.

    Raises:
        ClusterError: one is not the lab's.
    """
    if not items or send("create", items, "--save-config"):
        return
    ours = snapshot()
    foreign = [" ".join(filter(None, key_of(item))) for item in items if key_of(item) not in ours]
    if foreign:
        raise ClusterError(f"not the lab's, and in its way (AlreadyExists): {', '.join(foreign)}; remove it")


def put_quotas(items: Sequence[Object], seen: Mapping[Key, Object]) -> None:
    """A quota is replaced as a whole: merged, it would go on to limit what it does not name any more."""
    send("replace", [item for item in items if key_of(item) in seen])
    send("create", [item for item in items if key_of(item) not in seen], "--save-config")


def delete(key: Key) -> None:
    kind, namespace, name = key
    where = ["--namespace", namespace] if namespace else []
    kubectl("delete", kind.lower(), name, *where, "--ignore-not-found", "--wait=false")


def close_namespace(entry: FormerUser, seen: Mapping[Key, Object]) -> None:
    """Let nothing new begin in the namespace of a former user, then end what runs there. That nothing was left is noted
    last: the next run looks again where this one was cut off."""
    namespace = entry["namespace"]
    if ("ResourceQuota", namespace, "hyperscaler") not in seen:
        put_quotas([quota(entry["name"], namespace, CLOSED)], seen)
    close_quota(namespace, kubectl)
    left = end_pods(namespace, kubectl)
    if left:
        raise ClusterError(
            f"{entry['name']} has no access any more, but these do not end in {namespace}: {', '.join(left)}"
        )
    kubectl("label", "resourcequota", "hyperscaler", "--namespace", namespace, "--overwrite", f"{SETTLED}=yes")


def converge(params: Params, *, check: bool) -> list[str]:
    """Everything the parameters ask for; the changes made."""
    seen = snapshot()
    wanted = without_unserved(wanted_objects(params), seen)
    differing = [item for item in wanted if not covers(seen.get(key_of(item)), item)]
    stale = stale_grants(wanted, seen, isolate=params["isolate"])
    still_open = open_namespaces(params["former"], seen)
    changes = [" ".join(filter(None, key_of(item))) for item in differing]
    changes += [f"removed {' '.join(filter(None, key))}" for key in stale]
    changes += [f"closed {entry['namespace']}" for entry in still_open]
    if check or not changes:
        return changes
    # Access is taken before anything is given.
    for key in stale:
        delete(key)
    for entry in still_open:
        close_namespace(entry, seen)
    create_shared([item for item in differing if new_and_shared(item, seen)])
    rest = [item for item in differing if not new_and_shared(item, seen)]
    put_quotas([item for item in rest if item["kind"] == "ResourceQuota"], seen)
    send("apply", [item for item in rest if item["kind"] != "ResourceQuota"])
    return changes


def without_unserved(wanted: Sequence[Object], seen: Mapping[Key, Object]) -> list[Object]:
    """The objects less those of flow control, where the API server has none of this version. It is asked only while one
    of them is missing: each question costs an emulated CPU seconds."""
    flows = [item for item in wanted if item["kind"] == "FlowSchema"]
    if all(covers(seen.get(key_of(item)), item) for item in flows) or served(flows)[0]:
        return list(wanted)
    return [item for item in wanted if item not in flows]


def new_and_shared(item: Object, seen: Mapping[Key, Object]) -> bool:
    return item["kind"] in CLUSTER_WIDE and key_of(item) not in seen


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "list", "elements": "dict", "default": []},
            "former": {"type": "list", "elements": "dict", "default": []},
            "accounts_namespace": {"type": "str", "required": True},
            "quota": {"type": "dict", "required": True},
            "limits": {"type": "list", "elements": "dict", "required": True},
            "labels": {"type": "dict", "required": True},
            "student_role": {"type": "dict", "required": True},
            "isolate": {"type": "bool", "default": False},
            "ingress_peers": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        changes = converge(module.params, check=module.check_mode)
    except (ClusterError, OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changes), changes=changes)


if __name__ == "__main__":
    main()
