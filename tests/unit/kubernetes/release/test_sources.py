"""Where Kubernetes comes from, and what is refused before anything is made."""

from __future__ import annotations

import dataclasses
import shutil
import stat
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from emulator.core.data_files import share_dir
from emulator.core.errors import ConfigError, HostNotFitError, UsageError
from emulator.images.build.input_version import input_version
from emulator.kubernetes.release.bundle import create_bundle
from emulator.kubernetes.release.cache_lock import cache_lock
from emulator.kubernetes.release.debian_packages import DebianArchive
from emulator.kubernetes.release.modules.module_build import ModuleBuild
from emulator.kubernetes.release.modules.node_runtime import NodeRuntime
from emulator.kubernetes.release.node_files import INPUT_NAME, RELEASE_FILE, NodeFiles, guest_record
from emulator.kubernetes.release.release import Release, ReleaseError, ReleaseManifest, describe_file
from emulator.kubernetes.release.sources import KubernetesSources, require_version
from emulator.kubernetes.release.upstream import UpstreamFetch
from emulator.kubernetes.release.upstream_origin import Addon, Origin
from emulator.labfile.kubernetes_versions import MODULE_MINORS, UPSTREAM_MINORS
from emulator.labfile.model import KubernetesSpec
from tests.support.fake_runner import FakeRunner
from tests.support.image_archives import image_archive
from tests.support.waiting import PATIENCE

ORIGIN = Origin(
    "https://packages.invalid/v{minor}/deb/", "https://packages.invalid/key", "F" * 40, "registry.invalid", {}
)


MODULES = share_dir() / "config/kubernetes/modules"
BUILT = f"{MODULE_MINORS[-1]}.2"
DEBIAN = "deb http://debian.invalid bookworm main"


@pytest.fixture
def sources(tmp_path: Path) -> KubernetesSources:
    """A host that reaches nothing and has nothing."""
    return host(tmp_path, reachable=False)


def host(tmp_path: Path, *, reachable: bool, debian: tuple[str, ...] = (DEBIAN,)) -> KubernetesSources:
    runner, cache = FakeRunner(), tmp_path / "cache"
    build = ModuleBuild(cache, runner, sources=debian, modules=MODULES)
    runtime = NodeRuntime(cache, runner, MODULES)
    upstream = UpstreamFetch(cache, runner, ORIGIN, debian, runtime, reachable=lambda url: reachable)
    return KubernetesSources(build, upstream, NodeFiles(cache, debian, runner), cache)


def keep(pointer: Path, version: str, *, fetched: Mapping[str, str] | None = None) -> None:
    """What an earlier run left in the cache."""
    release = pointer.with_name(f"{version}-kept")
    release.mkdir(parents=True)
    manifest = ReleaseManifest(
        version, "amd64", "a test", "r.invalid", "p:1", "d:1", "t:1", (), {}, fetched=fetched or {}
    )
    (release / "manifest.json").write_text(manifest.to_json())
    pointer.symlink_to(release.name)


def built(sources: KubernetesSources) -> Path:
    """Where the newest release is noted once it was compiled."""
    return sources.cache / f"modules-built-{sources.build._key(sources.build.set_of(''))}"


def test_what_is_left_of_a_build_that_was_ended(sources: KubernetesSources) -> None:
    nothing = "nothing of it is kept, and the next run begins anew"
    assert sources.left_of(KubernetesSpec()) == nothing
    work = sources.build._work(sources.build.set_of(""))
    work.mkdir(parents=True)
    assert str(work) in sources.left_of(KubernetesSpec())
    assert str(work) in sources.left_of(KubernetesSpec(source="modules"))
    assert sources.left_of(KubernetesSpec(source="upstream")) == nothing
    keep(built(sources), BUILT)
    told = f"Kubernetes {BUILT} itself is finished and kept in {sources.cache / f'{BUILT}-kept'}"
    assert sources.left_of(KubernetesSpec(source="modules")) == told


