"""The Grafana dashboard, as its import takes it: two panels in a row, one source to choose."""

from __future__ import annotations

from typing import Any

from outlive.commands.generating.watching import PANELS, for_job

COLUMNS, WIDTH, HEIGHT = 2, 12, 8
SCHEMA_VERSION = 39
SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboard(name: str) -> dict[str, Any]:
    """The dashboard of the service `name`, whose scrape job has that name."""
    return {
        "title": f"{name}: outlive",
        "uid": f"outlive-{name}"[:40],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "tags": ["outlive"],
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [{"name": "source", "label": "Source", "type": "datasource",
                      "query": "prometheus"}]
        },
        "panels": [_panel(number, name) for number in range(len(PANELS))],
    }  # fmt: skip


def _panel(number: int, name: str) -> dict[str, Any]:
    panel = PANELS[number]
    row, column = divmod(number, COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.told,
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": SOURCE,
                "expr": for_job(expr, name),
                "legendFormat": legend,
            }
            for at, (legend, expr) in enumerate(panel.lines)
        ],
    }
