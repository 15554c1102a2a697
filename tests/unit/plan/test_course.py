"""A plan on its way: in any order, whatever fails, a cluster is ready when it has all that it needs and not before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emulator.core.errors import HypervisorError
from emulator.plan.course import Course
from emulator.plan.model import Action, Change, Plan
from emulator.plan.resources import Domain, GoldenImage, Network, Resource, Secret, Volume

CLUSTERS = ("hpc", "cloud")


def lab() -> list[Resource]:
    """Both clusters with an image, a network and two nodes each; `secret/authority` is needed by no node."""
    made: list[Resource] = [Secret(name="authority", path="", size_bytes=1, encoding="text")]
    for cluster in CLUSTERS:
        net = Network(name=cluster, uuid="", bridge="", subnet="", gateway="", dns_domain="", hosts=(), nat=False)
        image = GoldenImage(name=f"{cluster}-base")
        made += [net, image]
        for number in range(2):
            name = f"{cluster}-{number}"
            disk = Volume(name=name, needs=(image.id,), path="", image=image.name, size_gib=1)
            made += [disk, domain(name, net.id, disk.id)]
    return made


def domain(name: str, network: str, volume: str) -> Domain:
    return Domain(
        name=name,
        needs=(network, volume),
        uuid="",
        node=name,
        vcpus=1,
        memory_mib=1,
        mac="",
        ip="",
        network=network,
        volume=volume,
        console_log="",
        accelerated=False,
    )


def needed_by(cluster: str) -> set[str]:
    return {item.id for item in lab() if cluster in item.name} | {"secret/authority"}


@given(st.permutations(lab()), st.sets(st.sampled_from([item.id for item in lab()]), max_size=2), st.data())
def test_ready_is_who_has_all_and_nobody_waits_for_the_other(
    order: list[Resource], failing: set[str], data: st.DataObject
) -> None:
    course = Course(Plan("demo", tuple(Change(Action.CREATE, item, "") for item in order)), CLUSTERS)
    ready = course.newly_ready()
    assert ready == []
    while steps := course.possible():
        step = data.draw(st.sampled_from(steps))
        course.begun(step)
        if step.resource.id in failing:
            course.failed(step, HypervisorError("refused"))
        else:
            course.done(step)
        new = course.newly_ready()
        finished = {each.resource.id for each in course.finished}
        assert all(needed_by(cluster) <= finished for cluster in new)
        assert not set(new) & set(ready)
        ready += new
    met = {failure.resource.id for failure in course.failures}
    assert set(ready) == {cluster for cluster in CLUSTERS if not needed_by(cluster) & met}
    if not failing:
        assert course.unstarted == []


def test_a_step_is_of_the_one_cluster_that_it_serves() -> None:
    course = Course(Plan("demo", tuple(Change(Action.CREATE, item, "") for item in lab())), CLUSTERS)
    shown = {step.resource.id: course.cluster_of(step) for step in course.possible()}
    assert shown == {
        "secret/authority": "",
        "network/hpc": "Slurm",
        "image/hpc-base": "Slurm",
        "network/cloud": "Kubernetes",
        "image/cloud-base": "Kubernetes",
    }
