"""What the playbook's module does to a node on its way to another release, also after a run that was killed."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.playbook_modules import PLAYBOOKS, kubeadm_config, kubernetes_upgrade, release_before

KEY = "1.37.2-0123456789ab"
OLD = {"version": "1.36.5", "images": ["r/kube-proxy:v1.36.5", "r/pause:3.10.2"]}
NEW = {"version": "1.37.2", "images": ["r/kube-proxy:v1.37.2", "r/pause:3.10.2"]}
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
IMAGES = ["images.tar", "control-plane-images.tar"]


class Node:
    """A node below a temporary directory; `programs` are started only by name, and noted."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.ran: list[list[str]] = []
        self.complaints: list[str] = []
        self.answers = True
        self.free = 100_000
        module = kubernetes_upgrade
        self.record = root / "usr/lib/hyperscaler/kubernetes.json"
        self.manifests = root / "etc/kubernetes/manifests"
        self.place = root / "var/lib/hyperscaler/upgrade" / KEY
        for path in (self.record.parent, self.manifests, root / "usr/local/bin", self.place):
            path.mkdir(parents=True)
        self.record.write_text(json.dumps(OLD))
        (root / "usr/local/bin/kubelet").write_text("kubelet 1.36.5")
        for name in COMPONENTS:
            (self.manifests / f"{name}.yaml").write_text(f"{name} 1.36.5")
        monkeypatch.setattr(module, "ROOT", f"{root}/")
        monkeypatch.setattr(module, "TOP", str(self.place.parent))
        monkeypatch.setattr(module, "RELEASE", str(self.record))
        self.before = root / "var/lib/hyperscaler/upgrade-before"
        monkeypatch.setattr(release_before, "BEFORE", str(self.before))
        monkeypatch.setattr(release_before, "STATIC_PODS", str(self.manifests))
        monkeypatch.setattr(release_before, "ctr", lambda *words: self.run(["ctr", *words], 1))
        monkeypatch.setattr(module, "PATCHES", str(root / "etc/kubernetes/patches"))
        monkeypatch.setattr(module, "BACKUPS", str(root / "etc/kubernetes/tmp/kubeadm-*"))
        monkeypatch.setattr(module, "staged_file", lambda key, path: self.staged(path))
        monkeypatch.setattr(module, "run", self.run)
        monkeypatch.setattr(module, "kubeadm", self.run)
        monkeypatch.setattr(module, "answers", lambda ip, timeout: self.answers)
        monkeypatch.setattr(module, "kubelet_journal", lambda: "")
        monkeypatch.setattr(module, "again_where_it_fails", lambda step: step())
        monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": self.free << 20}))
        monkeypatch.setattr(module.time, "sleep", lambda seconds: None)

    def staged(self, path: str) -> str:
        """Where a file of the release lies; RELEASE is a path of the test here."""
        return str(self.place / "root" / path.removeprefix(str(self.root)).lstrip("/"))

    def run(self, argv: list[str], timeout: float, **_: Any) -> Any:
        self.ran.append([Path(argv[0]).name, *argv[1:]])
        if "apply" in argv and self.complaints:
            raise kubernetes_upgrade.NodeError(self.complaints.pop(0))
        if argv[0] == "tar":
            return subprocess.run(argv, check=True, capture_output=True)
        if "jobs" in argv:
            return subprocess.CompletedProcess(argv, 0, "job.batch/upgrade-health-check-17\njob.batch/own\n", "")
        return subprocess.CompletedProcess(argv, 0, "", "")

    def copied(self) -> None:
        """What the playbook copies."""
        with tarfile.open(self.place / "programs.tar", "w") as archive:
            for name, text in {
                "usr/local/bin/kubelet": "kubelet 1.37.2",
                "usr/local/bin/kubeadm": "kubeadm 1.37.2",
                "usr/lib/hyperscaler/kubernetes.json": json.dumps(NEW),
            }.items():
                path = self.root / "source"
                path.write_text(text)
                path.chmod(0o755)
                archive.add(path, name)
        for name in IMAGES:
            (self.place / name).write_text(name)

    def words(self) -> list[str]:
        return [" ".join(argv[:3]) for argv in self.ran]


def params(action: str, **more: Any) -> dict[str, Any]:
    given = {"action": action, "key": KEY, "archives": IMAGES, "mebibytes": 1000, "node": "10.20.0.10", "timeout": 60}
    return {**given, **more}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def staged(node: Node) -> Node:
    node.copied()
    assert kubernetes_upgrade.stage(params("stage"))
    node.ran.clear()
    return node


# ------------------------------------------------------------ files
def test_files_are_taken_in_and_the_archives_go(node: Node) -> None:
    assert kubernetes_upgrade.probe(params("probe")) == {
        "changed": False,
        "staged": False,
        "directory": str(node.place),
    }
    node.copied()
    kubernetes_upgrade.stage(params("stage"))
    imported = [argv[-1] for argv in node.ran if argv[3:5] == ["images", "import"]]
    assert imported == [f"{node.place}/{name}" for name in IMAGES]
    assert sorted(path.name for path in node.place.iterdir()) == ["complete", "root"]
    assert kubernetes_upgrade.probe(params("probe"))["staged"]
    assert (node.root / "usr/local/bin/kubelet").read_text() == "kubelet 1.36.5", "nothing is in its place yet"


