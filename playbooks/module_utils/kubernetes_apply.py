"""Objects of a Kubernetes cluster, applied with kubectl on its control plane. Standard library only, because it runs in
the guests.

What changed is judged by the objects themselves, before and after: kubectl's word "configured" also stands for patches
that the API server finds empty.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, Required, TypedDict

from ansible.module_utils.pace import TOO_SLOW, seconds

# An object of the API, as its JSON is read, and by what it is found: kind, namespace ("" for none) and name.
Object = dict[str, Any]
Key = tuple[str, str, str]


# A word of an add-on's documents and what takes its place; an error where it is missing, if it is not `optional`.
Edit = TypedDict("Edit", {"from": str, "to": str, "optional": NotRequired[bool]})


class Addon(TypedDict, total=False):
    name: Required[str]
    path: Required[str]
    edits: list[Edit] | None
    kept: bool


class Absent(TypedDict, total=False):
    api_version: Required[str]
    kind: Required[str]
    namespace: Required[str]
    name: Required[str]
    unmarked: bool


# The schema against which kubectl would validate has several megabytes, and an emulated API server that is just being
# started needs its time for it. The contract test sends the same objects to a real one, strictly.
VALIDATE = "--validate=false"
_SENDING = ("apply", "create", "replace")
KUBECONFIG = "/etc/kubernetes/admin.conf"
# Which add-ons were applied, each with the digest of its documents.
RECORD: Object = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "hyperscaler-addons", "namespace": "kube-system"},
}
# Pauses between requests that the API server was too slow for, in seconds.
_PAUSES = (2, 5, 10, 20)
# Only what carries it is ever deleted.
OURS = {"app.kubernetes.io/managed-by": "hyperscaler"}
# What the cluster writes of itself into an object.
_BOOKKEEPING = ("resourceVersion", "managedFields", "generation", "selfLink")
_REVISION = "deployment.kubernetes.io/revision"


class ClusterError(Exception):
    """The cluster said no; the text is for the operator."""


def kubectl(*words: str, stdin: str | None = None, timeout: float = 300) -> str:
    """Run kubectl, and again where the API server or its etcd was too slow for a request. So `words` must be what may
    be done twice: the first may have been carried out, which is also why `create` may then find what it makes. Objects
    that are sent are the lab's own, and not validated."""
    for tries, pause in enumerate((*_PAUSES, None)):
        try:
            return _kubectl(words, stdin, timeout)
        except ClusterError as error:
            if tries and words[0] == "create" and _only_there_already(str(error)):
                return ""
            if pause is None or not TOO_SLOW.search(str(error)):
                raise
            time.sleep(seconds(pause))
    raise AssertionError


def _only_there_already(complaint: str) -> bool:
    return all("AlreadyExists" in line for line in complaint.splitlines())


def _kubectl(words: Sequence[str], stdin: str | None, timeout: float) -> str:
    options = [VALIDATE] if words[0] in _SENDING else []
    argv = ["kubectl", "--kubeconfig", KUBECONFIG, words[0], *options, *words[1:]]
    # kubectl keeps what it learns about the API; without a home it would ask anew each time.
    env = {**os.environ, "HOME": "/root"}
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=seconds(timeout), check=False, env=env
    )
    if done.returncode:
        raise ClusterError(f"kubectl {' '.join(words[:3])}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def served_kinds(api_version: str) -> set[str]:
    """Kinds that the API server serves in a version of a group, `flowcontrol.apiserver.k8s.io/v1`; none in one that it
    does not know."""
    try:
        answer = json.loads(kubectl("get", "--raw", f"/apis/{api_version}"))
    except ClusterError as error:
        if "NotFound" in str(error):
            return set()
        raise
    except (ValueError, RecursionError) as error:
        raise ClusterError(f"the API server's answer about {api_version} is not JSON: {error}") from error
    return {entry["kind"] for entry in answer["resources"]}


def served(items: Sequence[Object]) -> tuple[list[Object], list[str]]:
    """Those of the objects whose kind the API server serves; and the other kinds, which this version does not have."""
    kinds = {version: served_kinds(version) for version in sorted({item["apiVersion"] for item in items})}
    there = [item for item in items if item["kind"] in kinds[item["apiVersion"]]]
    return there, sorted({item["kind"] for item in items if item not in there})


def edited(addon: Addon) -> str:
    """The documents of an add-on on this node, with its edits made."""
    path = addon["path"]
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError as error:
        raise ClusterError(f"{path} is not on this node: its image was made without it") from error
    for edit in addon.get("edits") or []:
        if edit["from"] not in text and not edit.get("optional", False):
            raise ClusterError(f"{path} does not hold {edit['from']!r}: it is of a version not known here")
        text = text.replace(edit["from"], edit["to"])
    return text


def without_jobs(text: str) -> str:
    """The documents less the Jobs: a Job prepares the rest once, and may be gone by itself when it is done."""
    documents = re.split(r"^---.*$", text, flags=re.M)
    return "\n---\n".join(each for each in documents if not re.search(r"^kind:\s*[\"']?Job[\"']?\s*$", each, re.M))


def items_of(output: str) -> dict[Key, Object]:
    """Objects that kubectl printed as JSON, by kind, namespace and name."""
    if not output.strip():
        return {}
    document = json.loads(output)
    items = document["items"] if document.get("kind") == "List" else [document]
    return {key_of(item): item for item in items}


def key_of(item: Object) -> Key:
    return (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])


