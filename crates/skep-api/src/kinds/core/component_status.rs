//! ComponentStatus: the health of the control plane's parts, made up when asked for and never stored.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ComponentStatus;

use crate::context::Context;
use crate::field::Errors;
use crate::kind::{Kind, KindInfo, Verb};
use crate::meta;
use crate::table::{Cell, Column};

impl Kind for ComponentStatus {
    fn info() -> KindInfo {
        KindInfo::of::<ComponentStatus>()
            .short("cs")
            .verbs(&[Verb::Get, Verb::List])
            .deprecated("v1 ComponentStatus is deprecated in v1.19+")
    }

    /// Nobody can write one.
    fn validate(&self, _: &Context<'_>, _: &mut Errors) {}

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Status", "Whether the component is healthy."),
            Column::string("Message", "What the component says."),
            Column::string("Error", "Why it could not be asked."),
        ]
    }

    fn row(&self, _: Timestamp) -> Vec<Cell> {
        let mut conditions = self.conditions.iter().flatten();
        let health = conditions.find(|c| c.type_ == "Healthy");
        let status = match health {
            None => "Unknown",
            Some(c) if c.status == "True" => "Healthy",
            Some(_) => "Unhealthy",
        };
        let text = |t: Option<&String>| Cell::from(t.map_or("", String::as_str));
        vec![
            meta::name_cell(&self.metadata),
            status.into(),
            text(health.and_then(|c| c.message.as_ref())),
            text(health.and_then(|c| c.error.as_ref())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use serde_json::json;

    #[test]
    fn columns() {
        let status = |health: &str| {
            row::<ComponentStatus>(&json!({"metadata": {"name": "scheduler"}, "conditions": [
                {"type": "Other", "status": "True"}, {"type": "Healthy", "status": health, "message": "ok"}]}))
        };
        assert_eq!(status("True"), ["scheduler", "Healthy", "ok", ""]);
        assert_eq!(status("Unknown")[1], "Unhealthy");
        assert_eq!(row::<ComponentStatus>(&json!({"metadata": {"name": "x"}}))[1], "Unknown");
    }
}
