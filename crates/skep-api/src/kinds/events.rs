//! Events: `v1` and `events.k8s.io/v1`, the same objects under two names, stored as `v1`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSeries, EventSource};
use k8s_openapi::api::events::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Fields, Kind, KindInfo, NameRule};
use crate::meta;
use crate::registry::{Convert, Registry};
use crate::table::{Cell, Column};

/// How long an event is kept.
pub const TTL_S: u32 = 60 * 60;
/// Longest `reportingInstance`, `action` and `reason`: they are labels, not prose.
const LABEL_MAX_BYTES: usize = 128;
/// Longest message of an event in the new style.
const NOTE_MAX_BYTES: usize = 1024;

/// Core events are registered here too: they belong with their other version.
pub(super) fn register(registry: &mut Registry) {
    registry.add_converted::<v1::Event, Event>();
}

/// The stored version, in the core group.
pub(super) fn register_core(registry: &mut Registry) {
    registry.add::<Event>();
}

fn filled(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

/// The rules that hold in both versions.
fn validate_common(event: &Event, controller_field: &str, errors: &mut Errors) {
    let namespace = filled(&event.metadata.namespace);
    let involved = filled(&event.involved_object.namespace);
    let mismatch = |errors: &mut Errors| {
        let path = Path::root("involvedObject");
        errors.invalid(&path.child("namespace"), involved, "does not match event.namespace");
    };
    if event.event_time.is_none() {
        // The old style.
        let matches =
            if involved.is_empty() { matches!(namespace, "" | "default") } else { involved == namespace };
        if !matches {
            mismatch(errors);
        }
    } else {
        if involved.is_empty() && !matches!(namespace, "default" | "kube-system") {
            mismatch(errors);
        }
        let controller = Path::root(controller_field);
        let name = filled(&event.reporting_component);
        if name.is_empty() {
            errors.required(&controller, "");
        }
        for message in meta::qualified_name_errors(name) {
            errors.invalid(&controller, name, &message);
        }
        let limited = [
            ("reportingInstance", &event.reporting_instance),
            ("action", &event.action),
            ("reason", &event.reason),
        ];
        for (field, value) in limited {
            if filled(value).is_empty() {
                errors.required(&Path::root(field), "");
            }
            too_long(field, filled(value), LABEL_MAX_BYTES, errors);
        }
        too_long("message", filled(&event.message), NOTE_MAX_BYTES, errors);
    }
    for message in meta::dns1123_subdomain_errors(namespace) {
        errors.invalid(&Path::root("namespace"), namespace, &message);
    }
}

fn too_long(field: &str, value: &str, max: usize, errors: &mut Errors) {
    if value.len() > max {
        errors.invalid(&Path::root(field), "", &format!("can have at most {max} characters"));
    }
}

fn validate_series(event: &Event, errors: &mut Errors) {
    let Some(series) = &event.series else { return };
    if series.count.unwrap_or(0) < 2 {
        errors.invalid(&Path::root("series.count"), "", "should be at least 2");
    }
    if series.last_observed_time.is_none() {
        errors.required(&Path::root("series.lastObservedTime"), "");
    }
}

impl Kind for Event {
    fn info() -> KindInfo {
        let info = KindInfo::of::<Event>().short("ev").names(NameRule::PathSegment).create_on_update();
        SELECTABLE.iter().fold(info.ttl_s(TTL_S), |info, &(core, _)| info.select(core))
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_common(self, "reportingComponent", errors);
    }

    fn fields(&self, fields: &mut Fields) {
        for &(name, _) in SELECTABLE {
            fields.add(name, selectable(self, name));
        }
    }

    fn columns() -> Vec<Column> {
        let name = Column { name: "Name", ..Column::NAME };
        vec![
            Column::string("Last Seen", "The time since it happened last."),
            Column::string("Type", "Normal or Warning."),
            Column::string("Reason", "Why it happened, in one word."),
            Column::string("Object", "What it happened to."),
            Column::string("Subobject", "What part of the object it happened to.").wide(),
            Column::string("Source", "Who reported it.").wide(),
            Column::string("Message", "What happened."),
            Column::string("First Seen", "The time since it happened first.").wide(),
            Column::string("Count", "How often it happened.").wide(),
            name.wide(),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let first = self.first_timestamp.as_ref().map(|t| t.0).or(self.event_time.as_ref().map(|t| t.0));
        let mut last = self.last_timestamp.as_ref().map(|t| t.0).or(first);
        let mut count = match self.count.unwrap_or(0) {
            // Events of the new style that happened once are not counted.
            0 => 1,
            count => count,
        };
        if let Some(series) = &self.series {
            last = series.last_observed_time.as_ref().map(|t| t.0);
            count = series.count.unwrap_or(0);
        }
        let object = &self.involved_object;
        let mut target = filled(&object.kind).to_lowercase();
        if !filled(&object.name).is_empty() {
            target.push('/');
            target.push_str(filled(&object.name));
        }
        vec![
            meta::since_cell(last, now),
            filled(&self.type_).into(),
            filled(&self.reason).into(),
            target.into(),
            filled(&object.field_path).into(),
            source_cell(self),
            filled(&self.message).trim().into(),
            meta::since_cell(first, now),
            count.into(),
            meta::name_cell(&self.metadata),
        ]
    }
}

/// The reporter and where it runs.
fn source_cell(event: &Event) -> Cell {
    let source = event.source.as_ref();
    let or = |old: Option<&Option<String>>, new: &Option<String>| match old.map(filled) {
        None | Some("") => filled(new).to_owned(),
        Some(old) => old.to_owned(),
    };
    let component = or(source.map(|s| &s.component), &event.reporting_component);
    let instance = or(source.map(|s| &s.host), &event.reporting_instance);
    if instance.is_empty() { component.into() } else { format!("{component}, {instance}").into() }
}

/// The fields that selectors may name, in `v1` and in `events.k8s.io/v1`; empty where that has none.
const SELECTABLE: &[(&str, &str)] = &[
    ("involvedObject.kind", "regarding.kind"),
    ("involvedObject.namespace", "regarding.namespace"),
    ("involvedObject.name", "regarding.name"),
    ("involvedObject.uid", "regarding.uid"),
    ("involvedObject.apiVersion", "regarding.apiVersion"),
    ("involvedObject.resourceVersion", "regarding.resourceVersion"),
    ("involvedObject.fieldPath", "regarding.fieldPath"),
    ("reason", "reason"),
    ("reportingComponent", "reportingController"),
    ("source", ""),
    ("type", "type"),
];

/// The value of a selectable field, under its name in `v1`.
fn selectable<'a>(event: &'a Event, field: &str) -> &'a str {
    let object = &event.involved_object;
    match field {
        "involvedObject.kind" => filled(&object.kind),
        "involvedObject.namespace" => filled(&object.namespace),
        "involvedObject.name" => filled(&object.name),
        "involvedObject.uid" => filled(&object.uid),
        "involvedObject.apiVersion" => filled(&object.api_version),
        "involvedObject.resourceVersion" => filled(&object.resource_version),
        "involvedObject.fieldPath" => filled(&object.field_path),
        "reason" => filled(&event.reason),
        "reportingComponent" => filled(&event.reporting_component),
        "type" => filled(&event.type_),
        // `source`
        _ => match event.source.as_ref().map(|s| filled(&s.component)) {
            None | Some("") => filled(&event.reporting_component),
            Some(component) => component,
        },
    }
}

