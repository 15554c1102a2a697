#!/usr/bin/python3
"""Ansible module: brings a node of a standing Kubernetes cluster to the release whose files were copied to it.

The steps are taken in their order, and each may be taken again: nothing of an earlier run is counted on but what lies
on the node. The node's record of its release is written last; until then all of it is done once more. Programs are
linked into place one by one, each complete, so that a node whose power fails starts with one release's or the other's.
"""

from __future__ import annotations

import filecmp
import glob
import json
import os
import re
import shutil
import subprocess
import time
from typing import Any, Literal, TypedDict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kubeadm_config import PATCHES, UnsupportedVersionError, patches, to_yaml, upgrade_document
from ansible.module_utils.kubeadm_reset import NodeError, run
from ansible.module_utils.kubeadm_run import (
    RELEASE,
    again_where_it_fails,
    again_where_it_was_too_slow,
    answers,
    kubeadm,
    kubelet_journal,
    one_at_a_time,
    read_json,
    write_private,
)
from ansible.module_utils.pace import Watch, seconds
from ansible.module_utils.release_before import forget_before, keep_manifests, note_images

DOCUMENTATION = r"""
module: kubernetes_upgrade
short_description: Brings a node of a standing cluster to another release
options:
  action:
    description: C(probe) says what of the release the node has; C(stage) unpacks its programs and takes in its images;
      C(control_plane) and C(worker) run kubeadm; C(install) puts the programs into place; C(finish) writes the node's
      record; C(forget) removes the old release's images; C(await), on the control plane, waits until C(node) is Ready
      with the release's kubelet.
    type: str
  key:
    description: Name of the release's files, its version and a part of its digest; for all actions but C(forget).
    type: str
  archives:
    description: Names of the archives of container images that were copied (action C(stage)).
    type: list
    elements: str
  mebibytes:
    description: What the files take, for C(probe).
    type: int
  node:
    description: Name of the node, for C(await); its address, for C(control_plane).
    type: str
  timeout:
    description: Seconds, of a fast host, for a component to be up.
    type: int
"""

RETURN = r"""
directory:
  description: Where the release's files belong on this node (action C(probe)).
staged:
  description: Whether all of them were taken in already (action C(probe)).
"""


class Params(TypedDict):
    action: Literal["probe", "stage", "control_plane", "worker", "install", "finish", "forget", "await"]
    key: str
    archives: list[str]
    mebibytes: int
    node: str
    timeout: int


TOP = "/var/lib/hyperscaler/upgrade"
KEY = re.compile(r"(\d{1,2}\.\d{1,3}\.\d{1,3})-[0-9a-f]{12}")
PROGRAMS = "programs.tar"
STAMP = "complete"
# What kubeadm keeps of the old control plane while it works, etcd's data included, and leaves where it was killed.
BACKUPS = "/etc/kubernetes/tmp/kubeadm-*"
IMPORT_SECONDS = 1800
ADMIN = "/etc/kubernetes/admin.conf"
KUBECTL = ("kubectl", "--kubeconfig", ADMIN, "--namespace", "kube-system")
# For a while the images of a release lie on the node as archives, in containerd's store, and unpacked.
TIMES = 3
ROOT = "/"
POLL = 3.0
SMALL_BYTES = 1 << 20


def directory(key: str) -> str:
    return f"{TOP}/{key}"


def version_of(key: str) -> str:
    match = KEY.fullmatch(key)
    if match is None:
        raise NodeError(f"{key!r} names no release")
    return match[1]


def probe(params: Params) -> dict[str, Any]:
    """Whether the files were taken in; files of other releases, which an upgrade left that was given up, go."""
    version_of(params["key"])
    place = directory(params["key"])
    os.makedirs(TOP, mode=0o700, exist_ok=True)
    for name in os.listdir(TOP):
        if name != params["key"]:
            shutil.rmtree(f"{TOP}/{name}", ignore_errors=True)
    staged = is_at(params["key"]) or os.path.exists(f"{place}/{STAMP}")
    if not staged:
        os.makedirs(place, mode=0o700, exist_ok=True)
        require_room(params["mebibytes"] * TIMES, used_mib(place))
    return {"changed": False, "staged": staged, "directory": place}