def test_what_is_named_is_taken(sources: KubernetesSources) -> None:
    for source in ("bundle:/srv/k8s.bundle", "upstream", "modules"):
        assert sources.resolve(KubernetesSpec(source=source)) == source


@pytest.mark.parametrize(("reachable", "source"), [(True, "upstream"), (False, "modules")])
def test_auto_takes_upstream_where_it_answers(tmp_path: Path, reachable: bool, source: str) -> None:
    assert host(tmp_path, reachable=reachable).resolve(KubernetesSpec()) == source


def test_the_probe_asks_for_a_file_that_is_there(tmp_path: Path) -> None:
    # The project's package host answers 403 for a directory, which says nothing about the packages in it.
    asked: list[str] = []

    def reachable(url: str) -> bool:
        asked.append(url)
        return True

    found = host(tmp_path, reachable=True)
    upstream = dataclasses.replace(found.upstream, reachable=reachable)
    assert upstream.is_reachable("v1.35.4")
    assert asked == ["https://packages.invalid/v1.35/deb/InRelease"]


def test_real_gpus_need_a_source_with_nvidias_plugin(sources: KubernetesSources) -> None:
    with pytest.raises(ConfigError, match="NVIDIA's device plugin"):
        sources.ready(KubernetesSpec(source="modules", real_gpus=True))
    assert sources.resolve(KubernetesSpec(real_gpus=True)) == "upstream"


def test_auto_compiles_only_what_the_modules_have(sources: KubernetesSources) -> None:
    for version in (MODULE_MINORS[-1], f"v{BUILT}"):
        assert sources.resolve(KubernetesSpec(version=version)) == "modules"
    for version in ("1.35", f"{MODULE_MINORS[-1]}.99"):
        assert sources.resolve(KubernetesSpec(version=version)) == "upstream"
    assert sources.build.version("") == BUILT


EXTRAS = KubernetesSpec(helm=True, ingress="lab-ingress")


def test_what_only_modules_have_is_compiled_also_where_upstream_answers(tmp_path: Path) -> None:
    sources = host(tmp_path, reachable=True)
    assert sources.resolve(KubernetesSpec()) == "upstream"
    assert sources.resolve(EXTRAS) == "modules"
    with pytest.raises(ConfigError, match=r"ingress: lab-ingress needs .*\n.*helm: true needs source: modules"):
        sources.ready(dataclasses.replace(EXTRAS, source="upstream"))


def test_a_bundle_has_to_hold_the_helm_that_a_lab_asks_for(sources: KubernetesSources, tmp_path: Path) -> None:
    path, release = bundle(tmp_path)
    wants = KubernetesSpec(source=f"bundle:{path}", helm=True)
    with pytest.raises(ConfigError, match="helm: true needs"):
        sources.ready(wants)
    path.unlink()
    (release.directory / "bin/helm").write_text("helm")
    files = {**release.manifest.files, "bin/helm": describe_file(release.directory / "bin/helm")}
    create_bundle(Release(release.directory, dataclasses.replace(release.manifest, files=files)), path)
    assert sources.ready(wants) is None


REPOSITORY = "registry.invalid"
PARTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")


def images(version: str) -> tuple[str, ...]:
    """What a cluster needs."""
    others = ("etcd:3.5.15-0", "pause:3.10", "coredns/coredns:v1.11.3", "tools:1")
    return tuple(f"{REPOSITORY}/{name}" for name in (*(f"{part}:v{version}" for part in PARTS), *others))


