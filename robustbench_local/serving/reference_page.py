"""The reference of the API as one page, made from its OpenAPI document."""

from __future__ import annotations

from typing import Any

import jinja2


def render_reference_page(document: dict[str, Any]) -> str:
    """Render the API's reference.

    Args:
        document: The OpenAPI document.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("robustbench_local.serving", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    operations = [
        {"method": method.upper(), "path": path, **_describe_operation(operation)}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return environment.get_template("docs.html.j2").render(
        title=document["info"]["title"], operations=operations
    )


def _describe_operation(operation: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of an operation."""
    body = operation.get("requestBody", {})
    parts = [_describe_field(part) for part in operation.get("parameters", ())]
    return {
        "description": operation.get("description", ""),
        "body": body.get("description", ""),
        "media_types": list(body.get("content", ())),
        "query": parts,
        "statuses": sorted(operation["responses"]),
    }


def _describe_field(part: dict[str, Any]) -> dict[str, str]:
    default = part["schema"].get("default")
    return {
        "name": part["name"],
        "description": part.get("description", ""),
        "default": "" if default is None else str(default),
    }
