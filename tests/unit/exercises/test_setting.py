"""What a command becomes on a node, and which labs and students an exercise is for."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest

from emulator.core.errors import UsageError
from emulator.credentials.users import AccessRole
from emulator.exercises.model import Cluster, Command, Needs, Place, RunAs
from tests.support.exercise_labs import KUBERNETES_ALONE, SLURM_ALONE, exercise, lab, setting_of

ODD = """printf '%s|' "$EXERCISE_USER" '$(id)' "a'b" \\\\ "`echo tick`" '%' '!'; cat"""


def test_the_script_reaches_sh_as_it_is_written() -> None:
    """Through the login shell of the node, which is another one than that of the script."""
    line = setting_of(user="ada").line(Command(run=ODD))
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, input="fed", check=True)
    assert done.stdout == "ada|$(id)|a'b|\\|tick|%|!|fed"


def test_it_starts_in_the_home_of_its_user(tmp_path: object) -> None:
    line = setting_of().line(Command(run="pwd"))
    home = {**os.environ, "HOME": str(tmp_path)}
    assert subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, env=home, check=True
    ).stdout.strip() == str(tmp_path)


@pytest.mark.parametrize(
    ("run_as", "begins"),
    [
        (RunAs.ADMIN, "/usr/bin/env EXERCISE_USER=ada "),
        (RunAs.ROOT, "/usr/bin/sudo -n -H -- /usr/bin/env EXERCISE_USER=ada "),
        (RunAs.USER, "/usr/bin/sudo -n -H -u ada -- /usr/bin/env EXERCISE_USER=ada "),
    ],
)
def test_who_runs_it(run_as: RunAs, begins: str) -> None:
    assert setting_of(user="ada").line(Command(run="id", run_as=run_as)).startswith(begins)


def test_the_kubeconfig_of_the_admin_is_for_root_alone() -> None:
    setting = setting_of(replace(exercise(), cluster=Cluster.KUBERNETES), user="ada")
    lines = {who: setting.line(Command(run="kubectl", run_as=who)) for who in RunAs}
    assert [who for who, line in lines.items() if "KUBECONFIG" in line] == [RunAs.ROOT]


def test_variables_of_a_lab() -> None:
    slurm = setting_of(user="ada").variables()
    assert slurm == {
        "EXERCISE_USER": "ada",
        "EXERCISE_STARTED": "1767225600",
        "EXERCISE_GPUS": "2",
        "EXERCISE_GPU": "1g.10gb",
        "EXERCISE_CONTROLLER": "hpc-controller",
        "EXERCISE_COMPUTE": "hpc-compute-1",
    }
    cloud = setting_of(replace(exercise(), cluster=Cluster.KUBERNETES), user="ada").variables()
    assert (cloud["EXERCISE_NAMESPACE"], cloud["EXERCISE_WORKER"]) == ("student-ada", "cloud-cpu-worker-1")
    assert cloud["EXERCISE_GPUS"] == "0"
    owner = setting_of(replace(exercise(), cluster=Cluster.KUBERNETES)).variables()
    assert owner["EXERCISE_NAMESPACE"] == "exercise-own"


@pytest.mark.parametrize(
    ("cluster", "needs", "text", "gpus", "lacks"),
    [
        (Cluster.SLURM, Needs(compute_nodes=2, gpus=2), None, 2, ()),
        (Cluster.SLURM, Needs(compute_nodes=3), None, 2, ("3 compute nodes (it has 2)",)),
        (Cluster.SLURM, Needs(gpus=1), None, 0, ("1 GPU or slice in its Slurm cluster (it has 0)",)),
        (Cluster.KUBERNETES, Needs(workers=1), None, 2, ()),
        (Cluster.KUBERNETES, Needs(workers=2), None, 2, ("2 Kubernetes workers (it has 1)",)),
        (Cluster.KUBERNETES, Needs(gpus=1), None, 2, ("1 GPU or slice in its Kubernetes cluster (it has 0)",)),
        (Cluster.KUBERNETES, Needs(workers=2), SLURM_ALONE, 0, ("a Kubernetes cluster",)),
        (Cluster.SLURM, Needs(), KUBERNETES_ALONE, 0, ("a Slurm cluster",)),
    ],
)
def test_what_a_lab_lacks(cluster: Cluster, needs: Needs, text: str | None, gpus: int, lacks: tuple[str, ...]) -> None:
    setting = setting_of(replace(exercise(), cluster=cluster, needs=needs), spec=lab(text) if text else None, gpus=gpus)
    assert setting.lacks() == lacks
    if lacks:
        with pytest.raises(UsageError, match="lab demo cannot have the exercise own: it lacks") as caught:
            setting.require()
        assert lacks[0] in caught.value.what
        assert "exercise list" in caught.value.fix


def test_an_exercise_for_admins_is_refused_to_students() -> None:
    of = replace(exercise(), role=AccessRole.ADMIN)
    with pytest.raises(UsageError, match="ada is a student, and the exercise own takes an admin") as caught:
        setting_of(of, user="ada", role=AccessRole.STUDENT).require()
    assert "hyperscaler access add demo ada --role admin" in caught.value.fix
    setting_of(of, user="ada", role=AccessRole.ADMIN).require()
    setting_of(of).require()


def test_a_node_that_is_not_there_is_told() -> None:
    with pytest.raises(UsageError, match="lab demo has no worker node"):
        setting_of(spec=lab(SLURM_ALONE), gpus=0).node(Place.WORKER)
