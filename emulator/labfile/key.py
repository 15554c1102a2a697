"""How a key of the lab file is defined: an annotation of the attribute that holds its value.

    boot: Annotated[int, key("From power-on until ssh answers.", minimum=10, maximum=86400)] = 600

The JSON schema, the reference and the reader all follow from it. An attribute without `key` is not in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, reduce
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


class UnusableError(ValueError):
    """A value that the schema lets through and that cannot be used; it becomes a finding.

    Args:
        code: stable identifier of the finding, such as ``network.host-bits``.
        what: the fault, without a trailing full stop.
        fix: how to fix it.
    """

    def __init__(self, code: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.code, self.what, self.fix = code, what, fix


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """What the file says of a value; see `key` for the parts."""

    description: str = ""
    name: str = ""
    required: bool = False
    computed: bool = False
    start: Any = None
    read: Callable[[Any], Any] | None = None
    write: Callable[[Any], Any] | None = None
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def over(self, below: Key) -> Key:
        """This key with what it leaves open taken from `below`, as a type's own annotation is below a field's."""
        mine = {each.name: getattr(self, each.name) or getattr(below, each.name) for each in fields(Key)}
        return replace(self, **{**mine, "keywords": {**below.keywords, **self.keywords}})


def key(
    description: str = "",
    *,
    name: str = "",
    required: bool = False,
    computed: bool = False,
    expects: str = "",
    start: Any = None,
    read: Callable[[Any], Any] | None = None,
    write: Callable[[Any], Any] | None = None,
    see: str = "",
    **keywords: Any,
) -> Key:
    """The definition of a key, for `Annotated`.

    Args:
        description: one line or two for editors and the reference.
        name: the spelling in the file, where it differs from the attribute.
        required: the file must give it; the attribute's default is then a mere filler.
        computed: the default follows from other keys, and the description says how.
        expects: the right values in words, where the schema's keywords do not say it well enough.
        start: for a section that may be absent: the values from which it starts when it is present.
        read: makes the attribute's value of the file's; raises `UnusableError`.
        write: the inverse of `read`, for the default in the schema.
        see: the document of docs/user that says more.
        keywords: JSON Schema's own, `minimum` or `pattern` for example. They win over what follows from the type.
    """
    own = {"x-expects": expects, "x-see": see}
    keywords |= {keyword: words for keyword, words in own.items() if words}
    return Key(description, name, required, computed, start, read, write, keywords)


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A value of the file: its key and its bare type, without None and annotations.

    `item` is the form of what a list or a mapping by cluster holds, and None for every other type.
    """

    key: Key
    kind: Any
    item: Form | None = None

    @property
    def is_list(self) -> bool:
        return get_origin(self.kind) is tuple


@dataclass(frozen=True, slots=True, eq=False)
class Attribute(Form):
    """A key with the attribute that holds its value, and its name in the file."""

    attribute: str = ""
    name: str = ""


@cache
def attributes(section: Any) -> tuple[Attribute, ...]:
    """The keys of a section of the file, in the order in which its class has them; none for any other type."""
    if not is_dataclass(section):
        return ()
    hints = get_type_hints(section, include_extras=True)
    found = []
    for each in fields(section):
        if get_origin(hints[each.name]) is Annotated:
            form = form_of(hints[each.name])
            found.append(Attribute(form.key, form.kind, form.item, each.name, form.key.name or each.name))
    return tuple(found)


def form_of(hint: Any) -> Form:
    """The form of an annotation such as `Annotated[Subnet | None, key(...)]`."""
    origin = get_origin(hint)
    if origin is Annotated:
        form = form_of(get_args(hint)[0])
        own = [each for each in hint.__metadata__ if isinstance(each, Key)]
        return replace(form, key=reduce(lambda below, above: above.over(below), own, form.key))
    if origin in (Union, UnionType):
        return form_of(next(each for each in get_args(hint) if each is not type(None)))
    held = {tuple: 0, Mapping: 1}.get(origin)
    return Form(Key(), hint, None if held is None else form_of(get_args(hint)[held]))
