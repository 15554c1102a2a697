"""Text of a lab file is hostile: Ansible, which runs as the host's root, must evaluate none of it as a template."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from emulator.core.ansible_text import literal_template
from emulator.core.data_files import share_dir
from emulator.core.paths import LabPaths
from emulator.guests.configure.model import TaskStatus
from emulator.guests.configure.playbook import PlaybookRun, run_playbook
from emulator.guests.inventory.build import build_inventory
from emulator.guests.inventory.model import AnsibleInventory, ConnectionFacts, InventoryGroup, InventoryHost, VarValue
from emulator.guests.inventory.render import InventoryFormat, render
from emulator.kubernetes.config.kubespray import kubespray_inventory
from emulator.labfile.load import load_spec
from tests.support.waiting import PATIENCE

BIN = Path(sys.executable).parent


def attacks(mark: Path) -> dict[str, str]:
    """Texts that make the file `mark` where they are evaluated."""
    run = f"lookup('ansible.builtin.pipe', 'touch {mark}')"
    texts = {
        "expression": "{{ RUN }}",
        "statement": "{% set x = RUN %}",
        "in the midst": "deb {{ RUN }} bookworm main",
        "quotes": "'\" ' }} {{ RUN }} {{ '\"",
        "backslashes": "\\' }} {{ RUN }} \\\\' {{",
        "raw block left": "{% endraw %}{{ RUN }}{% raw %}",
        "comment left": "#} {{ RUN }} {#",
        "lines": "first\n{{ RUN }}\nlast",
        "unicode": "\u00e9\U0001f600{{ RUN }}\u202e",
        "unsafe mark": "!unsafe {{ RUN }}",
        "no template": "{ { not one } } 100% #",
    }
    return {name: text.replace("RUN", run) for name, text in texts.items()}


def hostile(texts: dict[str, str]) -> AnsibleInventory:
    """Attacks at all depths, as variables of a host, of a group and of all."""
    values = {f"text_{index}": text for index, text in enumerate(texts.values())}
    deep: dict[str, VarValue] = {"deep": ({"text": tuple(texts.values()), "more": {"inner": texts["expression"]}},)}
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    return AnsibleInventory(
        (InventoryHost("here", {**local, **values, **deep}),),
        (InventoryGroup("hpc", hosts=("here",), vars={"of_group": texts["expression"]}),),
        {"of_all": texts["statement"], "sources": tuple(texts.values())},
    )


PLAY = """\
- hosts: hpc
  gather_facts: false
  vars:
    joined: "{{ sources | map('regex_replace', '$', '\\n') | join }}"
  tasks:
    - name: Use every variable, some by way of others and of a lookup
      ansible.builtin.copy:
        dest: "{{ out }}"
        content: "{{ seen | to_json }}"
      vars:
        seen:
          host: "{{ deep }}"
          texts: "{{ query('ansible.builtin.varnames', '^text_') | sort | map('extract', vars) | list }}"
          again: "{{ text_0 }}"
          group: "{{ of_group }}"
          all: "{{ of_all }}"
          joined: "{{ joined }}"
          rendered: "{{ lookup('ansible.builtin.template', 'text.j2') }}"
"""


def written(directory: Path, out: Path) -> Path:
    """A playbook that writes what it sees of the hostile variables to `out`."""
    directory.mkdir()
    (directory / "ansible.cfg").write_text((share_dir() / "playbooks" / "ansible.cfg").read_text())
    (directory / "text.j2").write_text("{{ text_0 }} {% for item in sources %}{{ item }}{% endfor %}")
    play = directory / "play.yml"
    play.write_text(PLAY.replace('"{{ out }}"', json.dumps(str(out))))
    return play


def check_seen(seen: dict[str, Any], texts: dict[str, str]) -> None:
    values = list(texts.values())
    by_name = sorted((f"text_{index}", text) for index, text in enumerate(values))
    assert seen["texts"] == [text for _, text in by_name]
    assert seen["again"] == texts["expression"]
    assert seen["host"] == [{"text": values, "more": {"inner": texts["expression"]}}]
    assert seen["group"] == texts["expression"]
    assert seen["all"] == texts["statement"]
    assert seen["joined"] == "".join(text + "\n" for text in values)
    assert seen["rendered"].strip() == (texts["expression"] + " " + "".join(values)).strip()


@pytest.mark.parametrize("form", list(InventoryFormat))
def test_an_exported_inventory_evaluates_nothing(tmp_path: Path, form: InventoryFormat) -> None:
    mark, out = tmp_path / "owned", tmp_path / "seen"
    texts = attacks(mark)
    play = written(tmp_path / "play", out)
    inventory = tmp_path / f"hosts.{form.value}"
    text = render(hostile(texts), form)
    if form is InventoryFormat.JSON:  # Ansible takes this form from a program, not from a file
        (tmp_path / "json").write_text(text)
        inventory.write_text(f"#!/bin/sh\ncat {tmp_path}/json\n")
        inventory.chmod(0o755)
    else:
        inventory.write_text(text)
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", inventory, play],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
        cwd=play.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not mark.exists()
    check_seen(json.loads(out.read_text()), texts)


def quiet(node: str, task: str, status: TaskStatus) -> None:
    del node, task, status


def test_a_run_of_ours_evaluates_nothing(tmp_path: Path) -> None:
    mark, out = tmp_path / "owned", tmp_path / "seen"
    texts = attacks(mark)
    play = written(tmp_path / "play", out)
    inventory = hostile(texts)
    more = {"of_all": texts["expression"], "secrets_dir": texts["in the midst"]}
    run = PlaybookRun(play, inventory, LabPaths(tmp_path / "lab"), "hpc", more)
    result = run_playbook(run, timeout=PATIENCE, on_event=quiet, cancelled=bool)
    assert result.ok, result.failures
    assert not mark.exists()
    seen = json.loads(out.read_text())
    assert seen["all"] == texts["expression"], "variables of the run count for more than the inventory's"
    check_seen({**seen, "all": texts["statement"]}, texts)


FACTS = """\
- hosts: hpc
  gather_facts: false
  tasks:
    - name: Answer as a hostile guest does
      hostile_guest:
        mark: MARK
      register: answer
    - name: Use what it said
      ansible.builtin.debug:
        msg: "{{ answer.said }} {{ answer.deep[0].said }} {{ hostvars[inventory_hostname].answer.said }}"
    - name: Use it again, by way of a fact and of a condition
      ansible.builtin.set_fact:
        kept: "{{ answer.said }}"
    - name: Decide by it
      ansible.builtin.debug:
        msg: "{{ lookup('ansible.builtin.template', 'said.j2') }}"
      when: kept != answer.deep[0].said or kept is defined