def used_mib(place: str) -> int:
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(place) for name in names) >> 20


def require_room(needed: int, there: int) -> None:
    free = shutil.disk_usage(TOP).free >> 20
    if free + there < needed:
        raise NodeError(
            f"the new release needs {needed} MiB on this node while it is put in, and {free + there} MiB are free:"
            " remove files and images that nobody needs, or give the node a larger disk (disk_gb) and provision"
        )


def stage(params: Params) -> bool:
    """Unpack the programs, give containerd the images."""
    place = directory(params["key"])
    tree = f"{place}/root"
    shutil.rmtree(tree, ignore_errors=True)
    os.makedirs(tree, mode=0o700)
    run(
        [
            "tar",
            "--extract",
            "--no-same-owner",
            "--same-permissions",
            "--directory",
            tree,
            "--file",
            f"{place}/{PROGRAMS}",
        ],
        600,
    )
    for at, _, names in os.walk(tree):
        for name in names:
            with open(os.path.join(at, name), "rb") as stream:
                os.fsync(stream.fileno())
    for name in params["archives"]:
        run(["ctr", "--namespace", "k8s.io", "images", "import", f"{place}/{name}"], IMPORT_SECONDS)
    for name in (PROGRAMS, *params["archives"]):
        os.unlink(f"{place}/{name}")
    write_private(f"{place}/{STAMP}", "")
    return True


def staged_file(key: str, path: str) -> str:
    """A file of the release, by its path on a node."""
    found = f"{directory(key)}/root{path}"
    if not os.path.exists(found):
        raise NodeError(f"{found} is missing: the files of the release were not copied to this node")
    return found


def is_at(key: str) -> bool:
    """Whether this node's record names the release, which it does when all was done."""
    record = read_json(RELEASE)
    return isinstance(record, dict) and record.get("version") == version_of(key)


def control_plane(params: Params) -> bool:
    """kubeadm's own upgrade of the control plane. It begins where it stands: what is up to date already is left."""
    key, timeout = params["key"], params["timeout"]
    if is_at(key):
        return False
    config = configuration(params)
    program = staged_file(key, "/usr/local/bin/kubeadm")

    def prepare() -> None:
        keep_manifests()
        require_answers(params)

    prepare()
    for name, text in patches(version_of(key)).items():
        write_private(f"{PATCHES}/{name}", text)
    apply = [program, "upgrade", "apply", "--config", config, "--yes"]
    again_where_it_was_too_slow(lambda: kubeadm(apply, timeout), prepare)
    forget_jobs()
    return True


def forget_jobs() -> None:
    """kubeadm tries whether a Job can run, and leaves it, which would pass for a pod of the system that failed."""
    jobs = run([*KUBECTL, "get", "jobs", "-o", "name"], 300, check=False).stdout.split()
    ours = [name for name in jobs if name.startswith("job.batch/upgrade-health-check-")]
    if ours:
        run([*KUBECTL, "delete", *ours, "--wait=false"], 300, check=False)


def require_answers(params: Params) -> None:
    if not answers(params["node"], params["timeout"]):
        raise NodeError(f"the API server does not answer after {params['timeout']} s and more\n{kubelet_journal()}")


def worker(params: Params) -> bool:
    """kubeadm's part of a worker: the new kubelet's configuration."""
    key = params["key"]
    if is_at(key):
        return False
    config, program = configuration(params), staged_file(key, "/usr/local/bin/kubeadm")
    again_where_it_fails(lambda: kubeadm([program, "upgrade", "node", "--config", config], params["timeout"]))
    return True


def configuration(params: Params) -> str:
    """kubeadm's configuration file for this upgrade."""
    path = f"{directory(params['key'])}/kubeadm.yaml"
    write_private(path, to_yaml([upgrade_document(version_of(params["key"]), seconds(params["timeout"]))]))
    return path