def bundle(
    tmp_path: Path, *, version: str = "1.35.4", architecture: str = "amd64", without: str = "(nothing)"
) -> tuple[Path, Release]:
    """A small bundle, and the release that it was made of."""
    directory = tmp_path / "release"
    for name in ("kubeadm", "kubelet", "kubectl"):
        (directory / "bin").mkdir(parents=True, exist_ok=True)
        (directory / "bin" / name).write_text(name)
    held = tuple(image for image in images(version) if without not in image)
    (directory / "images").mkdir(exist_ok=True)
    (directory / "images/kubernetes.tar").write_bytes(image_archive(*held))
    files = {str(path.relative_to(directory)): describe_file(path) for path in sorted(directory.glob("*/*"))}
    pause, dns, tools = (f"{REPOSITORY}/{name}" for name in ("pause:3.10", "coredns/coredns:v1.11.3", "tools:1"))
    manifest = ReleaseManifest(version, architecture, "a test", REPOSITORY, pause, dns, tools, held, files)
    release = Release(directory, manifest)
    create_bundle(release, tmp_path / "k8s.bundle")
    return tmp_path / "k8s.bundle", release


def test_a_damaged_bundle_is_refused_by_looking(sources: KubernetesSources, tmp_path: Path) -> None:
    path, release = bundle(tmp_path)
    wants = KubernetesSpec(source=f"bundle:{path}")
    assert sources.ready(wants) is None
    # Another byte in the last file: the manifest, which comes first, is as it was.
    data = bytearray(path.read_bytes())
    data[data.rindex(b"kubelet") + 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match="sha256 is"):
        sources.ready(wants)
    assert not sources.cache.exists()
    # What was unpacked of it before, and compared then, needs the bundle's content no more.
    shutil.copytree(release.directory, sources.cache / f"1.35.4-{release.manifest.digest[:12]}")
    place = sources.cache / f"1.35.4-{release.manifest.digest[:12]}"
    (place / "manifest.json").write_text(release.manifest.to_json())
    assert sources.ready(wants) is None


@pytest.mark.parametrize("version", ["1.19.16", "1.33.9", "1.99.0", "2.0.0"])
def test_a_bundle_of_a_version_that_cannot_be_set_up_is_refused(
    sources: KubernetesSources, tmp_path: Path, version: str
) -> None:
    path, _ = bundle(tmp_path, version=version)
    for use in (sources.ready, lambda wants: sources.make(wants, progress=lambda step, line: None)):
        with pytest.raises(ReleaseError, match=f"Kubernetes {version}, which this version") as caught:
            use(KubernetesSpec(source=f"bundle:{path}"))
        assert "1.34, 1.35" in caught.value.fix
    assert [each.name for each in sources.cache.glob("*")] == ["lock"]


def test_a_bundle_for_other_machines_is_refused(sources: KubernetesSources, tmp_path: Path) -> None:
    path, _ = bundle(tmp_path, architecture="arm64")
    with pytest.raises(ReleaseError, match="for arm64, and the nodes are amd64"):
        sources.ready(KubernetesSpec(source=f"bundle:{path}"))


@pytest.mark.parametrize("part", [*PARTS, "etcd", "pause", "coredns", "tools"])
def test_a_bundle_without_an_image_that_every_cluster_needs_is_refused(
    sources: KubernetesSources, tmp_path: Path, part: str
) -> None:
    path, _ = bundle(tmp_path, without=f"/{part}")
    with pytest.raises(ReleaseError, match=f"needs: {REPOSITORY}/(coredns/)?{part}"):
        sources.ready(KubernetesSpec(source=f"bundle:{path}"))


def test_one_lab_at_a_time_makes_a_release(sources: KubernetesSources, tmp_path: Path) -> None:
    path, _ = bundle(tmp_path)
    wants = KubernetesSpec(source=f"bundle:{path}")
    steps: list[str] = []
    begun, done = threading.Event(), threading.Event()

    def fetch() -> None:
        sources.release(wants, progress=told)
        done.set()

    def told(step: str, _line: str) -> None:
        steps.append(step)
        begun.set()

    with cache_lock(sources.cache, lambda step, line: None):
        rival = threading.Thread(target=fetch)
        rival.start()
        assert begun.wait(PATIENCE)
        assert not done.wait(0.2)
        assert steps == ["wait for another build"]
    rival.join(timeout=PATIENCE)
    assert steps[-1] == "unpack the bundle"
    assert len(list(sources.cache.glob("1.35.4-*"))) == 1