- hosts: all
  gather_facts: false
  tasks:
    - name: Run on every host that there is
      ansible.builtin.copy: {content: "x", dest: "OUT/{{ inventory_hostname }}"}
"""
GUEST = """\
#!/usr/bin/python3
import json
said = "{{ lookup('ansible.builtin.pipe', 'touch %s') }}" % "MARK"
print(json.dumps({
    "changed": True, "said": said, "deep": [{"said": said}], "msg": said,
    "ansible_facts": {
        "said": said, "injected": said, "ansible_connection": "local", "ansible_host": said,
        "ansible_python_interpreter": "/bin/sh -c 'touch MARK'", "ansible_become_exe": "touch MARK",
    },
    "add_host": {"host_name": "planted", "groups": ["hpc"], "host_vars": {"ansible_connection": "local"}},
    "add_group": "hpc",
}))
"""


def test_what_a_guest_answers_is_not_evaluated_and_adds_no_host(tmp_path: Path) -> None:
    mark, seen = tmp_path / "owned", tmp_path / "seen"
    seen.mkdir()
    play = tmp_path / "play" / "play.yml"
    (play.parent / "library").mkdir(parents=True)
    (play.parent / "ansible.cfg").write_text((share_dir() / "playbooks" / "ansible.cfg").read_text())
    (play.parent / "library" / "hostile_guest.py").write_text(GUEST.replace("MARK", str(mark)))
    (play.parent / "said.j2").write_text("{{ answer.said }} {{ kept }}")
    play.write_text(FACTS.replace("MARK", str(mark)).replace("OUT", str(seen)))
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = AnsibleInventory((InventoryHost("here", local),), (InventoryGroup("hpc", hosts=("here",)),))
    run = PlaybookRun(play, inventory, LabPaths(tmp_path / "lab"), "hpc", {})
    result = run_playbook(run, timeout=PATIENCE, on_event=quiet, cancelled=bool)
    assert result.ok, result.failures
    assert not mark.exists()
    assert [path.name for path in seen.iterdir()] == ["here"]


def test_facts_of_guests_are_kept_apart_from_variables() -> None:
    settings = (share_dir() / "playbooks" / "ansible.cfg").read_text()
    assert "inject_facts_as_vars = False" in settings and "gathering = explicit" in settings


# ---------------------------------------------------------------- from the lab file on
def test_apt_sources_of_a_lab_file_are_literal_in_every_form(tmp_path: Path) -> None:
    source = "deb http://mirror/{{ lookup('pipe', 'id') }} bookworm main"
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    spec = replace(spec, security=replace(spec.security, apt_sources=(source,)))
    keys = ConnectionFacts("labadmin", Path("/{{ home }}/key"), Path("/known"))
    inventory = build_inventory(spec, keys)
    assert inventory.vars["security_apt_sources"] == (source,)
    assert '!unsafe "deb http://mirror/{{' in render(inventory, InventoryFormat.YAML)
    groups = json.loads(render(inventory, InventoryFormat.JSON))
    assert groups["all"]["vars"]["security_apt_sources"] == [{"__ansible_unsafe": source}]
    assert groups["all"]["vars"]["lab_name"] == "demo", "what cannot be a template stays plain"
    assert "{{ lookup" not in render(inventory, InventoryFormat.INI)
    hosts = kubespray_inventory(spec, {"ansible_ssh_private_key_file": "/{{ home }}/key"})
    assert 'ansible_ssh_private_key_file: !unsafe "/{{ home }}/key"' in hosts


def test_kubespray_s_inventory_is_plain_yaml_where_nothing_is_a_template() -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    assert yaml.safe_load(kubespray_inventory(spec, {"ansible_user": "labadmin"}))["all"]["vars"] == {
        "ansible_user": "labadmin"
    }


def test_the_escaped_form_has_no_way_out() -> None:
    for text in attacks(Path("/m")).values():
        assert re.fullmatch(r"\{\{ '[A-Za-z0-9+/=]+' \| b64decode \}\}", literal_template(text))