def essence(item: Object) -> Object:
    """An object less what the cluster itself notes in it."""
    meta = {name: value for name, value in item["metadata"].items() if name not in _BOOKKEEPING}
    notes = {name: value for name, value in meta.get("annotations", {}).items() if name != _REVISION}
    rest = {name: value for name, value in item.items() if name not in ("status", "metadata")}
    return {**rest, "metadata": {**meta, "annotations": notes}}


def apply(
    manifests: Sequence[str],
    addons: Sequence[Addon] | None,
    absent: Sequence[Absent],
    nodes: Sequence[str] = (),
    *,
    check: bool,
) -> tuple[list[str], list[str]]:
    """Apply the documents and those of the add-ons, delete the ones in `absent`; (names of what changed, those of
    `nodes` that the cluster knows).

    manifests: documents, several per text.
    absent: objects, each with `api_version`, `kind`, `namespace` and `name`; only what is marked as ours goes, or with
        `unmarked` what an older version made, which marked nothing.
    nodes: names, looked for in the same start of kubectl, which costs an emulated CPU seconds.
    addons: each with `name`, `path` and `edits`; one that was applied once and is not listed any more is an error. One
        that is `kept` is not wanted any more, and goes on where it was applied. None leaves those that the cluster has
        out of it.
    """
    kept = {addon["name"] for addon in addons or [] if addon.get("kept")}
    there = [addon for addon in addons or [] if addon["name"] not in kept or os.path.exists(addon["path"])]
    texts = {addon["name"]: edited(addon) for addon in there}
    before = look([*manifests, *texts.values(), *map(named, absent), *map(node, nodes), json.dumps(RECORD)])
    applied = before.get(key_of(RECORD), {}).get("data") or {}
    texts = {name: text for name, text in texts.items() if name not in kept or name in applied}
    wanted = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(texts.items())}
    if addons is None:
        wanted = dict(applied)
    gone = sorted(set(applied) - set(wanted))
    if gone:
        raise ClusterError(
            f"{', '.join(gone)} was installed in this cluster and has left the file; add-ons are not taken out of a"
            " running cluster: put the setting back, or destroy the lab and provision it again"
        )
    parts = [text if applied.get(name) != wanted[name] else without_jobs(text) for name, text in texts.items()]
    changes = changed(before, send([*manifests, *parts], check=check))
    changes += remove(absent, before, check=check)
    if wanted != applied and not check:
        # Last: an add-on whose Jobs were not all made is applied whole again.
        send([json.dumps({**RECORD, "data": wanted})], check=False)
    return changes, [name for name in nodes if ("Node", "", name) in before]


def look(texts: Sequence[str]) -> dict[Key, Object]:
    """Those of the documents' objects that the cluster has."""
    return items_of(kubectl("get", "-f", "-", "--ignore-not-found", "-o", "json", stdin=stream(texts)))


def send(texts: Sequence[str], *, check: bool) -> dict[Key, Object]:
    if not texts:
        return {}
    words = ["apply", "-f", "-", "-o", "json"] + (["--dry-run=server"] if check else [])
    return items_of(kubectl(*words, stdin=stream(texts)))


def stream(texts: Sequence[str]) -> str:
    """The documents as one text. kubectl takes one that begins with a brace for a row of JSON, in which nothing stands
    between two documents."""
    return "".join(f"---\n{text}\n" for text in texts)


def changed(before: Mapping[Key, Object], after: Mapping[Key, Object]) -> list[str]:
    """Names of the objects that are new or differ."""
    return [
        f"{kind.lower()}/{name} {'changed' if (kind, space, name) in before else 'created'}"
        for (kind, space, name), item in after.items()
        if (kind, space, name) not in before or essence(before[kind, space, name]) != essence(item)
    ]


def node(name: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})


def named(entry: Absent) -> str:
    """An entry of `absent` as a document that names the object and no more."""
    return json.dumps(
        {
            "apiVersion": entry["api_version"],
            "kind": entry["kind"],
            "metadata": {"name": entry["name"], "namespace": entry["namespace"]},
        }
    )


def remove(absent: Sequence[Absent], before: Mapping[Key, Object], *, check: bool) -> list[str]:
    """Delete these objects where they are, as far as they are marked as ours or `unmarked` stands for it."""
    keys = {(entry["kind"], entry["namespace"], entry["name"]): entry.get("unmarked", False) for entry in absent}
    found = [key for key, unmarked in keys.items() if key in before and (unmarked or is_ours(before[key]))]
    for kind, space, name in [] if check else found:
        kubectl("delete", kind.lower(), name, "-n", space, "--ignore-not-found")
    return [f"{kind.lower()}/{name} deleted in {space}" for kind, space, name in found]


def is_ours(item: Object) -> bool:
    labels = item["metadata"].get("labels", {})
    return all(labels.get(name) == value for name, value in OURS.items())
