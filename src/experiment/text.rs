//! Until the report is shown properly: JSON.
pub fn text(r: &super::results::Results) -> String {
    serde_json::to_string_pretty(r).unwrap_or_default()
}
