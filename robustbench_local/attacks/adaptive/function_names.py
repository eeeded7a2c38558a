"""Names of torch functions that act on each value by itself, or only arrange values."""

from __future__ import annotations

from typing import Any

SMOOTH_NAMES = frozenset((
    "add", "sub", "mul", "div", "true_divide", "neg", "negative", "abs", "relu", "leaky_relu", "prelu",
    "elu", "celu", "selu", "gelu", "silu", "mish", "softplus", "square", "float", "double", "to", "type",
    "type_as", "positive", "multiply", "subtract", "divide",
))  # fmt: skip
"""Functions whose own slopes are of use at any width."""
STEEP_NAMES = frozenset((
    "pow", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin",
    "cos", "tan", "asin", "acos", "atan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "asinh",
    "acosh", "atanh", "arctanh", "sigmoid", "special_expit", "log_sigmoid", "logsigmoid", "erf", "erfc",
    "erfinv", "special_erf", "special_erfc", "special_erfinv", "sinc", "softsign", "tanhshrink",
    "softshrink", "hardshrink", "hardtanh", "hardsigmoid", "hardswish", "relu6", "threshold",
    "_threshold", "clamp", "clip", "clamp_min", "clamp_max", "clip_min", "clip_max", "maximum", "minimum",
    "fmax", "fmin", "where", "gt", "ge", "lt", "le", "eq", "ne", "greater", "greater_equal", "less",
    "less_equal", "logical_not", "logical_and", "logical_or", "logical_xor", "bitwise_not", "bitwise_and",
    "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift", "round", "floor", "ceil",
    "trunc", "fix", "frac", "sign", "sgn", "heaviside", "remainder", "fmod", "floordiv", "floor_divide",
    "int", "long", "short", "byte", "char", "bool", "half", "bfloat16", "detach", "masked_fill",
    "bucketize", "nan_to_num", "atan2", "hypot", "lerp", "xlogy", "rad2deg", "deg2rad", "i0",
))  # fmt: skip
"""Functions whose slopes may differ from their course."""
LAYOUT_NAMES = frozenset((
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "t", "swapaxes",
    "movedim", "expand", "expand_as", "view_as", "unflatten", "contiguous", "clone", "repeat_interleave",
    "repeat", "roll", "flip",
))  # fmt: skip
"""Functions that only arrange values."""
OPERATORS = {
    "add": "add", "sub": "sub", "mul": "mul", "div": "div", "truediv": "div", "floordiv": "floordiv",
    "pow": "pow", "mod": "remainder", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift", "rshift": "bitwise_right_shift", "invert": "bitwise_not",
}  # fmt: skip
"""Names of the functions behind Python's operators."""


def normalize_name(name: str) -> str:
    """Return a function's name without underscores, as ``__radd__`` and ``add_`` are ``add``."""
    if not name.startswith("__"):
        return name.rstrip("_")
    plain = name.strip("_")
    if plain[:1] in {"r", "i"} and plain[1:] in OPERATORS:
        plain = plain[1:]
    return OPERATORS.get(plain, plain)


def changes_argument(name: str, named: dict[str, Any]) -> bool:
    """Check whether a function changes its first argument.

    Args:
        name: Its name as torch has it.
        named: The named arguments of the call.
    """
    is_marked = name.endswith("_") and not name.endswith("__")
    is_operator = name.startswith("__i") and name.strip("_")[1:] in OPERATORS
    return is_marked or is_operator or name in {"__setitem__", "__delitem__"} or bool(named.get("inplace"))
