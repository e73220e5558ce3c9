//! The dashboard for Grafana: `cargo xtask gen` makes JSON of the table in `panels`, which is what people read and
//! change.
//!
//! The JSON is Grafana's classic model, the only one that old and new versions import, with the last version of its
//! schema.

mod hosts;
mod listeners;
mod now;
mod panels;

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use panels::{Look, Panel, SECTIONS};

/// Where it is kept.
pub(crate) const FILE: &str = "packaging/grafana/sockwatch.json";

/// The classic model's schema ends with this version.
const SCHEMA_VERSION: u32 = 42;

/// How wide the grid is.
const COLUMNS: u32 = 24;

/// The file, as it is committed.
pub(crate) fn print(_workspace: &Path) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(&dashboard()).context("a dashboard is JSON")?;
    text.push(b'\n');
    Ok(text)
}

/// Every query, with what Grafana would put in the place of its variables.
pub(crate) fn queries() -> Vec<String> {
    let panels = SECTIONS.iter().flat_map(|section| section.panels);
    let queries = panels.flat_map(|panel| panel.queries);
    let replaced = queries.map(|(query, _)| {
        let query = written_out(query).replace("$__rate_interval", "1m").replace("$__range", "1h");
        query.replace("$instance", ".*").replace("$listener", ".*")
    });
    replaced.collect()
}

/// A query of the table, with the selectors that nearly all have.
fn written_out(query: &str) -> String {
    query
        .replace("{LISTENER", "{instance=~\"$instance\",listener=~\"$listener\"")
        .replace("{HOST", "{instance=~\"$instance\"")
}

fn dashboard() -> Value {
    json!({
        "uid": "sockwatch",
        "title": "TCP sockets (sockwatch)",
        "description": "What happens to TCP sockets: do connections wait for accept(), how do they end, what is \
                        running out, and how far sockwatch can be trusted.",
        "tags": ["sockwatch", "tcp"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": true,
        // Panels share the crosshair.
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables()},
        "panels": panels(),
    })
}

/// Which metrics a datasource has is asked of it.
fn variables() -> Vec<Value> {
    let query = |name: &str, label: &str, description: &str, query: &str| {
        json!({
            "name": name,
            "label": label,
            "description": description,
            "type": "query",
            "datasource": datasource(),
            "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
            "multi": true,
            "includeAll": true,
            "current": {"text": "All", "value": "$__all"},
            // When the time range changes: listeners come and go.
            "refresh": 2,
            "sort": 7,
        })
    };
    vec![
        json!({
            "name": "datasource",
            "label": "Prometheus",
            "description": "The Prometheus that scrapes sockwatch.",
            "type": "datasource",
            "query": "prometheus",
        }),
        query("instance", "Host", "sockwatch's target.", "label_values(sockwatch_build_info, instance)"),
        query(
            "listener",
            "Listener",
            "Address and port; other stands for all that have no series of their own.",
            "label_values(sockwatch_accept_queue_arrivals_total{instance=~\"$instance\"}, listener)",
        ),
    ]
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// Panels from left to right and from top to bottom, each section below its heading.
fn panels() -> Vec<Value> {
    let (mut all, mut y) = (Vec::new(), 0);
    for section in SECTIONS {
        let id = all.len() + 1;
        all.push(json!({
            "id": id,
            "type": "row",
            "title": section.title,
            "collapsed": false,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        }));
        y += 1;
        let mut x = 0;
        for panel in section.panels {
            if x + panel.width > COLUMNS {
                (x, y) = (0, y + section.height);
            }
            let id = all.len() + 1;
            let place = json!({"x": x, "y": y, "w": panel.width, "h": section.height});
            all.push(whole(panel, id, &place));
            x += panel.width;
        }
        y += section.height;
    }
    all
}

fn whole(panel: &Panel, id: usize, place: &Value) -> Value {
    json!({
        "id": id,
        "type": kind(panel.look),
        "title": panel.title,
        "description": panel.description,
        "gridPos": place,
        "datasource": datasource(),
        "targets": targets(panel),
        "fieldConfig": {"defaults": field(panel), "overrides": []},
        "options": options(panel),
    })
}

const fn kind(look: Look) -> &'static str {
    match look {
        Look::Value { .. } | Look::Name => "stat",
        Look::Lines | Look::Areas => "timeseries",
        Look::Heatmap => "heatmap",
        Look::Bars { .. } => "bargauge",
    }
}

fn targets(panel: &Panel) -> Vec<Value> {
    // What is now is one value; what was takes one for each step.
    let instant = matches!(panel.look, Look::Value { .. } | Look::Name | Look::Bars { .. });
    let targets = panel.queries.iter().zip('A'..).map(|((query, legend), id)| {
        json!({
            "refId": id,
            "datasource": datasource(),
            "editorMode": "code",
            "expr": written_out(query),
            "legendFormat": legend,
            "format": if matches!(panel.look, Look::Heatmap) { "heatmap" } else { "time_series" },
            "instant": instant,
            "range": !instant,
        })
    });
    targets.collect()
}

