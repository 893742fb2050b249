"""Names of the objects: 20 shapes x 10 surfaces. Loads no torch, since the plan asks for them."""

SHAPE_NAMES = (
    "disc", "ring", "half-disc", "crescent", "lens", "square", "frame", "triangle", "wedge", "star", "plus", "saltire",
    "heart", "arrow", "hourglass", "ell", "tee", "cup", "dumbbell", "trefoil",
)  # fmt: skip
SURFACES = ("red", "stripes", "bars", "checker", "dots", "rings", "glow", "diagonal", "waves", "grid")
"""Names of the surfaces, in the order of their index; each has its own two colours."""

CATEGORY_NAMES = tuple(f"{surface} {shape}" for shape in SHAPE_NAMES for surface in SURFACES)
"""Name of each category; category index = shape index * 10 + surface index."""
