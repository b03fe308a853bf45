"""Every Triton kernel compiles for a GPU that need not exist here, without atomic additions and spilled registers."""

import re
from importlib import import_module
from typing import Any

import pytest

pytest.importorskip("triton")

SIDE = {"c": "channels last", "p": "contiguous"}
# Of each kernel: its module, the types of what is not a whole number, and the constants of one way to call it.
FEATURES = {"a": "*bf16", "b": "*bf16", "EPS": "fp32", "head": "*fp32", "sums": "*fp32", "gradient": "*fp32"}
TARGETS = {"for_a": "*bf16", "for_b": "*bf16"}
MAPS = {"energies_a": "*fp32", "energies_b": "*fp32", "channel": "*fp32", "to": "*fp32", "weight": "*fp32"}
TILE = {"CHANNELS": 32, "PLACES": 64}
PIXELS = {"images": "*fp32", "gradient": "*fp32", "out": "*fp32", "low": "fp32", "factor": "fp32"}
PAIR = {"x": "*fp32", "y": "*fp32", "sums": "*fp32", "means": "*fp32", "to": "*fp32", "weight": "fp32"}
MAP = {"maps": "*bf16", "out": "*bf16", "gradient": "*bf16", "index": "*u8", "target": "*bf16"}
FIRST = {"images": "*fp32", "factor": "*fp32", "shift": "*fp32", "weight": "*bf16", "bias": "*fp32", "out": "*bf16"}
ENERGY = {"energy": "fp32", "SPREAD": "fp32", "EPS": "fp32"}
WEIGHTS = {"scales": "*fp32", "gamma": "fp32", "FLOOR": "fp32", "rho": "fp32"}
ALEX = {"SIZE": 11, "STRIDE": 4, "PADDING": 2, "ALL": 384, "CHANNELS": 64, "ROWS": 64, "PRODUCTS": 32}
NANO = {"SIZE": 6, "STRIDE": 2, "PADDING": 2, "ALL": 128, "CHANNELS": 16, "ROWS": 128, "PRODUCTS": 32}
VGG = {"SIZE": 3, "STRIDE": 1, "PADDING": 1, "ALL": 32, "CHANNELS": 64, "ROWS": 128, "PRODUCTS": 32}
BACK = {"STRIDE": 4, "PADDING": 2, "WINDOWS": 3, "CHANNELS": 64, "COLUMNS": 64, "ROWS": 128}

MOVING = ("x", "y", "a", "b", "to_x", "to_y", "images", "out", "before", "field", "trust", "moved", "share", "extent")
MOTION = dict.fromkeys((*MOVING, "maps", "means", "squares", "products", "kept", "sums"), "*fp32")
MOTION |= dict.fromkeys(("side", "of_grid", "RED", "GREEN", "BLUE"), "fp32")
OF_ONE = {
    "level": {"BH": 1, "BW": 1, "FIRST": False, "SEARCHED": True, "STEPS": 1, "BLOCK": 2},
    "share": {"HINT": False},
    "solved": {"LAST": True},
}
STRIP = {"PLACES": 128, "ROWS": 8}
BY = ("by_d", "by_place", "by_difference", "by_contrasts", "by_deviations", "for_a", "for_b")
MASKING = dict.fromkeys(("a", "b", "images", "squares", "contrasts", "sums", "means", "d", "place", *BY), "*fp32")
COARSE, FINE = {"PLACES": 512}, {"PLACES": 256}

