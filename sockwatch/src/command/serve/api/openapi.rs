//! The description of the interface (OpenAPI 3.1), from the types that are written: docs/openapi.json.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use super::{
    Mistake, VERSION,
    detail::{ListenerDetail, Timeline},
    overview::{History, Overview},
    rows::Connections,
};

/// Prints it.
pub(crate) fn print() -> anyhow::Result<ExitCode> {
    io::stdout().write_all(text()?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The same for who asks the service.
pub(in super::super) fn text() -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(&description())? + "\n")
}

fn description() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let id = |name: &str, of: &str| {
        json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" },
            "description": format!("The `id` of {of}.") })
    };
    let paths = json!({
        "/api/v1/overview": { "get": {
            "summary": "How everything is now",
            "responses": answers::<Overview>(&mut schemas, &[]),
        } },
        "/api/v1/live": { "get": {
            "summary": "The same each second, as server-sent events named `overview`",
            "description": "The data of each event is what `/api/v1/overview` answers. The stream ends after ten minutes; \
                ask again then. There are eight of them at most.",
            "responses": {
                "200": { "description": "Events", "content": { "text/event-stream": { "schema": { "type": "string" } } } },
                "401": failure(&mut schemas, "The token is missing or wrong"),
                "503": failure(&mut schemas, "Too many others look, or events are not taken in"),
            },
        } },
        "/api/v1/history": { "get": {
            "summary": "Sockets by state, second by second, over the last five minutes",
            "responses": answers::<History>(&mut schemas, &[]),
        } },
        "/api/v1/listeners/{id}": { "get": {
            "summary": "A listener, closely",
            "parameters": [id("id", "a listener")],
            "responses": answers::<ListenerDetail>(&mut schemas, &["400", "404"]),
        } },
        "/api/v1/connections": { "get": {
            "summary": "Connections, and what they left",
            "parameters": parameters(),
            "responses": answers::<Connections>(&mut schemas, &["400"]),
        } },
        "/api/v1/connections/{id}": { "get": {
            "summary": "A connection's timeline",
            "parameters": [id("id", "a connection")],
            "responses": answers::<Timeline>(&mut schemas, &["400", "404"]),
        } },
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "sockwatch",
            "version": VERSION.to_string(),
            "description": "What the live page of `sockwatch serve` reads. What is not known is absent, never null. Within version 1 \
                fields may be added; whatever changes or goes makes a new version with paths of its own.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:29798" }],
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "What the file of `--token-file` holds, where there is one.",
            } },
        },
    })
}

fn parameters() -> Value {
    let one = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "description": description, "schema": schema });
    json!([
        one(
            "filter",
            "Words as `sockwatch trace` takes them, and values by themselves: `--port 8080`, `10.0.0.0/8`, \
            `TIME_WAIT`, `nginx`.",
            json!({ "type": "string" })
        ),
        one(
            "sort",
            "What comes first.",
            json!({
                "type": "string", "enum": ["state", "local", "remote", "age", "wait", "process"], "default": "age",
            })
        ),
        one(
            "order",
            "The greatest first, or the least.",
            json!({
                "type": "string", "enum": ["asc", "desc"], "default": "desc",
            })
        ),
        one(
            "limit",
            "So many at most.",
            json!({
                "type": "integer", "minimum": 1, "maximum": super::MOST_ROWS, "default": super::ROWS,
            })
        ),
    ])
}

fn answers<T: JsonSchema>(schemas: &mut SchemaGenerator, mistakes: &[&str]) -> Value {
    let mut answers = json!({
        "200": { "description": "It", "content": { "application/json": { "schema": schemas.subschema_for::<T>() } } },
        "401": failure(schemas, "The token is missing or wrong"),
        "403": failure(schemas, "Without a token it is only told to who asks by address or localhost"),
        "429": failure(schemas, "This client asks too often: `Retry-After` says how long to wait"),
        "503": failure(schemas, "Events are not taken in, or too many look at once"),
    });
    for status in mistakes {
        let what = if *status == "404" { "It is gone" } else { "What was asked for makes no sense" };
        answers[*status] = failure(schemas, what);
    }
    answers
}

fn failure(schemas: &mut SchemaGenerator, what: &str) -> Value {
    json!({ "description": what, "content": { "application/json": { "schema": schemas.subschema_for::<Mistake>() } } })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference has its schema.
    #[test]
    fn nothing_is_missing() {
        let description = description();
        let text = description.to_string();
        let references: Vec<_> = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(references.len() > 10, "{references:?}");
        for reference in references {
            assert!(description.pointer(reference).is_some(), "{reference}");
        }
    }
}