def install(params: Params) -> bool:
    """Put every file of the release into its place but the record; whether any differed."""
    if is_at(params["key"]):
        return False
    tree, changed = f"{directory(params['key'])}/root", False
    for at, _, names in os.walk(tree):
        for name in sorted(names):
            path = os.path.join(at, name)
            target = os.path.normpath(ROOT + os.path.relpath(path, tree))
            if target == RELEASE or (os.path.exists(target) and filecmp.cmp(path, target, shallow=False)):
                continue
            put(path, target)
            changed = True
    if changed:
        run(["systemctl", "daemon-reload"], 60)
    return changed


def put(path: str, target: str) -> None:
    """The file at once or not at all: a program that runs keeps its own.

    A large one is linked, which costs no second copy. When the link's other end goes, it passes for changed, and units
    that read it would start anew: so a configuration is copied.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    temporary = f"{target}.upgrade"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    if os.path.getsize(path) < SMALL_BYTES:
        shutil.copy2(path, temporary)
    else:
        try:
            os.link(path, temporary)
        except OSError:  # another file system
            shutil.copy2(path, temporary)
    os.rename(temporary, target)


def finish(params: Params) -> bool:
    """Note the old release's images, record the new one, then forget the files that were copied."""
    key, place = params["key"], directory(params["key"])
    if is_at(key):
        shutil.rmtree(place, ignore_errors=True)
        return False
    with open(staged_file(key, RELEASE), encoding="utf-8") as stream:
        text = stream.read()
    note_images(read_json(RELEASE))
    for path in glob.glob(BACKUPS):
        shutil.rmtree(path, ignore_errors=True)
    write_record(text)
    shutil.rmtree(place, ignore_errors=True)
    return True


def forget(params: Params) -> bool:
    """Remove what is left of the release before. Its images stay until the cluster's own objects name others: what runs
    from them could not start again until then."""
    del params
    return forget_before(read_json(RELEASE))


def write_record(text: str) -> None:
    """Readable by everybody, as the image has it."""
    write_private(RELEASE, text)
    os.chmod(RELEASE, 0o644)


def wait_for_node(params: Params) -> bool:
    """Until the cluster sees the node Ready with the new kubelet; this module runs on the control plane then."""
    wanted = f"v{version_of(params['key'])}"
    watch, said = Watch(params["timeout"]), ""
    argv = [*KUBECTL, "get", "node", params["node"], "-o", "json"]
    while True:
        done = run(argv, 60, check=False)
        said = node_trouble(done.stdout, wanted) if done.returncode == 0 else done.stderr.strip()
        if not said:
            return False
        if given_up := watch.over(said):
            raise NodeError(f"{params['node']} is not back {given_up}: {said}")
        time.sleep(POLL)


def node_trouble(answer: str, version: str) -> str:
    """Why a node is not back yet; nothing when it is."""
    try:
        status = json.loads(answer)["status"]
        kubelet = status["nodeInfo"]["kubeletVersion"]
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status["conditions"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"kubectl's answer cannot be read: {error}"
    if kubelet != version:
        return f"its kubelet is {kubelet!s:.40}"
    return "" if ready else "it is not Ready"


def main() -> None:
    actions = ["probe", "stage", "control_plane", "worker", "install", "finish", "forget", "await"]
    module = AnsibleModule(
        argument_spec={
            "action": {"type": "str", "required": True, "choices": actions},
            "key": {"type": "str", "default": ""},
            "archives": {"type": "list", "elements": "str", "default": []},
            "mebibytes": {"type": "int", "default": 0},
            "node": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 1200},
        },
    )
    params = module.params
    steps = {
        "stage": stage,
        "control_plane": control_plane,
        "worker": worker,
        "install": install,
        "finish": finish,
        "forget": forget,
    }
    try:
        if params["action"] == "await":
            module.exit_json(changed=wait_for_node(params))
        with one_at_a_time(params["timeout"]):
            result = probe(params) if params["action"] == "probe" else {"changed": steps[params["action"]](params)}
    except (
        NodeError,
        UnsupportedVersionError,
        OSError,
        ValueError,
        subprocess.SubprocessError,
    ) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