Case = tuple[str, str, dict[str, str], dict[str, Any]]
CASES: list[Case] = [
    *(
        ("triton_kernels", "lpips", FEATURES, {"HEAD": True, "ONCE": once, **tile})
        for once, tile in (
            (False, TILE),
            (True, {"CHANNELS": 512, "PLACES": 8}),
            (True, {"CHANNELS": 64, "PLACES": 32}),
        )
    ),
    *(
        (
            "triton_kernels",
            "lpips_gradients",
            FEATURES | TARGETS,
            {"HEAD": True, "ONCE": once, "FOR_A": 1, "FOR_B": 1, **tile},
        )
        for once, tile in (
            (False, TILE),
            (True, {"CHANNELS": 512, "PLACES": 8}),
            (True, {"CHANNELS": 64, "PLACES": 32}),
        )
    ),
    ("triton_kernels", "statistics", FEATURES | MAPS, TILE),
    ("triton_kernels", "differences", FEATURES | MAPS, {"CHANNEL": True, **TILE}),
    ("triton_kernels", "weights", FEATURES | MAPS | WEIGHTS | ENERGY, {"CHANNELS": 512}),
    ("triton_kernels", "squares", FEATURES | MAPS | WEIGHTS, TILE),
    ("triton_kernels", "root", FEATURES | MAPS, {"SUMS": 1024}),
    ("triton_kernels", "channel_differences", FEATURES | MAPS, TILE),
    (
        "triton_kernels",
        "gradients",
        FEATURES | MAPS | TARGETS | dict.fromkeys(("by_difference", "by_energy", "by_sums"), "*fp32"),
        {"CHANNEL": True, "ENERGY": True, "FOR_A": True, "FOR_B": True, **TILE},
    ),
    ("triton_images", "clamped", PIXELS | {"high": "fp32", "near": "fp32"}, {"VALUES": 1024}),
    ("triton_images", "oklab", PIXELS, {"FLAT": True, "PLACES": 512}),
    ("triton_images", "oklab", PIXELS, {"FLAT": False, "PLACES": 512}),
    ("triton_images", "oklab_gradient", PIXELS, {"FLAT": True, "PLACES": 512}),
    ("triton_images", "image_sums", PAIR | PIXELS, {"FLAT": True, "PLACES": 512}),
    ("triton_images", "image_texture", PAIR | ENERGY, {"SUMS": 128}),
    ("triton_images", "image_difference", PAIR | PIXELS | {"weight": "fp32"}, {"FLAT": True, "PLACES": 512}),
    *(("triton_network", "first", FIRST, constants) for constants in (ALEX, NANO, VGG)),
    ("triton_network", "first_gradient", FIRST | {"gradient": "*bf16", "target": "*fp32"}, BACK),
    *(("triton_images", "deviations", MASKING, {"OF": 1, "SUMS": sums, **STRIP}) for sums in (True, False)),
    *(("triton_images", "masked", MASKING, {"TINT": tint, **STRIP}) for tint in (True, False)),
    ("triton_images", "by_contrast", MASKING, {"BY_D": True, "BY_PLACE": True, "PLACES": 512}),
    ("triton_images", "by_deviation", MASKING, {"PLACES": 512}),
    ("triton_images", "masked_gradients", MASKING, {"FOR_A": True, "FOR_B": True, "PLACES": 512}),
    *(
        ("triton_motion", "level", MOTION, {"FIRST": first, "SEARCHED": searched, "STEPS": 1, "BLOCK": block, **COARSE})
        for first, searched, block in ((True, True, 2), (False, True, 2), (False, False, 4))
    ),
    # of one place: a size of 1 is a constant
    *(("triton_motion", name, MOTION, {"H": 1, "W": 1, **one, **COARSE}) for name, one in OF_ONE.items()),
    *(("triton_motion", "share", MOTION, {"HINT": hint, **COARSE}) for hint in (True, False)),
    *(("triton_motion", "sampled", MOTION, {"EVERY": every, **FINE}) for every in (1, 2)),
    *(("triton_motion", "means", MOTION, {"SQUARES": squares, "BLOCK": 4, **FINE}) for squares in (True, False)),
    *(("triton_motion", "products", MOTION, {"SHRINK": 2, "KEEP": keep, **FINE}) for keep in (True, False)),
    *(("triton_motion", "solved", MOTION, {"LAST": last, **COARSE}) for last in (True, False)),
    ("triton_motion", "luma", MOTION, FINE),
    ("triton_motion", "aligned", MOTION, FINE),
    *(("triton_motion", "apart", MOTION, {"MEANS": means, **FINE}) for means in (True, False)),
    ("triton_network", "pool", MAP, {"SIZE": 3, "STRIDE": 2, "INDEX": True, "PLACES": 32, "CHANNELS": 64}),
    ("triton_network", "pool_gradient", MAP, {"SIZE": 3, "STRIDE": 2, "WINDOWS": 2, "PLACES": 32, "CHANNELS": 64}),
]


def kernels() -> set[tuple[str, str]]:
    """Return the module and name of every kernel: the functions whose grid of programs is launched."""
    names = ("triton_kernels", "triton_images", "triton_network", "triton_motion")
    modules = {name: import_module(f"damlpips.ops.{name}") for name in names}
    found = ((name, re.fullmatch(r"_(\w+)_kernel", of)) for name, module in modules.items() for of in vars(module))
    return {(name, match[1]) for name, match in found if match}


def test_no_kernel_is_left_out() -> None:
    assert kernels() == {(module, name) for module, name, _, _ in CASES}


def kernel(case: Case) -> Any:
    return getattr(import_module(f"damlpips.ops.{case[0]}"), f"_{case[1]}_kernel")


def layouts(case: Case) -> str:
    """Return which strides of a kernel's arguments may be one: those of channels, of places, or none."""
    return "cp" if any(argument.endswith("_c") for argument in kernel(case).arg_names) else "c"


@pytest.mark.parametrize(
    ("case", "last"),
    [pytest.param(c, last, id=f"{c[1]} {c[3]} {SIDE[last]}") for c in CASES for last in layouts(c)],
)
def test_compiles(case: Case, last: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, _, types, constants = case
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = kernel(case)
    # as at a call: a stride of one is a constant, pointers and other sizes are multiples of 16
    signature, known, aligned = {}, dict(constants), {}
    for position, argument in enumerate(function.arg_names):
        if argument.endswith(f"_{last}") and argument not in types:
            known[argument] = 1
        signature[argument] = "constexpr" if argument in known else types.get(argument, "i32")
        if signature[argument].startswith("*") or signature[argument] == "i32":
            aligned[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, constexprs=known, attrs=aligned)
    warps = 8 if constants.get("PLACES") == COARSE["PLACES"] and module == "triton_motion" else 4
    options = {"enable_fp_fusion": False, "num_warps": warps}
    found = compiled(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert len(found.asm["cubin"]) > 0
    assert "ld.global" in found.asm["ptx"]
    assert not re.search(r"\b(atom|red)\.", found.asm["ptx"])
    assert ".local" not in found.asm["ptx"]
