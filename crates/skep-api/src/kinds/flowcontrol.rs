//! `flowcontrol.apiserver.k8s.io/v1`: which requests wait for which.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    ExemptPriorityLevelConfiguration, FlowDistinguisherMethod, FlowSchema, FlowSchemaSpec, GroupSubject,
    LimitResponse, LimitedPriorityLevelConfiguration, NonResourcePolicyRule, PolicyRulesWithSubjects,
    PriorityLevelConfiguration, PriorityLevelConfigurationReference, PriorityLevelConfigurationSpec,
    QueuingConfiguration, ResourcePolicyRule, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::registry::Registry;
use crate::table::{Cell, Column};

/// A flow schema that names no precedence.
const DEFAULT_PRECEDENCE: i32 = 1000;
/// The lowest precedence; that of the schema that catches all.
const MAX_PRECEDENCE: i32 = 10_000;
/// Shares of a limited level that names none.
const DEFAULT_SHARES: i32 = 30;
const DEFAULT_HAND_SIZE: i32 = 8;
const DEFAULT_QUEUES: i32 = 64;
const DEFAULT_QUEUE_LENGTH_LIMIT: i32 = 50;
/// Queues of one level: more would only cost memory.
const MAX_QUEUES: i32 = 10_000_000;
/// Bits of hash that dealing a hand of queues may need.
const MAX_HASH_BITS: i64 = 60;
const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";
/// Set on objects that were converted from versions that are not served here.
const ROUND_TRIP_ANNOTATION: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(super) fn register(registry: &mut Registry) {
    registry.add::<FlowSchema>();
    registry.add::<PriorityLevelConfiguration>();
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// The schemas that every tenant has from the start and whose specs are fixed: for the system's own
/// requests, and for all that no other schema matches.
#[must_use]
pub fn mandatory_flow_schemas() -> Vec<FlowSchema> {
    let all = || vec!["*".to_owned()];
    let schema = |name: &str, precedence, by: Option<&str>, groups: &[&str]| {
        let group = |g: &&str| Subject {
            kind: "Group".to_owned(),
            group: Some(GroupSubject { name: (*g).to_owned() }),
            ..Subject::default()
        };
        let rules = PolicyRulesWithSubjects {
            subjects: groups.iter().map(group).collect(),
            resource_rules: Some(vec![ResourcePolicyRule {
                verbs: all(),
                api_groups: all(),
                resources: all(),
                namespaces: Some(all()),
                cluster_scope: Some(true),
            }]),
            non_resource_rules: Some(vec![NonResourcePolicyRule { verbs: all(), non_resource_urls: all() }]),
        };
        FlowSchema {
            metadata: named(name),
            spec: Some(FlowSchemaSpec {
                distinguisher_method: by.map(|by| FlowDistinguisherMethod { type_: by.to_owned() }),
                matching_precedence: Some(precedence),
                priority_level_configuration: PriorityLevelConfigurationReference { name: name.to_owned() },
                rules: Some(vec![rules]),
            }),
            status: None,
        }
    };
    vec![
        schema(EXEMPT, 1, None, &["system:masters"]),
        schema(
            CATCH_ALL,
            MAX_PRECEDENCE,
            Some("ByUser"),
            &["system:unauthenticated", "system:authenticated"],
        ),
    ]
}

/// The levels that [`mandatory_flow_schemas`] refer to.
#[must_use]
pub fn mandatory_priority_levels() -> Vec<PriorityLevelConfiguration> {
    let level = |name: &str, spec| PriorityLevelConfiguration {
        metadata: named(name),
        spec: Some(spec),
        status: None,
    };
    let exempt =
        ExemptPriorityLevelConfiguration { lendable_percent: Some(0), nominal_concurrency_shares: Some(0) };
    let limited = LimitedPriorityLevelConfiguration {
        borrowing_limit_percent: None,
        lendable_percent: Some(0),
        limit_response: Some(LimitResponse { type_: "Reject".to_owned(), queuing: None }),
        nominal_concurrency_shares: Some(5),
    };
    vec![
        level(
            CATCH_ALL,
            PriorityLevelConfigurationSpec {
                type_: "Limited".to_owned(),
                limited: Some(limited),
                exempt: None,
            },
        ),
        level(
            EXEMPT,
            PriorityLevelConfigurationSpec {
                type_: "Exempt".to_owned(),
                limited: None,
                exempt: Some(exempt),
            },
        ),
    ]
}

impl Kind for FlowSchema {
    fn info() -> KindInfo {
        KindInfo::of::<FlowSchema>().status()
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if spec.matching_precedence.unwrap_or(0) == 0 {
            spec.matching_precedence = Some(DEFAULT_PRECEDENCE);
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(Default::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            meta::keep_metadata(&mut self.metadata, &old.metadata);
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let spec = self.spec.clone().unwrap_or_default();
        let path = Path::root("spec");
        validate_flow_schema(name, &spec, &path, errors);
        for fixed in mandatory_flow_schemas() {
            if fixed.metadata.name.as_deref() == Some(name) && !meta::same(&fixed.spec, &self.spec) {
                let detail = format!("spec of '{name}' must equal the fixed value");
                errors.invalid(&path, Json(&spec), &detail);
            }
        }
        self.validate_status(errors);
    }

    fn validate_update(&self, _: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            self.validate_status(errors);
        } else {
            self.validate(cx, errors);
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("PriorityLevel", "The level of the requests that match."),
            Column::string("MatchingPrecedence", "The schema with the lowest number that matches counts."),
            Column::string("DistinguisherMethod", "How matching requests are split into flows."),
            Column::AGE,
            Column::string("MissingPL", "Whether the priority level is missing or broken."),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.clone().unwrap_or_default();
        let by = spec.distinguisher_method.map_or_else(|| "<none>".to_owned(), |m| m.type_);
        let conditions = self.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let dangling = conditions.filter(|c| c.type_.as_deref() == Some("Dangling")).take(1);
        let missing = dangling.map(|c| c.status.clone().unwrap_or_default()).next();
        vec![
            meta::name_cell(&self.metadata),
            spec.priority_level_configuration.name.into(),
            spec.matching_precedence.unwrap_or(0).into(),
            by.into(),
            meta::age_cell(&self.metadata, now),
            missing.unwrap_or_else(|| "?".to_owned()).into(),
        ]
    }
}

/// What the validation of conditions of both kinds looks at.
trait ValidateStatus {
    /// The types of the conditions in the status.
    fn condition_types(&self) -> Vec<&str>;

    fn validate_status(&self, errors: &mut Errors) {
        let path = Path::root("status");
        let path = path.child("conditions");
        let types = self.condition_types();
        for (i, type_) in types.iter().enumerate() {
            let path = path.index(i);
            if types[..i].contains(type_) {
                errors.duplicate(&path.child("type"), *type_);
            }
            if type_.is_empty() {
                errors.required(&path.child("type"), "");
            }
        }
    }
}

impl ValidateStatus for FlowSchema {
    fn condition_types(&self) -> Vec<&str> {
        let conditions = self.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.map(|c| c.type_.as_deref().unwrap_or_default()).collect()
    }
}

impl ValidateStatus for PriorityLevelConfiguration {
    fn condition_types(&self) -> Vec<&str> {
        let conditions = self.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.map(|c| c.type_.as_deref().unwrap_or_default()).collect()
    }
}

fn validate_flow_schema(name: &str, spec: &FlowSchemaSpec, path: &Path<'_>, errors: &mut Errors) {
    let precedence = spec.matching_precedence.unwrap_or(0);
    let precedence_path = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(&precedence_path, precedence, "must be a positive value");
    }
    if precedence > MAX_PRECEDENCE {
        let detail = format!("must not be greater than {MAX_PRECEDENCE}");
        errors.invalid(&precedence_path, precedence, &detail);
    }
    if precedence == 1 && name != EXEMPT {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.invalid(&precedence_path, precedence, detail);
    }
    if let Some(method) = &spec.distinguisher_method
        && !matches!(method.type_.as_str(), "ByNamespace" | "ByUser")
    {
        let path = path.child("distinguisherMethod");
        // Upstream shows its internal type.
        let shown = json!({"Type": method.type_});
        errors.not_supported(&path.child("type"), Json(&shown), &["ByNamespace", "ByUser"]);
    }
    let level = &spec.priority_level_configuration.name;
    let level_path = path.child("priorityLevelConfiguration");
    let level_path = level_path.child("name");
    if level.is_empty() {
        errors.required(&level_path, "must reference a priority level");
    } else {
        for message in meta::dns1123_subdomain_errors(level) {
            errors.invalid(&level_path, level, &message);
        }
    }
    let path = path.child("rules");
    for (i, rules) in spec.rules.iter().flatten().enumerate() {
        validate_rules(rules, &path.index(i), errors);
    }
}

fn validate_rules(rules: &PolicyRulesWithSubjects, path: &Path<'_>, errors: &mut Errors) {
    let subjects = path.child("subjects");
    if rules.subjects.is_empty() {
        errors.required(&subjects, "subjects must contain at least one value");
    }
    for (i, subject) in rules.subjects.iter().enumerate() {
        validate_subject(subject, &subjects.index(i), errors);
    }
    let resource_rules = rules.resource_rules.as_deref().unwrap_or_default();
    let non_resource_rules = rules.non_resource_rules.as_deref().unwrap_or_default();
    if resource_rules.is_empty() && non_resource_rules.is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    let resource_path = path.child("resourceRules");
    for (i, rule) in resource_rules.iter().enumerate() {
        validate_resource_rule(rule, &resource_path.index(i), errors);
    }
    let non_resource_path = path.child("nonResourceRules");
    for (i, rule) in non_resource_rules.iter().enumerate() {
        validate_non_resource_rule(rule, &non_resource_path.index(i), errors);
    }
}

fn validate_subject(subject: &Subject, path: &Path<'_>, errors: &mut Errors) {
    let members = [
        ("ServiceAccount", "serviceAccount", subject.service_account.is_some()),
        ("User", "user", subject.user.is_some()),
        ("Group", "group", subject.group.is_some()),
    ];
    let Some(&(kind, field, set)) = members.iter().find(|(kind, ..)| *kind == subject.kind) else {
        let kinds = ["Group", "ServiceAccount", "User"];
        errors.not_supported(&path.child("kind"), &subject.kind, &kinds);
        return;
    };
    let own = path.child(field);
    if !set {
        errors.required(&own, &format!("{field} is required when subject kind is '{kind}'"));
    }
    if let (Some(account), "ServiceAccount") = (&subject.service_account, kind) {
        if account.name.is_empty() {
            errors.required(&own.child("name"), "");
        } else if account.name != "*" {
            for message in meta::dns1123_subdomain_errors(&account.name) {
                errors.invalid(&own.child("name"), &account.name, &message);
            }
        }
        if account.namespace.is_empty() {
            errors.required(&own.child("namespace"), "must specify namespace for service account");
        } else {
            for message in meta::dns1123_label_errors(&account.namespace) {
                errors.invalid(&own.child("namespace"), &account.namespace, &message);
            }
        }
    }
    let name = match kind {
        "User" => subject.user.as_ref().map(|u| &u.name),
        "Group" => subject.group.as_ref().map(|g| &g.name),
        _ => None,
    };
    if name.is_some_and(String::is_empty) {
        errors.required(&own.child("name"), "");
    }
    for (kind, field, _) in members.iter().filter(|(other, _, set)| *set && *other != kind) {
        let detail = format!("{field} is forbidden when subject kind is not '{kind}'");
        errors.forbidden(&path.child(field), &detail);
    }
}

fn has_wildcard(list: &[String]) -> bool {
    list.iter().any(|item| item == "*")
}

/// A list that is either `*` alone or has no `*`. Whether its items are to be looked at.
fn validate_wildcard(list: &[String], noun: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    if !has_wildcard(list) {
        return true;
    }
    if list.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {noun}");
        errors.invalid(path, Json(&list), &detail);
    }
    false
}

fn validate_verbs(verbs: &[String], path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("verbs");
    if verbs.is_empty() {
        errors.required(&path, "verbs must contain at least one value");
    } else if validate_wildcard(verbs, "verbs", &path, errors)
        && !verbs.iter().all(|v| VERBS.contains(&v.as_str()))
    {
        errors.not_supported(&path, Json(&verbs), &VERBS);
    }
}

fn validate_resource_rule(rule: &ResourcePolicyRule, path: &Path<'_>, errors: &mut Errors) {
    validate_verbs(&rule.verbs, path, errors);
    let lists = [
        (&rule.api_groups, "apiGroups", "api group", "api groups"),
        (&rule.resources, "resources", "resource", "resources"),
    ];
    for (list, field, one, many) in lists {
        let path = path.child(field);
        if list.is_empty() {
            errors.required(&path, &format!("resource rules must supply at least one {one}"));
        } else {
            validate_wildcard(list, many, &path, errors);
        }
    }
    let namespaces = rule.namespaces.as_deref().unwrap_or_default();
    let path = path.child("namespaces");
    if namespaces.is_empty() && rule.cluster_scope != Some(true) {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(&path, detail);
    } else if validate_wildcard(namespaces, "namespaces", &path, errors) {
        for (i, namespace) in namespaces.iter().enumerate() {
            for message in meta::dns1123_label_errors(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {message}");
                errors.invalid(&path.index(i), namespace, &detail);
            }
        }
    }
}

fn validate_non_resource_rule(rule: &NonResourcePolicyRule, path: &Path<'_>, errors: &mut Errors) {
    validate_verbs(&rule.verbs, path, errors);
    let path = path.child("nonResourceURLs");
    if rule.non_resource_urls.is_empty() {
        errors.required(&path, "nonResourceURLs must contain at least one value");
    } else if validate_wildcard(&rule.non_resource_urls, "non-resource URLs", &path, errors) {
        for (i, url) in rule.non_resource_urls.iter().enumerate() {
            if let Some(detail) = url_path_error(url) {
                errors.invalid(&path.index(i), url, detail);
            }
        }
    }
}

/// What is wrong with `/healthz` or `/metrics/*`.
fn url_path_error(path: &str) -> Option<&'static str> {
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ => match path.matches('*').count() {
            0 => None,
            1 if path.ends_with("/*") => None,
            _ => Some("wildcard can only do suffix matching"),
        },
    }
}

