"""Vega-Lite specifications of the interactive charts: the data of the static ones, with a choice of model.

Names from the run are data and options of a list alone. Every expression is a constant of this module, and
the page interprets expressions instead of compiling them, so that no name can become code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustbench_local.reports.analysis.accuracy_trade_off import TradeOff
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.robustness_curves import CurvePanel
from robustbench_local.reports.formatting.text import (
    format_axis_label,
    format_estimate,
    format_radius,
)
from robustbench_local.reports.page.trade_off_chart import choose_range

JsonDict = dict[str, Any]

_IS_CHOSEN = "model === '' || datum.model === model"
_IS_READ = "datum.id === at"
_HEIGHT_PIXELS = 260
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
"""Shapes of the marks by style, nearly those of the static charts."""


def build_panel_spec(panel: CurvePanel, style_by_model: dict[EvaluatedModel, int]) -> JsonDict:
    """Build the specification of curves over the radius, and the styles of its models.

    Returns:
        ``spec``, and ``palette``: the style of each model in the order of the scale.
    """
    rows: list[JsonDict] = [
        {
            "model": str(curve.subject),
            "quantity": curve.value_name or panel.value_name,
            "radius": eps,
            "value": 100 * share.value,
            "low": 100 * share.low,
            "high": 100 * share.high,
            "text": f"{curve}, radius {format_radius(eps)}: {format_estimate(share)}",
        }
        for curve in panel.curves
        for eps, share in curve.marked_points
    ]
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    x = {
        "field": "radius",
        "type": "quantitative",
        "title": format_axis_label(panel.norm),
        "scale": {"nice": False},
        "axis": {
            "values": panel.radii,
            "labelExpr": "labels[indexof(radii, datum.value)]",
            "labelOverlap": True,
            "grid": False,
        },
    }
    dash = {
        "field": "quantity",
        "type": "nominal",
        "scale": {"domain": quantities, "range": [[1, 0], [2, 3]][: len(quantities)]},
        "legend": {"title": None} if len(quantities) > 1 else None,
    }
    y: JsonDict = {"field": "value", "type": "quantitative", "title": f"{panel.value_name}, %"}
    y |= {"scale": {"domain": [0, 100]}}
    area = {"y": {**y, "field": "low"}, "y2": {"field": "high"}, "opacity": _build_opacity(0.17)}
    subjects = [curve.subject for curve in panel.curves]
    spec, palette = _build_spec(rows, subjects), _list_styles(subjects, style_by_model)
    spec["params"] += [
        {"name": "radii", "value": panel.radii},
        {"name": "labels", "value": [format_radius(eps) for eps in panel.radii]},
    ]
    spec["encoding"] |= {"x": x, "detail": {"field": "quantity"}}
    spec["layer"] = [
        {"mark": {"type": "area", "tooltip": None}, "encoding": area},
        {
            "mark": {"type": "line", "tooltip": None},
            "encoding": {"y": y, "strokeDash": dash, "opacity": _build_opacity(1)},
        },
        {"mark": {"type": "point", "filled": True}, "encoding": {"y": y, **_encode_point(spec, palette)}},
    ]
    return {"spec": spec, "palette": palette}


def build_trade_off_spec(trade_off: TradeOff, style_by_model: dict[EvaluatedModel, int]) -> JsonDict:
    """Build the specification of clean against robust accuracy, and the styles of its models.

    Colors that are names of the style sheet's properties, ``--ink``, are replaced on the page.
    """
    points = trade_off.points
    rows: list[JsonDict] = [
        {
            "model": str(point.subject),
            "number": trade_off.label_by_number[point.number],
            "clean": 100 * point.clean_accuracy.value,
            "clean_low": 100 * point.clean_accuracy.low,
            "clean_high": 100 * point.clean_accuracy.high,
            "robust": 100 * point.robust_accuracy.value,
            "robust_low": 100 * point.robust_accuracy.low,
            "robust_high": 100 * point.robust_accuracy.high,
            "is_hollow": bool(point.dominance or point.caveat),
            "is_on_front": point.is_on_front,
            "text": f"{point.number} {point.subject}: clean {format_estimate(point.clean_accuracy)}, "
            f"robust {format_estimate(point.robust_accuracy)}"
            + (f"; {point.caveat}" if point.caveat else "; dominated" if point.dominance else ""),
        }
        for point in points
    ]
    x = _build_axis("clean", "clean accuracy, %", [point.clean_accuracy for point in points])
    y = _build_axis("robust", "robust accuracy, worst case, %", [point.robust_accuracy for point in points])
    spec = _build_spec(rows, [point.subject for point in points])
    palette = _list_styles([point.subject for point in points], style_by_model)
    mark = {"x": x, "y": y, **_encode_point(spec, palette)}
    across = {
        "x": {**x, "field": "clean_low"},
        "x2": {"field": "clean_high"},
        "y": y,
        "opacity": _build_opacity(0.55),
    }
    upward = {
        "y": {**y, "field": "robust_low"},
        "y2": {"field": "robust_high"},
        "x": x,
        "opacity": _build_opacity(0.55),
    }
    spec["layer"] = [
        {"mark": {"type": "rule", "tooltip": None}, "encoding": across},
        {"mark": {"type": "rule", "tooltip": None}, "encoding": upward},
        {
            "transform": [{"filter": "datum.is_on_front"}],
            "mark": {"type": "line", "tooltip": None, "strokeWidth": 1.2},
            "encoding": {"x": x, "y": y, "order": {"field": "clean"}, "color": {"value": "--soft"}},
        },
        {
            "transform": [{"filter": "datum.is_hollow"}],
            "mark": {"type": "point", "filled": False, "strokeWidth": 2},
            "encoding": mark,
        },
        {
            "transform": [{"filter": "!datum.is_hollow"}],
            "mark": {"type": "point", "filled": True},
            "encoding": mark,
        },
        {
            "mark": {"type": "text", "dx": 11, "dy": -9, "tooltip": None},
            "encoding": {"x": x, "y": y, "text": {"field": "number"}, "color": {"value": "--ink"}},
        },
    ]
    return {"spec": spec, "palette": palette}


def _build_spec(rows: Sequence[JsonDict], subjects: Sequence[EvaluatedModel]) -> JsonDict:
    """Build what all charts share: numbered rows, the chosen model, the point that is read, and colors."""
    names = list(dict.fromkeys(map(str, subjects)))
    choice = {"input": "select", "options": ["", *names], "labels": ["all models", *names], "name": "Show "}
    color = {"field": "model", "type": "nominal", "scale": {"domain": names}, "legend": {"title": None}}
    return {
        "width": "container",
        "height": _HEIGHT_PIXELS,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": [{"id": index, **row} for index, row in enumerate(rows)]},
        "params": [
            {"name": "model", "value": "", **({"bind": choice} if len(names) > 1 else {})},
            {"name": "at", "value": -1},
        ],
        "encoding": {"color": color},
    }


def _build_axis(field: str, title: str, estimates: Sequence[Any]) -> JsonDict:
    low, high = choose_range([(estimate.low, estimate.high) for estimate in estimates])
    domain = [100 * low, 100 * high]
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"domain": domain, "nice": False},
    }


def _encode_point(spec: JsonDict, palette: Sequence[int]) -> JsonDict:
    """Encode a point: its model has a shape, too; it grows while it is read, and says its numbers."""
    scale = {**spec["encoding"]["color"]["scale"], "range": [_SHAPES[style] for style in palette]}
    shape = {"field": "model", "type": "nominal", "scale": scale, "legend": {"title": None}}
    size = {"condition": {"test": _IS_READ, "value": 220}, "value": 70}
    return {"opacity": _build_opacity(1), "size": size, "shape": shape, "tooltip": {"field": "text"}}


def _build_opacity(opacity: float) -> JsonDict:
    return {"condition": {"test": _IS_CHOSEN, "value": opacity}, "value": opacity * 0.15}


def _list_styles(subjects: Sequence[EvaluatedModel], style_by_model: dict[EvaluatedModel, int]) -> list[int]:
    return list({str(subject): style_by_model[subject] for subject in subjects}.values())
