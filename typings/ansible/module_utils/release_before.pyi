from release_before import forget_before, images_of, keep_manifests, note_images

__all__ = ["forget_before", "images_of", "keep_manifests", "note_images"]
