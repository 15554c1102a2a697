"""The objects that run the add-ons of a set of modules, and the names of their images. Pure but for reading them."""

from __future__ import annotations

from collections.abc import Mapping

from emulator.kubernetes.release.containers.container_images import REPOSITORY
from emulator.kubernetes.release.modules.module_set import GoModule, ModuleSet


def addon_image(module: GoModule) -> str:
    """Reference of an add-on's image."""
    return f"{REPOSITORY}/{module.programs[0].name}:v{module.version}"


def addon_objects(modules: ModuleSet, names: Mapping[str, str]) -> dict[str, str]:
    """The objects of the add-ons by the names of their files, with the images that they run.

    names: of images, as in `ImageRoots`.
    """
    objects = {}
    for module in modules.addons:
        if module.manifest is not None:
            text = module.manifest.read_text(encoding="utf-8").replace("${tools}", names["tools"])
            objects[module.manifest.name] = text.replace("${image}", names[module.programs[0].name])
    return objects