impl Kind for PriorityLevelConfiguration {
    fn info() -> KindInfo {
        KindInfo::of::<PriorityLevelConfiguration>().status()
    }

    fn set_defaults(&mut self) {
        let Some(spec) = &mut self.spec else { return };
        if let Some(exempt) = &mut spec.exempt {
            exempt.nominal_concurrency_shares.get_or_insert(0);
            exempt.lendable_percent.get_or_insert(0);
        }
        let Some(limited) = &mut spec.limited else { return };
        limited.nominal_concurrency_shares.get_or_insert(DEFAULT_SHARES);
        limited.lendable_percent.get_or_insert(0);
        let queuing = limited.limit_response.as_mut().and_then(|r| r.queuing.as_mut());
        if let Some(queuing) = queuing {
            let default = |field: &mut Option<i32>, value| {
                if field.unwrap_or(0) == 0 {
                    *field = Some(value);
                }
            };
            default(&mut queuing.hand_size, DEFAULT_HAND_SIZE);
            default(&mut queuing.queues, DEFAULT_QUEUES);
            default(&mut queuing.queue_length_limit, DEFAULT_QUEUE_LENGTH_LIMIT);
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(Default::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            meta::keep_metadata(&mut self.metadata, &old.metadata);
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        if self.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(ROUND_TRIP_ANNOTATION)) {
            let detail = format!("annotation '{ROUND_TRIP_ANNOTATION}' is forbidden");
            errors.forbidden(&Path::root("metadata").child("annotations"), &detail);
        }
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let spec = self.spec.clone().unwrap_or_default();
        let path = Path::root("spec");
        validate_level(name, &spec, &path, errors);
        let mandatory = mandatory_priority_levels();
        let fixed = mandatory.into_iter().find(|l| l.metadata.name.as_deref() == Some(name));
        if let Some(mut fixed) = fixed.and_then(|l| l.spec) {
            let detail = if name == EXEMPT {
                // How much the exempt requests take from the others is the operator's to say.
                fixed.exempt.clone_from(&spec.exempt);
                format!("spec of '{name}' except the 'spec.exempt' field must equal the fixed value")
            } else {
                format!("spec of '{name}' must equal the fixed value")
            };
            if !meta::same(&fixed, &spec) {
                errors.invalid(&path, Json(&spec), &detail);
            }
        }
        self.validate_status(errors);
    }

    fn validate_update(&self, _: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            self.validate_status(errors);
        } else {
            self.validate(cx, errors);
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Type", "Exempt or Limited."),
            Column::string("NominalConcurrencyShares", "The level's share of the server."),
            Column::string("Queues", "How many queues the level has."),
            Column::string("HandSize", "How many queues a flow may use."),
            Column::string("QueueLengthLimit", "How many requests may wait in a queue."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let number =
            |n: Option<Option<i32>>| n.map_or_else(|| Cell::from("<none>"), |n| n.unwrap_or(0).into());
        let limited = self.spec.as_ref().and_then(|s| s.limited.as_ref());
        let queuing = limited.and_then(|l| l.limit_response.as_ref()).and_then(|r| r.queuing.as_ref());
        vec![
            meta::name_cell(&self.metadata),
            self.spec.as_ref().map(|s| s.type_.clone()).unwrap_or_default().into(),
            number(limited.map(|l| l.nominal_concurrency_shares)),
            number(queuing.map(|q| q.queues)),
            number(queuing.map(|q| q.hand_size)),
            number(queuing.map(|q| q.queue_length_limit)),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

fn validate_level(name: &str, spec: &PriorityLevelConfigurationSpec, path: &Path<'_>, errors: &mut Errors) {
    let type_path = path.child("type");
    if (name == EXEMPT) != (spec.type_ == "Exempt") {
        errors.invalid(&type_path, &spec.type_, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    let (exempt, limited) = (path.child("exempt"), path.child("limited"));
    match spec.type_.as_str() {
        "Exempt" => {
            if spec.limited.is_some() {
                errors.forbidden(&limited, "must be nil if the type is not Limited");
            }
            if let Some(level) = &spec.exempt {
                validate_shares(level.nominal_concurrency_shares, &exempt, errors);
                validate_lendable(level.lendable_percent, &exempt, errors);
            }
        }
        "Limited" => {
            if spec.exempt.is_some() {
                errors.forbidden(&exempt, "must be nil if the type is Limited");
            }
            match &spec.limited {
                Some(level) => validate_limited(level, &limited, errors),
                None => errors.required(&limited, "must not be empty when type is Limited"),
            }
        }
        other => errors.not_supported(&type_path, other, &["Exempt", "Limited"]),
    }
}

fn validate_shares(shares: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(shares @ ..0) = shares {
        errors.invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
}

fn validate_lendable(percent: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    for message in percent.map(|p| meta::in_range_errors(p.into(), 0, 100)).into_iter().flatten() {
        errors.invalid(&path.child("lendablePercent"), percent.unwrap_or(0), &message);
    }
}

fn validate_limited(level: &LimitedPriorityLevelConfiguration, path: &Path<'_>, errors: &mut Errors) {
    validate_shares(level.nominal_concurrency_shares, path, errors);
    let response_path = path.child("limitResponse");
    let response = level.limit_response.clone().unwrap_or_default();
    let queuing_path = response_path.child("queuing");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", None) => {}
        ("Reject", Some(_)) => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            errors.forbidden(&queuing_path, detail);
        }
        ("Queue", Some(queuing)) => validate_queuing(queuing, &queuing_path, errors),
        ("Queue", None) => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.required(&queuing_path, detail);
        }
        (other, _) => errors.not_supported(&response_path.child("type"), other, &["Queue", "Reject"]),
    }
    validate_lendable(level.lendable_percent, path, errors);
    if let Some(percent @ ..0) = level.borrowing_limit_percent {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid(&path.child("borrowingLimitPercent"), percent, detail);
    }
}

fn validate_queuing(queuing: &QueuingConfiguration, path: &Path<'_>, errors: &mut Errors) {
    let limit = queuing.queue_length_limit.unwrap_or(0);
    if limit <= 0 {
        errors.invalid(&path.child("queueLengthLimit"), limit, "must be positive");
    }
    let queues = queuing.queues.unwrap_or(0);
    if queues <= 0 {
        errors.invalid(&path.child("queues"), queues, "must be positive");
    } else if queues > MAX_QUEUES {
        let detail = format!("must not be greater than {MAX_QUEUES}");
        errors.invalid(&path.child("queues"), queues, &detail);
    }
    let hand = queuing.hand_size.unwrap_or(0);
    let hand_path = path.child("handSize");
    // Dealing `hand` of `queues` takes this many bits of a flow's hash.
    let entropy_bits = (f64::from(queues).log2() * f64::from(hand)).ceil() as i64;
    if hand <= 0 {
        errors.invalid(&hand_path, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&hand_path, hand, &format!("should not be greater than queues ({queues})"));
    } else if entropy_bits > MAX_HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_HASH_BITS}"
        );
        errors.invalid(&hand_path, hand, &detail);
    }
}

#[cfg(test)]
#[path = "flowcontrol_tests.rs"]
mod tests;