impl Kind for v1::Event {
    fn info() -> KindInfo {
        let info = KindInfo::of::<v1::Event>().short("ev").create_on_update().ttl_s(TTL_S);
        SELECTABLE.iter().filter(|(_, new)| !new.is_empty()).fold(info, |info, &(_, new)| info.select(new))
    }

    fn validate(&self, cx: &Context<'_>, errors: &mut Errors) {
        Self::validate_stored(&self.clone().into_stored(), cx, errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        Self::validate_stored_update(&self.clone().into_stored(), &old.clone().into_stored(), cx, errors);
    }

    fn fields(&self, fields: &mut Fields) {
        Self::stored_fields(&self.clone().into_stored(), fields);
    }

    fn columns() -> Vec<Column> {
        Event::columns()
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        self.clone().into_stored().row(now)
    }
}

impl Convert<Event> for v1::Event {
    fn into_stored(self) -> Event {
        let series = |s: v1::EventSeries| EventSeries {
            count: Some(s.count),
            last_observed_time: Some(s.last_observed_time),
        };
        Event {
            action: self.action,
            count: self.deprecated_count,
            event_time: self.event_time,
            first_timestamp: self.deprecated_first_timestamp,
            involved_object: self.regarding.unwrap_or_default(),
            last_timestamp: self.deprecated_last_timestamp,
            message: self.note,
            metadata: self.metadata,
            reason: self.reason,
            related: self.related,
            reporting_component: self.reporting_controller,
            reporting_instance: self.reporting_instance,
            series: self.series.map(series),
            source: self.deprecated_source,
            type_: self.type_,
        }
    }

