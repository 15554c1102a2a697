"""What a node keeps of the release before, while it is upgraded. Standard library only: it runs in the guests."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

from ansible.module_utils.kubeadm_reset import NodeError, ctr
from ansible.module_utils.kubeadm_run import read_json, write_private

# Of no release by name, so that an upgrade to another one than at the first try finds it.
BEFORE = "/var/lib/hyperscaler/upgrade-before"
STATIC_PODS = "/etc/kubernetes/manifests"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def keep_manifests() -> None:
    """Copies of the static pods as they are, and those that are missing put back from the copies of an earlier try.

    kubeadm moves the old manifest away before it moves the new one in: killed in between, it leaves none, and then
    nothing that could be asked to go on.
    """
    for name in COMPONENTS:
        path, kept = f"{STATIC_PODS}/{name}.yaml", f"{BEFORE}/{name}.yaml"
        source, target = (path, kept) if os.path.exists(path) else (kept, path)
        if not os.path.exists(source):
            raise NodeError(
                f"{path} is missing; kubeadm keeps copies in /etc/kubernetes/tmp/kubeadm-backup-manifests-*"
            )
        with open(source, encoding="utf-8") as stream:
            write_private(target, stream.read())


def note_images(record: Any) -> None:
    """Note the images of a release that the node is about to leave, next to those of an earlier one."""
    write_private(_images_file(), json.dumps({"images": sorted(_noted() | images_of(record))}))


def forget_before(record: Any) -> bool:
    """Remove everything of the releases before, less the images that the release of `record` has, too; whether an
    image went."""
    gone = sorted(_noted() - images_of(record))
    for image in gone:
        ctr("images", "rm", image)
    shutil.rmtree(BEFORE, ignore_errors=True)
    return bool(gone)


def images_of(record: Any) -> set[str]:
    """Names of images in a node's record of a release."""
    found = record.get("images") if isinstance(record, dict) else None
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()


def _noted() -> set[str]:
    return images_of(read_json(_images_file()))


def _images_file() -> str:
    return f"{BEFORE}/images.json"