def test_a_node_that_has_the_release_gets_no_files(node: Node) -> None:
    node.record.write_text(json.dumps(NEW))
    assert kubernetes_upgrade.probe(params("probe"))["staged"]


def test_files_of_another_release_go(node: Node) -> None:
    other = node.place.parent / "1.37.1-0123456789ab"
    other.mkdir()
    kubernetes_upgrade.probe(params("probe"))
    assert not other.exists()
    assert node.place.exists()


@pytest.mark.parametrize("key", ["../../etc", "1.37.2", "1.37.2-0123456789ab/..", ""])
def test_a_key_that_is_none_is_refused(node: Node, key: str) -> None:
    with pytest.raises(kubernetes_upgrade.NodeError, match="names no release"):
        kubernetes_upgrade.probe(params("probe", key=key))


def test_a_node_without_room_says_how_much_is_missing(node: Node) -> None:
    node.free = 2999
    with pytest.raises(kubernetes_upgrade.NodeError, match=r"needs 3000 MiB on this node .*, and 2999 MiB are free"):
        kubernetes_upgrade.probe(params("probe"))


# ------------------------------------------------------------ kubeadm
def test_the_control_plane_is_upgraded_by_the_new_kubeadm(node: Node) -> None:
    staged(node)
    assert kubernetes_upgrade.control_plane(params("control_plane"))
    assert node.words()[0] == "kubeadm upgrade apply"
    assert node.ran[0][-1] == "--yes"
    assert node.ran[-1][-3:] == ["delete", "job.batch/upgrade-health-check-17", "--wait=false"]
    document = json.loads((node.place / "kubeadm.yaml").read_text())
    assert document["apply"]["kubernetesVersion"] == "v1.37.2"
    patched = {path.name: path.read_text() for path in (node.root / "etc/kubernetes/patches").iterdir()}
    assert patched == kubeadm_config.patches("1.37.2")


def test_a_control_plane_whose_record_says_so_is_left(node: Node) -> None:
    node.record.write_text(json.dumps(NEW))
    for action in ("control_plane", "worker", "install", "finish"):
        assert not getattr(kubernetes_upgrade, action)(params(action))
    assert node.ran == []


def test_a_static_pod_that_a_killed_kubeadm_moved_away_is_put_back(node: Node) -> None:
    staged(node)
    release_before.keep_manifests()
    (node.manifests / "etcd.yaml").unlink()
    (node.manifests / "kube-apiserver.yaml").write_text("kube-apiserver 1.37.2")
    kubernetes_upgrade.probe(params("probe", key="1.37.3-0123456789ab"))  # the person went on to another release
    kubernetes_upgrade.probe(params("probe"))
    staged(node)
    kubernetes_upgrade.control_plane(params("control_plane"))
    assert (node.manifests / "etcd.yaml").read_text() == "etcd 1.36.5"
    assert (node.manifests / "kube-apiserver.yaml").read_text() == "kube-apiserver 1.37.2", "what is there stays"


def test_a_static_pod_that_is_lost_is_named(node: Node) -> None:
    staged(node)
    (node.manifests / "etcd.yaml").unlink()
    with pytest.raises(kubernetes_upgrade.NodeError, match=r"etcd\.yaml is missing; kubeadm keeps copies"):
        kubernetes_upgrade.control_plane(params("control_plane"))
    assert node.ran == []


def test_a_silent_api_server_is_named_before_kubeadm_runs(node: Node) -> None:
    staged(node).answers = False
    with pytest.raises(kubernetes_upgrade.NodeError, match="the API server does not answer after 60 s"):
        kubernetes_upgrade.control_plane(params("control_plane"))
    assert node.ran == []


@pytest.mark.parametrize(
    ("complaint", "tries"), [("context deadline exceeded", 4), ("CoreDNS will not be upgraded", 1)]
)
def test_what_was_too_slow_is_tried_again(node: Node, complaint: str, tries: int) -> None:
    staged(node).complaints = [complaint] * 4
    with pytest.raises(kubernetes_upgrade.NodeError, match=complaint):
        kubernetes_upgrade.control_plane(params("control_plane"))
    assert node.words().count("kubeadm upgrade apply") == tries


def test_a_worker_gets_its_configuration(node: Node) -> None:
    staged(node)
    assert kubernetes_upgrade.worker(params("worker"))
    assert node.words() == ["kubeadm upgrade node"]


@pytest.mark.parametrize("version", ["1.30.4", "1.28.0"])
def test_no_configuration_of_an_upgrade_before_v1beta4(version: str) -> None:
    with pytest.raises(kubeadm_config.UnsupportedVersionError, match=r"1\.31 is the first"):
        kubeadm_config.upgrade_document(version, 60)