    fn from_stored(stored: Event) -> v1::Event {
        // The new version demands a time where the old one may have none: it is the epoch then.
        let series = |s: EventSeries| v1::EventSeries {
            count: s.count.unwrap_or(0),
            last_observed_time: s.last_observed_time.unwrap_or(MicroTime(Timestamp::UNIX_EPOCH)),
        };
        let regarding = Some(stored.involved_object).filter(|r| *r != Default::default());
        v1::Event {
            action: stored.action,
            deprecated_count: stored.count,
            deprecated_first_timestamp: stored.first_timestamp,
            deprecated_last_timestamp: stored.last_timestamp,
            deprecated_source: stored.source,
            event_time: stored.event_time,
            metadata: stored.metadata,
            note: stored.message,
            reason: stored.reason,
            regarding,
            related: stored.related,
            reporting_controller: stored.reporting_component,
            reporting_instance: stored.reporting_instance,
            series: stored.series.map(series),
            type_: stored.type_,
        }
    }

    fn validate_stored(event: &Event, _: &Context<'_>, errors: &mut Errors) {
        validate_common(event, "reportingController", errors);
        validate_series(event, errors);
        if event.event_time.is_none() {
            errors.required(&Path::root("eventTime"), "");
        }
        let type_ = filled(&event.type_);
        if !matches!(type_, "Normal" | "Warning") {
            errors.invalid(&Path::root("type"), "", &format!("has invalid value: {type_}"));
        }
        let has_source = |s: &EventSource| !filled(&s.component).is_empty() || !filled(&s.host).is_empty();
        let unset = [
            ("firstTimestamp", event.first_timestamp.is_none()),
            ("lastTimestamp", event.last_timestamp.is_none()),
            ("count", event.count.unwrap_or(0) == 0),
            ("source", !event.source.as_ref().is_some_and(has_source)),
        ];
        for (field, _) in unset.into_iter().filter(|(_, unset)| !unset) {
            errors.invalid(&Path::root(field), "", "needs to be unset");
        }
    }

    fn validate_stored_update(new: &Event, old: &Event, _: &Context<'_>, errors: &mut Errors) {
        validate_common(new, "reportingController", errors);
        if new.series != old.series {
            validate_series(new, errors);
        }
        macro_rules! immutable {
            ($($field:ident $name:literal),*) => {
                $(meta::validate_immutable_field(&new.$field, &old.$field, &Path::root($name), errors);)*
            };
        }
        immutable!(
            involved_object "involvedObject", reason "reason", message "message", source "source",
            first_timestamp "firstTimestamp", last_timestamp "lastTimestamp", count "count", type_ "type"
        );
        // Older events may have finer times than the API shows.
        let micros = |time: &Option<MicroTime>| time.as_ref().map(|t| t.0.as_microsecond());
        if micros(&new.event_time) != micros(&old.event_time) {
            immutable!(event_time "eventTime");
        }
        immutable!(
            action "action", related "related", reporting_component "reportingController",
            reporting_instance "reportingInstance"
        );
    }

    fn stored_fields(event: &Event, fields: &mut Fields) {
        for &(core, new) in SELECTABLE.iter().filter(|(_, new)| !new.is_empty()) {
            fields.add(new, selectable(event, core));
        }
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
