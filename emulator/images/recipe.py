"""Image recipes: the content of a golden image, as data that the builder and the Packer template share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath

import yaml

from emulator.core.data_files import share_dir
from emulator.core.debian.releases import Release, split_release
from emulator.core.errors import ConfigError, UsageError

RECIPE_VERSION = 1
MAX_RECIPE_BYTES = 256 * 1024

# A recipe becomes a directory name and command-line arguments; nothing that a shell, apt or a path would
# read in a second way is let in.
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?")
_UNIT = re.compile(r"[A-Za-z0-9@:_.-]+\.(service|socket|timer|mount|automount|path|target|slice)")
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_PARAMETER = re.compile(r"[A-Za-z0-9_.,:/=@+-]+")
_GUEST_PATH = re.compile(r"/[A-Za-z0-9@_.+*?/-]+")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe: its own lists after those of the recipe that it extends.

    `files` are directory trees on this host that are laid over the guest's root in order. `inputs` names
    further trees that the caller hands over at build time (binaries built on this host, say). `modules` are
    the drivers of the initial RAM file system, without what they depend on. `max_image_mib` is the budget of
    the finished disk in MiB, 0 for none. Paths are the guest's unless they say otherwise.
    """

    name: str
    suite: str
    kernel: str
    description: str = ""
    variant: str = "minbase"
    components: tuple[str, ...] = ("main",)
    packages: tuple[str, ...] = ()
    exclude_paths: tuple[str, ...] = ()
    include_paths: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    inputs: tuple[str, ...] = ()
    empty_files: tuple[str, ...] = ()
    symlinks: Mapping[str, str] = field(default_factory=dict)
    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    mask_files: tuple[str, ...] = ()
    initrd_init: Path = Path("files/init")
    modules: tuple[str, ...] = ()
    cmdline: tuple[str, ...] = ()
    free_mib: int = 256
    max_image_mib: int = 0

    def digest(self, *, builder_version: str) -> str:
        """SHA-256 over everything that determines the image's content, except its inputs; hexadecimal.

        Args:
            builder_version: changes when the same recipe would be built differently.
        """
        total = hashlib.sha256(f"{builder_version}\n".encode())
        for item in fields(self):
            if item.name in ("files", "initrd_init"):
                continue
            value = getattr(self, item.name)
            shown = sorted(value.items()) if isinstance(value, Mapping) else value
            total.update(f"{item.name}={shown!r}\n".encode())
        total.update(_file_digest(self.initrd_init))
        for tree in self.files:
            total.update(tree_digest(tree).encode())
        return total.hexdigest()


def tree_paths(tree: Path) -> list[Path]:
    """Everything under a tree that is laid into an image, sorted."""
    return sorted(tree.rglob("*"))


def tree_digest(tree: Path) -> str:
    """SHA-256 over names, modes and contents of a recipe's tree, hexadecimal; its location does not count.

    Inputs have more to them: see `emulator.images.build.input_tree`.
    """
    total = hashlib.sha256()
    for path in tree_paths(tree):
        total.update(f"{path.relative_to(tree)}\0{file_mode(path):o}\0".encode())
        total.update(_file_digest(path))
    return total.hexdigest()


def file_mode(path: Path) -> int:
    """The mode that a laid-in path gets: what its executable bit says, whatever the umask of the checkout was."""
    if path.is_symlink():
        return 0o777
    if path.is_dir():
        return 0o755
    return 0o755 if path.stat().st_mode & 0o100 else 0o644


def _file_digest(path: Path) -> bytes:
    if path.is_symlink():
        return hashlib.sha256(b"link " + str(path.readlink()).encode()).digest()
    if path.is_dir():
        return b""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def recipes_dir() -> Path:
    """The directory of the product's own recipes."""
    return share_dir() / "config" / "images"


def recipe_names(directory: Path | None = None) -> tuple[str, ...]:
    """Names of the images that can be built, sorted: of each recipe the one without a release, and one for each release
    that it knows in addition."""
    directory = directory or recipes_dir()
    names = []
    for path in directory.glob("*.yaml"):
        if path.stem != "common" and NAME.fullmatch(path.stem):
            releases = _Reader(directory).releases(path)
            names += [path.stem, *(f"{path.stem}-{release}" for release in releases)]
    return tuple(sorted(names))


