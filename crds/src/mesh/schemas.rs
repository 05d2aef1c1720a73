//! Schemas where those that are derived say too much or too little.

use schemars::{Schema, SchemaGenerator, json_schema};

pub(super) fn ports(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": { "type": "integer", "format": "int32", "minimum": 1, "maximum": 65535 }
    })
}

/// Requests and limits only: a sidecar has no use for claims.
pub(super) fn resources(_: &mut SchemaGenerator) -> Schema {
    let quantities = json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": { "type": "string", "maxLength": 32 }
    });
    json_schema!({
        "type": "object",
        "nullable": true,
        "properties": { "limits": quantities, "requests": quantities }
    })
}

/// A label selector, bounded in every dimension: the API server refuses a rule whose cost it cannot bound.
pub(super) fn selector(_: &mut SchemaGenerator) -> Schema {
    let text = |longest: u32| json_schema!({ "type": "string", "maxLength": longest });
    json_schema!({
        "type": "object",
        "nullable": true,
        "properties": {
            "matchExpressions": {
                "type": "array",
                "maxItems": 16,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": text(317),
                        "operator": text(32),
                        "values": { "type": "array", "maxItems": 64, "items": text(63) }
                    }
                }
            },
            "matchLabels": { "type": "object", "maxProperties": 64, "additionalProperties": text(63) }
        }
    })
}