def test_auto_stays_with_what_was_built_when_upstream_appears(tmp_path: Path) -> None:
    found = host(tmp_path, reachable=True)
    keep(built(found), BUILT)
    assert found.resolve(KubernetesSpec()) == "modules"
    # It is not among the modules.
    assert found.resolve(KubernetesSpec(version="1.35")) == "upstream"


def test_auto_stays_with_what_was_fetched_when_upstream_is_gone(tmp_path: Path) -> None:
    found = host(tmp_path, reachable=False)
    keep(found.upstream._pointer("1.35", ()), "1.35.4")
    assert found.resolve(KubernetesSpec(version="v1.35")) == "upstream"
    assert found.ready(KubernetesSpec(version="1.35")) is None  # fetched, and no files of a node made of it yet
    assert found.resolve(KubernetesSpec()) == "modules"


def test_what_was_fetched_with_another_manifest_than_the_known_one_is_fetched_anew(tmp_path: Path) -> None:
    addon = Addon("v0.26.2", "https://x.invalid/flannel.yml")
    origin = dataclasses.replace(ORIGIN, addons={"flannel": addon})
    fetch = dataclasses.replace(host(tmp_path, reachable=True).upstream, origin=origin)
    keep(fetch._pointer("1.35", ["flannel"]), "1.35.4", fetched={"flannel": "a" * 64})
    for sha256, is_cached in (("", True), ("a" * 64, True), ("b" * 64, False)):
        known = dataclasses.replace(origin, addons={"flannel": dataclasses.replace(addon, sha256=sha256)})
        found = dataclasses.replace(fetch, origin=known).cached("1.35", ["flannel"])
        assert (found is not None) is is_cached


@pytest.mark.parametrize("wants", [KubernetesSpec(source="upstream"), KubernetesSpec(version="1.35")])
def test_upstream_out_of_reach_is_told_before_anything_is_made(
    sources: KubernetesSources, wants: KubernetesSpec
) -> None:
    with pytest.raises(HostNotFitError, match="cannot be reached") as caught:
        sources.ready(wants)
    assert caught.value.where == f"https://packages.invalid/v{wants.version or UPSTREAM_MINORS[-1]}/deb/"
    assert "bundle:PATH" in caught.value.fix


def test_each_release_is_described_by_its_own_words(sources: KubernetesSources, tmp_path: Path) -> None:
    path, release = bundle(tmp_path)
    digest = release.manifest.digest[:12]
    for wants, words in (
        (KubernetesSpec(), f"Kubernetes {BUILT} from modules"),
        (EXTRAS, f"Kubernetes {BUILT} from modules with helm, lab-ingress"),
        (KubernetesSpec(source="upstream"), f"the newest Kubernetes {UPSTREAM_MINORS[-1]} from upstream"),
        (KubernetesSpec(source="upstream", version="v1.35"), "the newest Kubernetes 1.35 from upstream"),
        (KubernetesSpec(source="upstream", version="1.35.4"), "Kubernetes 1.35.4 from upstream"),
        (KubernetesSpec(source=f"bundle:{path}"), f"Kubernetes 1.35.4 from bundle:{path}, digest {digest}"),
    ):
        assert sources.describe(wants) == words
    keep(sources.upstream._pointer("1.35", ()), "1.35.9")
    assert sources.describe(KubernetesSpec(version="1.35")).startswith("Kubernetes 1.35.9 from upstream, digest ")
    # The same version with other programs in it.
    path.unlink()
    (tmp_path / "release" / "bin" / "kubelet").write_text("another kubelet")
    files = {f"bin/{each.name}": describe_file(each) for each in (tmp_path / "release" / "bin").iterdir()}
    create_bundle(Release(tmp_path / "release", dataclasses.replace(release.manifest, files=files)), path)
    assert digest not in sources.describe(KubernetesSpec(source=f"bundle:{path}"))