# ------------------------------------------------------------ programs and the record
def test_every_file_but_the_record_is_put_into_place(node: Node) -> None:
    staged(node)
    assert kubernetes_upgrade.install(params("install"))
    program = node.root / "usr/local/bin/kubelet"
    assert program.read_text() == "kubelet 1.37.2"
    assert program.stat().st_mode & 0o777 == 0o755
    assert json.loads(node.record.read_text()) == OLD
    assert not kubernetes_upgrade.install(params("install")), "a second time nothing differs"
    assert node.words() == ["systemctl daemon-reload"]


def test_what_a_killed_run_left_half_there_is_no_hindrance(node: Node) -> None:
    staged(node)
    (node.root / "usr/local/bin/kubelet.upgrade").write_text("half")
    kubernetes_upgrade.install(params("install"))
    assert sorted(path.name for path in (node.root / "usr/local/bin").iterdir()) == ["kubeadm", "kubelet"]


def test_at_last_the_record_says_so(node: Node) -> None:
    staged(node)
    backup = node.root / "etc/kubernetes/tmp/kubeadm-backup-etcd-1"
    backup.mkdir(parents=True)
    assert kubernetes_upgrade.finish(params("finish"))
    assert json.loads(node.record.read_text()) == NEW
    assert node.record.stat().st_mode & 0o777 == 0o644
    assert not node.place.exists()
    assert not backup.exists()
    assert node.ran == [], "an add-on may still run from the old release's images"
    assert not kubernetes_upgrade.finish(params("finish"))


def test_images_of_the_release_before_go_when_all_is_done(node: Node) -> None:
    staged(node)
    kubernetes_upgrade.finish(params("finish"))
    assert kubernetes_upgrade.forget(params("forget"))
    assert node.ran == [["ctr", "images", "rm", "r/kube-proxy:v1.36.5"]], "pause is the new release's, too"
    assert not node.before.exists()
    assert not kubernetes_upgrade.forget(params("forget"))


def test_images_of_two_upgrades_of_which_none_ended_go_together(node: Node) -> None:
    release_before.note_images({"images": ["r/kube-proxy:v1.35.9", "r/pause:3.10.1"]})
    staged(node)
    kubernetes_upgrade.finish(params("finish"))
    kubernetes_upgrade.forget(params("forget"))
    assert [argv[-1] for argv in node.ran] == ["r/kube-proxy:v1.35.9", "r/kube-proxy:v1.36.5", "r/pause:3.10.1"]


def test_a_configuration_does_not_change_when_the_copied_files_go(node: Node) -> None:
    """Units start anew when a file that they read changed after their start, and a link that goes is such a change."""
    staged(node)
    kubernetes_upgrade.install(params("install"))
    program = node.root / "usr/local/bin/kubelet"
    before = program.stat()
    kubernetes_upgrade.finish(params("finish"))
    assert (program.stat().st_ctime_ns, program.stat().st_nlink) == (before.st_ctime_ns, 1)


@pytest.mark.parametrize("damaged", ["[]", '{"images": 7}', '{"images": [1, {}]}'])
def test_a_damaged_list_of_images_names_none(node: Node, damaged: str) -> None:
    node.before.mkdir()
    (node.before / "images.json").write_text(damaged)
    assert not kubernetes_upgrade.forget(params("forget"))
    assert node.ran == []


@pytest.mark.parametrize(
    ("version", "status", "trouble"),
    [("v1.37.2", "True", ""), ("v1.36.5", "True", "its kubelet is v1.36.5"), ("v1.37.2", "False", "it is not Ready")],
)
def test_a_node_is_back_with_the_new_kubelet(version: str, status: str, trouble: str) -> None:
    ready = {"nodeInfo": {"kubeletVersion": version}, "conditions": [{"type": "Ready", "status": status}]}
    assert kubernetes_upgrade.node_trouble(json.dumps({"status": ready}), "v1.37.2") == trouble


@pytest.mark.parametrize("answer", ["", "[]", "{}", '{"status": {"nodeInfo": 1}}', "[" * 9999])
def test_an_answer_that_is_none_of_kubectl(answer: str) -> None:
    assert "cannot be read" in kubernetes_upgrade.node_trouble(answer, "v1.37.2")


# ------------------------------------------------------------ the playbook
def test_each_step_of_the_playbook_has_its_tag_and_the_record_comes_last() -> None:
    plays = yaml.safe_load((PLAYBOOKS / "playbook-upgrade.yml").read_text())
    assert [(play["hosts"], play["tags"]) for play in plays] == [
        ("cloud", ["stage"]),
        ("cloud_control_plane", ["control-plane"]),
        ("cloud_workers", ["worker"]),
        ("cloud", ["control-plane", "worker"]),
        ("cloud", ["forget"]),
    ]
    actions = [task.get("kubernetes_upgrade", {}).get("action") for play in plays for task in play["tasks"]]
    assert actions == ["probe", None, "stage", "control_plane", "worker", "install", None, "await", "finish", "forget"]
    assert all(play.get("serial") == 1 for play in plays if "worker" in play["tags"])
