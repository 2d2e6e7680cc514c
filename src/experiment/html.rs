//! Until the report is shown properly: JSON.
pub fn html(_: &super::results::Results) -> String {
    String::new()
}