def test_the_files_of_a_node_say_their_version_where_images_look_for_it(tmp_path: Path) -> None:
    _, release = bundle(tmp_path)
    record = tmp_path / "tree" / RELEASE_FILE
    record.parent.mkdir(parents=True)
    record.write_text(guest_record(release))
    assert input_version(INPUT_NAME, tmp_path / "tree") == "1.35.4"


def test_only_what_can_serve_the_lab_is_advised_instead_of_upstream(tmp_path: Path) -> None:
    found = host(tmp_path, reachable=False)
    addons = {name: Addon("v1", "https://x.invalid") for name in ("calico", "nvidia-device-plugin")}
    upstream = dataclasses.replace(found.upstream, origin=dataclasses.replace(ORIGIN, addons=addons))
    sources = dataclasses.replace(found, upstream=upstream)
    for wants, can_be_built in (
        (KubernetesSpec(source="upstream"), True),
        (KubernetesSpec(source="upstream", cni="calico"), False),
        (KubernetesSpec(cni="calico"), False),
        (KubernetesSpec(real_gpus=True), False),
        (KubernetesSpec(version="1.35"), False),
    ):
        with pytest.raises(HostNotFitError, match="cannot be reached") as caught:
            sources.ready(wants)
        assert ("source: modules" in caught.value.fix) is can_be_built, wants


INDEX = """\
Package: kubeadm
Version: 1.35.4-1.1
Architecture: amd64
Description: the program
 Version: 1.35.999-1.1

Package: kubeadm
Version: 1.35.10-1.1

Version: 1.35.999-1.1
Package: kubelet
"""


def with_index(sources: KubernetesSources, index: bytes | HostNotFitError) -> tuple[KubernetesSources, list[str]]:
    """Sources whose upstream has this index, and the addresses from which it was read."""
    asked: list[str] = []

    def fetched(url: str) -> bytes:
        asked.append(url)
        if isinstance(index, HostNotFitError):
            raise index
        return index

    return dataclasses.replace(sources, upstream=dataclasses.replace(sources.upstream, index=fetched)), asked


@pytest.mark.parametrize("source", ["auto", "upstream"])
def test_a_version_that_upstream_does_not_have_is_told_before_anything_is_made(tmp_path: Path, source: str) -> None:
    sources, asked = with_index(host(tmp_path, reachable=True), INDEX.encode())
    with pytest.raises(
        ConfigError, match=r"upstream has no Kubernetes v1\.35\.999; its newest .* is 1\.35\.10"
    ) as caught:
        sources.ready(KubernetesSpec(source=source, version="v1.35.999"))
    assert caught.value.where == "clusters.cloud.kubernetes_config.version"
    assert "such as 1.35" in caught.value.fix
    assert asked == ["https://packages.invalid/v1.35/deb/Packages"]
    assert not sources.cache.exists()


@pytest.mark.parametrize("index", [INDEX.encode(), b"", b"\xff: \n\n:", HostNotFitError("cannot be fetched")])
def test_versions_that_upstream_has_or_may_have_are_fine_by_looking(
    tmp_path: Path, index: bytes | HostNotFitError
) -> None:
    sources, asked = with_index(host(tmp_path, reachable=True), index)
    assert sources.ready(KubernetesSpec(version="1.35.4")) is None
    assert len(asked) == 1
    assert sources.ready(KubernetesSpec(version="1.35")) is None
    assert len(asked) == 1, "a minor version has a newest one"


def test_nothing_is_built_by_looking(sources: KubernetesSources, tmp_path: Path) -> None:
    assert sources.ready(KubernetesSpec()) is None
    assert not (tmp_path / "cache").exists()


def test_addons_that_cannot_be_had_are_refused_by_looking(sources: KubernetesSources) -> None:
    with pytest.raises(ConfigError, match="cni: calico"):
        sources.ready(KubernetesSpec(cni="calico", source="modules"))
    with pytest.raises(ConfigError, match="cni: calico"):
        sources.ready(KubernetesSpec(cni="calico", source="upstream"))


