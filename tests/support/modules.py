"""The two modules, made alike."""

from damlpips import DAMLPIPS, LPIPS

# on any backbone, so without learned heads
KINDS = {
    "lpips": lambda backbone, **options: LPIPS(backbone, heads="uniform", **options),
    "damlpips": lambda backbone, **options: DAMLPIPS(backbone, **options),
    "damlpips 1": lambda backbone, **options: DAMLPIPS(backbone, version=1, **options),
}