/// How a value is written, and its colour.
fn field(panel: &Panel) -> Value {
    let colour = |mode: &str| json!({"mode": mode});
    match panel.look {
        Look::Value { warning, critical } | Look::Bars { warning, critical } => json!({
            "unit": panel.unit,
            "color": colour("thresholds"),
            "thresholds": thresholds(warning, critical),
        }),
        Look::Name => json!({
            "unit": panel.unit,
            "color": {"mode": "fixed", "fixedColor": "text"},
        }),
        Look::Lines => json!({
            "unit": panel.unit,
            "min": 0,
            "color": colour("palette-classic"),
            "custom": {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 5, "showPoints": "auto"},
        }),
        Look::Areas => json!({
            "unit": panel.unit,
            "min": 0,
            "color": colour("palette-classic"),
            "custom": {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 40,
                "showPoints": "never",
                "stacking": {"mode": "normal", "group": "A"},
            },
        }),
        // Its cells are counts; the unit is that of its axis.
        Look::Heatmap => json!({"custom": {"scaleDistribution": {"type": "linear"}}}),
    }
}

/// Green until the first one, red from the second one on; with a smaller second one, less is worse.
fn thresholds(warning: f64, critical: f64) -> Value {
    let step = |color: &str, value: Option<f64>| json!({"color": color, "value": value});
    let steps = if warning <= critical {
        [step("green", None), step("orange", Some(warning)), step("red", Some(critical))]
    } else {
        [step("red", None), step("orange", Some(critical)), step("green", Some(warning))]
    };
    json!({"mode": "absolute", "steps": steps})
}

fn options(panel: &Panel) -> Value {
    let last = json!({"calcs": ["lastNotNull"], "fields": "", "values": false});
    match panel.look {
        Look::Value { .. } => stat(&last, "value", "background"),
        Look::Name => stat(&last, "name", "none"),
        Look::Lines | Look::Areas => json!({
            "legend": {
                "showLegend": true,
                "displayMode": "table",
                "placement": "bottom",
                "calcs": ["lastNotNull", "max"],
                "sortBy": "Max",
                "sortDesc": true,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }),
        Look::Heatmap => json!({
            "calculate": false,
            "cellGap": 1,
            "cellValues": {"unit": "short"},
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "fill": "dark-orange",
                "scale": "exponential",
                "exponent": 0.5,
                "steps": 64,
                "reverse": false,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            // Empty cells are not drawn.
            "filterValues": {"le": 1e-9},
            "legend": {"show": true},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": true, "showColorScale": true},
            "yAxis": {"axisPlacement": "left", "reverse": false, "unit": panel.unit},
        }),
        Look::Bars { .. } => json!({
            "displayMode": "basic",
            "legend": {"showLegend": false, "displayMode": "list", "placement": "bottom", "calcs": []},
            "maxVizHeight": 32,
            "minVizHeight": 16,
            "minVizWidth": 8,
            "namePlacement": "left",
            "orientation": "horizontal",
            "reduceOptions": last,
            "showUnfilled": true,
            "sizing": "auto",
            "valueMode": "color",
        }),
    }
}

fn stat(reduced: &Value, text: &str, colour: &str) -> Value {
    json!({
        "reduceOptions": reduced,
        "textMode": text,
        "graphMode": "none",
        "colorMode": colour,
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "showPercentChange": false,
        "wideLayout": true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_say_what_they_show_and_overlap_nowhere() {
        let mut cells = std::collections::HashSet::new();
        for panel in panels() {
            let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            assert!(place("x") + place("w") <= u64::from(COLUMNS), "{}", panel["title"]);
            for cell in (place("x")..place("x") + place("w")).flat_map(|x| {
                let (y, h) = (place("y"), place("h"));
                (y..y + h).map(move |y| (x, y))
            }) {
                assert!(cells.insert(cell), "{} overlaps", panel["title"]);
            }
            if panel["type"] != "row" {
                assert!(panel["description"].as_str().unwrap().ends_with('.'), "{}", panel["title"]);
                let unit =
                    panel["fieldConfig"]["defaults"]["unit"].as_str().or(panel["options"]["yAxis"]["unit"].as_str());
                assert!(!unit.unwrap().is_empty(), "{}", panel["title"]);
                assert!(!panel["targets"].as_array().unwrap().is_empty(), "{}", panel["title"]);
            }
        }
    }

    #[test]
    fn queries_have_no_variables_left() {
        for query in queries() {
            assert!(!query.contains('$'), "{query}");
        }
    }
}