@pytest.mark.parametrize("asked", ["", "1.37", "v1.37", "1.37.2", "v1.37.2"])
def test_versions_that_the_source_gives(asked: str) -> None:
    require_version("1.37.2", KubernetesSpec(version=asked))


@pytest.mark.parametrize("asked", ["1.35", "1.3", "1.37.20", "1.37.1"])
def test_versions_that_it_does_not(asked: str) -> None:
    with pytest.raises(ConfigError, match=r"gives Kubernetes 1\.37\.2"):
        require_version("1.37.2", KubernetesSpec(version=asked))


def test_an_absent_bundle_is_named(sources: KubernetesSources) -> None:
    with pytest.raises(UsageError, match=r"no bundle /absent/k8s\.bundle"):
        sources.ready(KubernetesSpec(source="bundle:/absent/k8s.bundle"))


def test_a_host_without_debians_sources_is_told_what_to_do(tmp_path: Path) -> None:
    sources = host(tmp_path, reachable=False, debian=())
    for use in (sources.ready, lambda wants: sources.make(wants, progress=lambda step, line: None)):
        with pytest.raises(HostNotFitError, match="no sources of Debian 12") as caught:
            use(KubernetesSpec())
        assert "bundle create" in caught.value.fix
    # What was built before needs them no more, and brings its own containerd.
    keep(built(sources), BUILT)
    assert sources.ready(KubernetesSpec()) is None


def test_a_bundle_on_a_host_without_debians_sources_is_refused_by_looking(tmp_path: Path) -> None:
    path, _ = bundle(tmp_path)
    with pytest.raises(HostNotFitError, match="the nodes' containerd comes from Debian 12"):
        host(tmp_path, reachable=False, debian=()).ready(KubernetesSpec(source=f"bundle:{path}"))


def test_a_host_without_room_for_a_build_is_told_by_looking(
    sources: KubernetesSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 7 * 1024**3})())
    with pytest.raises(HostNotFitError, match="building Kubernetes needs 8 GiB of disk, 7 GiB are free"):
        sources.ready(KubernetesSpec(source="modules"))
    assert not sources.cache.exists()
    # What was built before takes no more room.
    keep(built(sources), BUILT)
    assert sources.ready(KubernetesSpec(source="modules")) is None


def test_what_killed_runs_left_goes_with_the_next_and_a_build_that_can_go_on_stays(
    sources: KubernetesSources, tmp_path: Path
) -> None:
    gone = (".unpack-1", "upstream-17.work", "node-3-1.35.4-0123456789ab.new", "node-3-1.35.4-0123456789ab.work")
    kept = ("modules-0123456789ab", "1.30.1-0123456789ab", "node-3-1.30.1-0123456789ab")
    for name in (*gone, *kept):
        (sources.cache / name / "bin").mkdir(parents=True)
    path, _ = bundle(tmp_path)
    sources.release(KubernetesSpec(source=f"bundle:{path}"), progress=lambda step, line: None)
    assert [name for name in (*gone, *kept) if (sources.cache / name).exists()] == list(kept)


def test_nobody_else_reads_the_package_sources(tmp_path: Path) -> None:
    """They may hold a password, and stay in the cache after a failure."""
    modes: list[int] = []
    runner = FakeRunner({"": lambda _call: modes.append(stat.S_IMODE(apt.stat().st_mode))})
    apt = tmp_path / "build" / "apt"
    apt.mkdir(mode=0o755, parents=True)
    DebianArchive(apt, ("deb http://user:secret@mirror.invalid bookworm main",), runner).update()
    assert "secret" in (apt / "sources.list").read_text()
    # What the host keeps itself from taking, it may still fetch for guests.
    (argv,) = runner.calls
    assert f"Dir::Etc::Preferences={apt}/preferences" in argv
    assert f"Dir::Etc::PreferencesParts={apt}/parts" in argv
    assert not (apt / "preferences").exists()
    assert modes == [0o700]
