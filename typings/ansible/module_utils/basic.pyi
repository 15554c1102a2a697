from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

class AnsibleModule:
    # The arguments, by name, in the types that the argument_spec gives them.
    params: Any
    check_mode: bool
    def __init__(
        self,
        argument_spec: Mapping[str, Mapping[str, object]],
        *,
        supports_check_mode: bool = ...,
        required_if: Sequence[tuple[str, str, Sequence[str]]] = ...,
    ) -> None: ...
    def exit_json(self, **kwargs: object) -> NoReturn: ...
    def warn(self, warning: str) -> None: ...
    def fail_json(self, msg: str, **kwargs: object) -> NoReturn: ...
