"""How text stays text in an Ansible inventory.

Ansible evaluates every string of an inventory as a Jinja template, on the host: `{{ lookup('pipe', 'id') }}` runs a
command as the user of Ansible. A template needs an opening brace, so strings with one are marked as literal, in the way
that each format knows. Other strings are written as they are, for other readers of these formats.

Sources: Ansible's documentation, "Unsafe or raw strings" (`!unsafe`); ansible.parsing.ajson for `__ansible_unsafe`.
"""

from __future__ import annotations

import base64

import yaml


def could_be_template(text: str) -> bool:
    """Whether Ansible could find a template in the text, alone or when it is joined to other text."""
    return "{" in text


class _Dumper(yaml.SafeDumper):
    """Marks strings that could be templates as `!unsafe`."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    if could_be_template(text):
        return dumper.represent_scalar("!unsafe", text, style='"')
    return dumper.represent_str(text)


_Dumper.add_representer(str, _represent_text)


def literal_yaml(document: object) -> str:
    """The document as YAML for Ansible: mappings, lists, strings, numbers and booleans; not one of them a template."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=1000)


def literal_json(text: str) -> str | dict[str, str]:
    """The text as a value in the JSON of a dynamic inventory."""
    return {"__ansible_unsafe": text} if could_be_template(text) else text


def literal_template(text: str) -> str:
    """The text for INI, which has no mark for literal strings: a template that evaluates to it.

    In base64, because Ansible and Jinja treat backslashes in string constants differently from version to version.
    """
    if not could_be_template(text):
        return text
    encoded = base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()
    return "{{ '" + encoded + "' | b64decode }}"
