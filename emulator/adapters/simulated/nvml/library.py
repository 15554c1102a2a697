"""A replacement for `libnvidia-ml.so.1`, installed where nvidia-ml-py keeps its loaded library.

pynvml looks up a symbol by name and calls it with ctypes objects: handles, structs, out-parameters by `byref`. The
functions here take the same arguments and give the same return codes, so that all code above them is the code that runs
on real GPUs. A symbol that is not defined here is missing as in an old library: pynvml answers with FUNCTION_NOT_FOUND.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from emulator.adapters.simulated.nvml import library_compute, library_mig, library_system, library_vgpu
from emulator.adapters.simulated.nvml.engine import DRIVER_NOT_LOADED, SUCCESS, UNINITIALIZED, NvmlReturnError
from emulator.adapters.simulated.nvml.library_args import Function, Session, number
from emulator.adapters.simulated.nvml.store import GpuStore

_TOPICS = (library_system, library_mig, library_compute, library_vgpu)


class Symbol:
    """A function of the library. pynvml sets `restype` on some of them, as on ctypes functions."""

    restype: object = None

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)


class SimulatedNvmlLibrary:
    """The library object: its attributes are the symbols.

    Args:
        store: the GPUs.
        root: whether the caller counts as root; management calls give NO_PERMISSION otherwise.
    """

    def __init__(self, store: GpuStore, *, root: bool = True) -> None:
        self._store = store
        self._users = 0
        session = Session(store, root)
        self._symbols: dict[str, Symbol] = {
            "nvmlInit_v2": Symbol(self._init),
            "nvmlInitWithFlags": Symbol(self._init),
            "nvmlShutdown": Symbol(self._shutdown),
            "nvmlErrorString": Symbol(lambda code: f"NVML return code {number(code)}".encode()),
        }
        for topic in _TOPICS:
            for name, function in topic.symbols(session).items():
                self._symbols[name] = Symbol(self._guarded(name, function))

    def __getattr__(self, name: str) -> Symbol:
        try:
            return self.__dict__["_symbols"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"undefined symbol: {name}") from None

    def is_open(self) -> bool:
        """Whether this process has the library initialised, and with it the device nodes of all GPUs open."""
        return self._users > 0

    # ------------------------------------------------------------ calling
    def _guarded(self, name: str, function: Function) -> Callable[..., int]:
        def call(*arguments: object) -> int:
            if not self._users:
                return UNINITIALIZED
            state = self._store.look()
            if not state.driver_loaded:
                return DRIVER_NOT_LOADED
            if name in state.faults.failures:
                return state.faults.failures[name]
            self._store.within_call(state)
            try:
                function(*arguments)
            except NvmlReturnError as refusal:
                return refusal.code
            finally:
                self._store.within_call(None)
            return SUCCESS

        return call

    def _init(self, _flags: object = 0) -> int:
        state = self._store.look()
        if not state.driver_loaded:
            return DRIVER_NOT_LOADED
        if "nvmlInitWithFlags" in state.faults.failures:
            return state.faults.failures["nvmlInitWithFlags"]
        self._users += 1
        return SUCCESS

    def _shutdown(self) -> int:
        if not self._users:
            return UNINITIALIZED
        self._users -= 1
        return SUCCESS


@contextmanager
def installed(library: SimulatedNvmlLibrary) -> Iterator[None]:
    """Install the library under pynvml while the block runs."""
    put_back = install(library)
    try:
        yield
    finally:
        put_back()


def install(library: SimulatedNvmlLibrary) -> Callable[[], None]:
    """Install the library under pynvml; the returned function restores the earlier one.

    pynvml caches the functions that it has looked up, so both clear the cache.
    """
    import pynvml

    before = pynvml.nvmlLib
    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()

    def put_back() -> None:
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()

    return put_back