def load_recipe(name: str, directory: Path | None = None) -> Recipe:
    """The recipe called `name`, or the one for another release of Debian that `NAME-RELEASE` means.

    Raises:
        UsageError: there is no such recipe.
        ConfigError: the recipe is faulty; all its faults are listed.
    """
    directory = directory or recipes_dir()
    base, release = split_release(name)
    path = directory / f"{base}.yaml"
    reader = _Reader(directory)
    if NAME.fullmatch(name) and path.is_file() and (release is None or release in reader.releases(path)):
        return reader.recipe(path, release)
    known = ", ".join(recipe_names(directory)) or "none"
    raise UsageError(f"there is no image recipe {name!r}", where=str(directory), fix=f"known recipes: {known}")


class _Reader:
    """Reads one recipe with what it extends, collecting faults instead of stopping at the first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.faults: list[str] = []

    def releases(self, path: Path) -> tuple[Release, ...]:
        """The releases that the recipe knows in addition to its own, by its ancestors' or its own `releases`."""
        layers = [_mapping_or_none(layer.get("releases")) or {} for _, layer in self._layers(path)]
        return tuple(release for release in Release if any(release in layer for layer in layers))

    def recipe(self, path: Path, release: Release | None) -> Recipe:
        layers = self._layers(path)
        known = {item.name for item in fields(Recipe)} - {"initrd_init", "modules"} | {"initrd"}
        for where, layer in layers:
            self._check_keys(where, layer, known | {"version", "extends", "releases"})
            if layer.get("version") != RECIPE_VERSION:
                self.faults.append(f"{where.name}: version: must be {RECIPE_VERSION}")
        name = path.stem if release is None else f"{path.stem}-{release}"
        recipe = self._merge(path.stem, name, self._of_release(layers, release, known - {"name"}))
        if self.faults:
            raise ConfigError(
                "the image recipe is faulty:\n    " + "\n    ".join(self.faults),
                where=str(path),
                fix="correct the recipe; docs/user/images.md describes every key",
            )
        return recipe

    def _check_keys(self, where: Path, layer: Mapping[str, object], known: Collection[str]) -> None:
        self.faults += [f"{where.name}: {key}: unknown key" for key in layer if key not in known]

    def _of_release(
        self, layers: list[tuple[Path, dict[str, object]]], release: Release | None, known: Collection[str]
    ) -> list[tuple[Path, dict[str, object]]]:
        """The layers, and after each what its `releases` says of the release."""
        found = []
        for where, layer in layers:
            found.append((where, layer))
            sections = _mapping_or_none(layer.get("releases", {}))
            if sections is None or not sections.keys() <= frozenset(Release):
                self.faults.append(f"{where.name}: releases: must be a mapping of {', '.join(Release)}")
                continue
            for name, raw in sections.items():
                section = _mapping_or_none(raw)
                if section is None:
                    self.faults.append(f"{where.name}: releases: {name}: must be a mapping of keys to values")
                    continue
                self._check_keys(Path(f"{where.name}: releases: {name}"), section, known)
                if name == release:
                    found.append((where, section))
        return found

    def _layers(self, path: Path) -> list[tuple[Path, dict[str, object]]]:
        """The recipe and its ancestors, the most general first."""
        chain: list[tuple[Path, dict[str, object]]] = []
        while True:
            raw = self._mapping(path)
            chain.insert(0, (path, raw))
            parent = raw.get("extends")
            if parent is None:
                return chain
            following = self.directory / f"{parent}.yaml"
            if not isinstance(parent, str) or not NAME.fullmatch(parent) or not following.is_file():
                raise ConfigError(f"extends: there is no recipe {parent!r}", where=str(path))
            if following in (seen for seen, _ in chain):
                raise ConfigError("extends: recipes extend each other in a circle", where=str(path))
            path = following

    @staticmethod
    def _mapping(path: Path) -> dict[str, object]:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise ConfigError(f"larger than {MAX_RECIPE_BYTES} bytes; this is no recipe", where=str(path))
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            first = str(error).replace("\n", " ")
            raise ConfigError(f"not readable as YAML: {first}", where=str(path)) from error
        mapping = _mapping_or_none(raw)
        if mapping is None:
            raise ConfigError("must be a mapping of keys to values", where=str(path))
        return mapping

    def _merge(self, stem: str, name: str, layers: list[tuple[Path, dict[str, object]]]) -> Recipe:
        def words(key: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
            found: dict[str, None] = {}
            for where, layer in layers:
                found.update(dict.fromkeys(self._words(where, key, layer.get(key, []), pattern)))
            return tuple(found)

        def last(key: str, default: str) -> str:
            value: object = default
            for _, layer in layers:
                value = layer.get(key, value)
            if not isinstance(value, str) or "\n" in value:
                self.faults.append(f"{key}: must be one line of text")
                return default
            return value

        if last("name", stem) != stem:
            self.faults.append(f"name: must be {stem!r}, the name of the file")
        initrd_init, modules = self._initrd(layers)
        return Recipe(
            name=name,
            suite=self._one("suite", last("suite", ""), _WORD),
            kernel=self._one("kernel", last("kernel", ""), _PACKAGE),
            variant=self._one("variant", last("variant", "minbase"), _WORD),
            description=last("description", ""),
            components=words("components", _WORD) or ("main",),
            packages=words("packages", _PACKAGE),
            exclude_paths=words("exclude_paths", _GUEST_PATH),
            include_paths=words("include_paths", _GUEST_PATH),
            remove=self._guest_paths(words("remove", _GUEST_PATH)),
            files=tuple(self._tree(word) for word in words("files", re.compile(r"[A-Za-z0-9_./-]+"))),
            inputs=words("inputs", NAME),
            empty_files=self._guest_paths(words("empty_files", _GUEST_PATH)),
            symlinks=self._symlinks(layers),
            enable=words("enable", _UNIT),
            disable=words("disable", _UNIT),
            mask=words("mask", _UNIT),
            mask_files=self._guest_paths(words("mask_files", _GUEST_PATH)),
            initrd_init=initrd_init,
            modules=modules,
            cmdline=words("cmdline", _PARAMETER),
            free_mib=self._number(layers, "free_mib", default=256),
            max_image_mib=self._number(layers, "max_image_mib", default=0),
        )

    def _words(self, where: Path, key: str, value: object, pattern: re.Pattern[str]) -> list[str]:
        if not isinstance(value, list):
            self.faults.append(f"{where.name}: {key}: must be a list")
            return []
        good = []
        for index, word in enumerate(value):
            if isinstance(word, str) and pattern.fullmatch(word):
                good.append(word)
            else:
                self.faults.append(f"{where.name}: {key}[{index}]: {word!r} cannot be used here")
        return good

    def _one(self, key: str, value: str, pattern: re.Pattern[str]) -> str:
        if not pattern.fullmatch(value):
            self.faults.append(f"{key}: {value!r} cannot be used here" if value else f"{key}: is missing")
        return value

    def _guest_paths(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            parts = PurePosixPath(path).parts
            if ".." in parts or len(parts) < 3:
                self.faults.append(f"{path!r}: must name something below a directory of the guest, without '..'")
        return paths

    def _tree(self, word: str) -> Path:
        tree = self.directory / word
        if Path(word).is_absolute() or ".." in Path(word).parts or not tree.is_dir():
            self.faults.append(f"files: {word!r} is no directory next to the recipes")
        return tree

    def _symlinks(self, layers: list[tuple[Path, dict[str, object]]]) -> dict[str, str]:
        links: dict[str, str] = {}
        for where, layer in layers:
            value = layer.get("symlinks", {})
            if not isinstance(value, dict):
                self.faults.append(f"{where.name}: symlinks: must be a mapping of path to target")
                continue
            for path, target in value.items():
                texts = isinstance(path, str) and isinstance(target, str)
                if not texts or not _GUEST_PATH.fullmatch(path) or not _GUEST_PATH.fullmatch(target):
                    self.faults.append(f"{where.name}: symlinks: {path!r} -> {target!r} cannot be used here")
                    continue
                links[path] = target
        self._guest_paths(tuple(links))
        return links

    def _initrd(self, layers: list[tuple[Path, dict[str, object]]]) -> tuple[Path, tuple[str, ...]]:
        init, modules = "files/init", {}
        for where, layer in layers:
            value = layer.get("initrd", {})
            if not isinstance(value, dict) or set(value) - {"init", "modules"}:
                self.faults.append(f"{where.name}: initrd: must be a mapping with init and modules")
                continue
            init = value.get("init", init)
            modules.update(dict.fromkeys(self._words(where, "initrd.modules", value.get("modules", []), _WORD)))
        script = self.directory / str(init)
        if Path(str(init)).is_absolute() or ".." in Path(str(init)).parts or not script.is_file():
            self.faults.append(f"initrd.init: {init!r} is no file next to the recipes")
        return script, tuple(modules)

    def _number(self, layers: list[tuple[Path, dict[str, object]]], key: str, *, default: int) -> int:
        value: object = default
        for _, layer in layers:
            value = layer.get(key, value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_000_000:
            self.faults.append(f"{key}: must be a whole number of MiB")
            return default
        return value


def _mapping_or_none(value: object) -> dict[str, object] | None:
    return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else None
