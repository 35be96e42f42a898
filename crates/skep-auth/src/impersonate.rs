//! Impersonation: acting as somebody else, when one may.
//!
//! [`wanted_user`] reads the headers, [`modes`] says which checks would allow it, [`impersonate`] makes them.
//! As in Kubernetes 1.36 there are five modes, tried in this order: four constrained ones, which ask both
//! "may they impersonate this user" (`impersonate:MODE`) and "may they do this while impersonating"
//! (`impersonate-on:MODE:VERB`), and the old one (`impersonate`). The first that allows wins; when none
//! does, the first refusal is the answer.
//!
//! The impersonated user belongs to the tenant that the request addresses, whoever impersonates: a system
//! administrator who acts as somebody in a tenant is then that tenant's user.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use skep_api::UserInfo;
use skep_base::name;

use crate::attributes::{Attributes, forbidden_message, quoted, quoted_list};
use crate::identity::{extra, groups, service_account_groups, split_service_account_user};
use crate::rbac::Decision;

/// The header that names the user; without it the others are an error.
pub const USER_HEADER: &str = "impersonate-user";
/// One group; may be repeated.
pub const GROUP_HEADER: &str = "impersonate-group";
/// The uid.
pub const UID_HEADER: &str = "impersonate-uid";
/// One value of an extra key, which follows; may be repeated.
pub const EXTRA_HEADER_PREFIX: &str = "impersonate-extra-";

const AUTHENTICATION_GROUP: &str = "authentication.k8s.io";
/// From this many groups or extra values on, constrained modes first ask for all at once.
const MANY: usize = 4;

/// Why there is no impersonation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImpersonationError {
    /// Groups, uid or extra without a user: 400.
    #[error("requested {0} without impersonating a user name")]
    WithoutUser(String),
    /// Not allowed: 403.
    #[error("{message}")]
    Forbidden {
        /// The API group of the refused check.
        group: String,
        /// Its resource.
        resource: String,
        /// Its object.
        name: String,
        /// The message after `… is forbidden: `.
        message: String,
    },
}

/// Whom a request wants to be: header names in lower case, values as text. `None` without such headers.
///
/// # Errors
/// [`ImpersonationError::WithoutUser`].
pub fn wanted_user<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Option<UserInfo>, ImpersonationError> {
    let mut wanted = UserInfo::default();
    let mut others = false;
    for (header, value) in headers {
        match header {
            // The first value counts, as for any header that is not a list.
            USER_HEADER if wanted.name.is_empty() => value.clone_into(&mut wanted.name),
            UID_HEADER if wanted.uid.is_empty() => value.clone_into(&mut wanted.uid),
            GROUP_HEADER => {
                others = true;
                wanted.groups.push(value.to_owned());
            }
            _ => {
                if let Some(key) = header.strip_prefix(EXTRA_HEADER_PREFIX) {
                    others = true;
                    wanted.extra.entry(extra_key(key)).or_default().push(value.to_owned());
                }
            }
        }
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    if others || !wanted.uid.is_empty() {
        return Err(ImpersonationError::WithoutUser(format!(
            "uid {} groups {} extra {}",
            quoted(&wanted.uid),
            quoted_list(&wanted.groups),
            quoted_list(&wanted.extra.keys().collect::<Vec<_>>())
        )));
    }
    Ok(None)
}

/// An extra key out of a header's name: lower case, percent-decoded if that is possible.
fn extra_key(encoded: &str) -> String {
    let lower = encoded.to_ascii_lowercase();
    // A stray percent sign makes the whole name literal.
    let valid = lower.split('%').skip(1).all(|s| {
        let b = s.as_bytes();
        b.len() >= 2 && b[0].is_ascii_hexdigit() && b[1].is_ascii_hexdigit()
    });
    match percent_decode_str(&lower).decode_utf8() {
        Ok(key) if valid => key.into_owned(),
        _ => lower,
    }
}

/// One check: may the requester do this?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The verb.
    pub verb: String,
    /// The API group.
    pub group: &'static str,
    /// The resource.
    pub resource: &'static str,
    /// The extra key, for `userextras`.
    pub subresource: String,
    /// The namespace, for service accounts.
    pub namespace: String,
    /// The user, group, uid or value.
    pub name: String,
}

impl Check {
    fn attributes<'a>(&'a self, requester: &'a UserInfo) -> Attributes<'a> {
        Attributes::resource(requester, &self.verb, self.group, self.resource)
            .subresource(&self.subresource)
            .in_namespace(&self.namespace)
            .named(&self.name)
    }
}

/// A step of a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The request itself, under this verb.
    Request(String),
    /// This check.
    Check(Check),
    /// The first check, or else all of the others.
    AnyOrAll(Check, Vec<Check>),
    /// No, with this text, about this check.
    Refuse(Check, String),
}

/// One way to be allowed: all steps must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode {
    /// What is asked.
    pub steps: Vec<Step>,
    /// Who the requester is then.
    pub user: UserInfo,
    /// The verb that allowed it, for the audit log; empty for the old mode.
    pub constraint: String,
    /// In the associated-node mode, what is known of the requester is narrowed to this.
    pub requester: Option<UserInfo>,
}

/// The modes that could allow it, in order.
#[must_use]
pub fn modes(wanted: &UserInfo, requester: &UserInfo, request: &Attributes<'_>) -> Vec<Mode> {
    let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
    let node = node_name(&wanted.name);
    let account = split_service_account_user(&wanted.name);
    let mut out = Vec::with_capacity(3);
    if let Some(node) = node.filter(|_| only_name) {
        if split_service_account_user(&requester.name).is_some()
            && requester.extra.get(extra::NODE_NAME).is_some_and(|v| v.as_slice() == [node])
        {
            // Whichever node it is: it was just compared, and the rule is written for all (`*`).
            let mut mode = constrained("associated-node", wanted, request);
            for step in &mut mode.steps {
                if let Step::Check(check) = step {
                    check.name = "*".to_owned();
                }
            }
            let keys = requester.extra.keys().cloned().collect();
            mode.requester = Some(UserInfo {
                extra: BTreeMap::from([(
                    "authentication.kubernetes.io/associated-node-keys".to_owned(),
                    keys,
                )]),
                ..requester.clone()
            });
            out.push(mode);
        }
        out.push(constrained("arbitrary-node", wanted, request));
    }
    if account.is_some() && only_name {
        out.push(constrained("serviceaccount", wanted, request));
    }
    if node.is_none() && account.is_none() {
        out.push(constrained("user-info", wanted, request));
    }
    out.push(Mode {
        steps: field_steps("impersonate", wanted, false),
        user: result(wanted, false),
        constraint: String::new(),
        requester: None,
    });
    out
}

fn constrained(mode: &str, wanted: &UserInfo, request: &Attributes<'_>) -> Mode {
    let verb = format!("impersonate:{mode}");
    let mut steps = vec![Step::Request(format!("impersonate-on:{mode}:{}", request.verb))];
    steps.extend(field_steps(&verb, wanted, true));
    Mode { steps, user: result(wanted, true), constraint: verb, requester: None }
}

fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix(groups::NODE_USER_PREFIX).filter(|n| name::is_dns1123_subdomain(n))
}

/// Who one is after impersonating: the fixed groups are added.
fn result(wanted: &UserInfo, constrained: bool) -> UserInfo {
    let mut user = wanted.clone();
    if constrained && node_name(&wanted.name).is_some() {
        user.groups = vec![groups::NODES.to_owned()];
    }
    if user.groups.is_empty()
        && let Some((namespace, _)) = split_service_account_user(&wanted.name)
    {
        user.groups = service_account_groups(namespace);
    }
    let has = |g: &str| user.groups.iter().any(|x| x == g);
    let add = if user.name == groups::ANONYMOUS {
        (!has(groups::UNAUTHENTICATED)).then_some(groups::UNAUTHENTICATED)
    } else {
        (!has(groups::UNAUTHENTICATED) && !has(groups::AUTHENTICATED)).then_some(groups::AUTHENTICATED)
    };
    user.groups.extend(add.map(str::to_owned));
    user
}

/// The checks of every field of the wanted user.
fn field_steps(verb: &str, wanted: &UserInfo, constrained: bool) -> Vec<Step> {
    // The old mode knows users and groups as resources of the core group.
    let name_group = if constrained { AUTHENTICATION_GROUP } else { "" };
    let check = |group: &'static str, resource: &'static str, name: &str| Check {
        verb: verb.to_owned(),
        group,
        resource,
        subresource: String::new(),
        namespace: String::new(),
        name: name.to_owned(),
    };
    let mut user = check(name_group, "users", &wanted.name);
    if let Some(node) = node_name(&wanted.name).filter(|_| constrained) {
        user.resource = "nodes";
        node.clone_into(&mut user.name);
    }
    if let Some((namespace, account)) = split_service_account_user(&wanted.name) {
        user.resource = "serviceaccounts";
        namespace.clone_into(&mut user.namespace);
        account.clone_into(&mut user.name);
    }
    let mut steps = vec![Step::Check(user)];
    if !wanted.uid.is_empty() {
        steps.push(Step::Check(check(AUTHENTICATION_GROUP, "uids", &wanted.uid)));
    }
    group_steps(&mut steps, wanted, constrained, |name| check(name_group, "groups", name));
    extra_steps(&mut steps, wanted, constrained, |key, value| Check {
        subresource: key.to_owned(),
        ..check(AUTHENTICATION_GROUP, "userextras", value)
    });
    steps
}

fn group_steps(steps: &mut Vec<Step>, wanted: &UserInfo, constrained: bool, check: impl Fn(&str) -> Check) {
    if constrained && wanted.groups.iter().any(String::is_empty) {
        let text = "impersonating the empty string group is not allowed";
        steps.push(Step::Refuse(check(""), text.to_owned()));
        return;
    }
    if constrained && wanted.groups.iter().any(|g| g == groups::MASTERS) {
        let text = "impersonating the system:masters group is not allowed";
        steps.push(Step::Refuse(check(groups::MASTERS), text.to_owned()));
        return;
    }
    let each: Vec<Check> = wanted.groups.iter().map(|g| check(g)).collect();
    if constrained && each.len() >= MANY {
        steps.push(Step::AnyOrAll(check("*"), each));
    } else {
        steps.extend(each.into_iter().map(Step::Check));
    }
}

fn extra_steps(
    steps: &mut Vec<Step>,
    wanted: &UserInfo,
    constrained: bool,
    check: impl Fn(&str, &str) -> Check,
) {
    if constrained && let Err(text) = validate_extra(&wanted.extra) {
        steps.push(Step::Refuse(check("", ""), text));
        return;
    }
    let each: Vec<Check> =
        wanted.extra.iter().flat_map(|(k, values)| values.iter().map(|v| check(k, v))).collect();
    if constrained && (each.len() >= MANY || wanted.extra.len() >= MANY) {
        steps.push(Step::AnyOrAll(check("*", "*"), each));
    } else {
        steps.extend(each.into_iter().map(Step::Check));
    }
}

fn validate_extra(values: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
    for (key, list) in values {
        if key.is_empty() {
            return Err("impersonating the empty string key in extra is not allowed".to_owned());
        }
        let prefixed = key.split_once('/').is_some_and(|(domain, path)| {
            name::is_dns1123_subdomain(&domain.to_ascii_lowercase()) && !path.is_empty()
        });
        if !prefixed {
            return Err(format!(
                "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {}: must be a domain-prefixed path (such as \"acme.io/foo\")",
                quoted(key)
            ));
        }
        if *key != key.to_lowercase() {
            return Err(format!(
                "impersonating a non-lowercase key in extra is not allowed: {}",
                quoted(key)
            ));
        }
        if list.is_empty() {
            return Err("impersonating empty values in extra is not allowed".to_owned());
        }
        if list.iter().any(String::is_empty) {
            return Err("impersonating the empty string value in extra is not allowed".to_owned());
        }
    }
    Ok(())
}

/// An allowed impersonation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonated {
    /// Who the requester is now. In the tenant that the request addresses.
    pub user: UserInfo,
    /// The verb that allowed it, for the audit log; empty for the old mode.
    pub constraint: String,
}

/// Makes the checks. `decide` is the authorizer, for the requester's tenant and the request's target.
///
/// # Errors
/// [`ImpersonationError::Forbidden`] with the first refusal.
pub fn impersonate(
    wanted: &UserInfo,
    request: &Attributes<'_>,
    decide: impl Fn(&Attributes<'_>) -> Decision,
) -> Result<Impersonated, ImpersonationError> {
    let requester = request.user;
    let mut first = None;
    for mode in modes(wanted, requester, request) {
        let who = mode.requester.as_ref().unwrap_or(requester);
        match mode.steps.iter().try_for_each(|step| run(step, who, request, &decide)) {
            Ok(()) => return Ok(Impersonated { user: mode.user, constraint: mode.constraint }),
            Err(e) => {
                first.get_or_insert(e);
            }
        }
    }
    // There is always the old mode, so there is a refusal.
    Err(first.unwrap_or_else(|| forbidden(request, "all impersonation modes failed")))
}

fn forbidden(a: &Attributes<'_>, reason: &str) -> ImpersonationError {
    ImpersonationError::Forbidden {
        group: a.group.to_owned(),
        resource: a.resource.to_owned(),
        name: a.name.to_owned(),
        message: forbidden_message(a, reason),
    }
}

fn run(
    step: &Step,
    requester: &UserInfo,
    request: &Attributes<'_>,
    decide: &impl Fn(&Attributes<'_>) -> Decision,
) -> Result<(), ImpersonationError> {
    let ask = |a: &Attributes<'_>| match decide(a) {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion(reason) => Err(forbidden(a, &reason.to_string())),
    };
    match step {
        Step::Request(verb) => ask(&Attributes { user: requester, verb, ..*request }),
        Step::Check(check) => ask(&check.attributes(requester)),
        Step::AnyOrAll(any, all) => ask(&any.attributes(requester))
            .or_else(|_| all.iter().try_for_each(|c| ask(&c.attributes(requester)))),
        Step::Refuse(check, text) => Err(forbidden(&check.attributes(requester), text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rbac::Reason;

    fn user(name: &str) -> UserInfo {
        UserInfo { name: name.to_owned(), ..UserInfo::default() }
    }

    fn headers(list: &[(&str, &str)]) -> Result<Option<UserInfo>, ImpersonationError> {
        wanted_user(list.iter().copied())
    }

    /// Allows what is in the list: `verb group/resource/subresource ns name`, `*` for a name.
    fn only<'a>(allowed: &'a [&'a str]) -> impl Fn(&Attributes<'_>) -> Decision + 'a {
        move |a| {
            let line =
                format!("{} {}/{}/{} {} {}", a.verb, a.group, a.resource, a.subresource, a.namespace, a.name);
            if allowed.contains(&line.as_str()) {
                Decision::Allow(Reason::None)
            } else {
                Decision::NoOpinion(Reason::None)
            }
        }
    }

    #[test]
    fn headers_become_a_user() {
        assert_eq!(headers(&[("accept", "x")]), Ok(None));
        let u = headers(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-Acme.com%2fproject", "p1"),
            ("impersonate-extra-acme.com%2Fproject", "p2"),
            ("impersonate-extra-50%", "x"),
        ])
        .unwrap()
        .unwrap();
        assert_eq!((u.name.as_str(), u.uid.as_str()), ("jane", "7"));
        assert_eq!(u.groups, ["a", "b"]);
        assert_eq!(u.extra["acme.com/project"], ["p1", "p2"]);
        assert_eq!(u.extra["50%"], ["x"]);
        for lone in [("impersonate-group", "a"), ("impersonate-uid", "7"), ("impersonate-extra-k", "v")] {
            assert!(matches!(headers(&[lone]), Err(ImpersonationError::WithoutUser(_))), "{lone:?}");
        }
        assert_eq!(headers(&[("impersonate-user", "")]), Ok(None));
    }

    #[test]
    fn the_old_mode_checks_every_field() {
        let me = user("me");
        let request = Attributes::resource(&me, "list", "", "pods").in_namespace("ns");
        let mut wanted = user("jane");
        wanted.groups = vec!["dev".to_owned(), "system:masters".to_owned()];
        wanted.uid = "7".to_owned();
        wanted.extra.insert("k".to_owned(), vec!["v".to_owned()]);
        let all = [
            "impersonate /users/  jane",
            "impersonate /groups/  dev",
            "impersonate /groups/  system:masters",
            "impersonate authentication.k8s.io/uids/  7",
            "impersonate authentication.k8s.io/userextras/k  v",
        ];
        let ok = impersonate(&wanted, &request, only(&all)).unwrap();
        assert_eq!(ok.constraint, "");
        assert_eq!(ok.user.groups, ["dev", "system:masters", "system:authenticated"]);
        assert_eq!(ok.user.extra, wanted.extra);
        for missing in 0..all.len() {
            let mut some = all.to_vec();
            some.remove(missing);
            assert!(impersonate(&wanted, &request, only(&some)).is_err(), "without {}", all[missing]);
        }
    }

    #[test]
    fn groups_are_completed() {
        let me = user("me");
        let request = Attributes::path(&me, "get", "/healthz");
        let yes = |_: &Attributes<'_>| Decision::Allow(Reason::None);
        let groups_of = |name: &str, list: &[&str]| {
            let mut w = user(name);
            w.groups = list.iter().map(|s| (*s).to_owned()).collect();
            impersonate(&w, &request, yes).unwrap().user.groups
        };
        assert_eq!(
            groups_of("system:serviceaccount:ns:a", &[]),
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
        );
        assert_eq!(groups_of("system:serviceaccount:ns:a", &["x"]), ["x", "system:authenticated"]);
        assert_eq!(groups_of("system:anonymous", &[]), ["system:unauthenticated"]);
        assert_eq!(groups_of("jane", &["system:unauthenticated"]), ["system:unauthenticated"]);
        assert_eq!(groups_of("jane", &["system:authenticated"]), ["system:authenticated"]);
        assert_eq!(groups_of("system:node:n", &[]), ["system:nodes", "system:authenticated"]);
    }

    #[test]
    fn constrained_modes_ask_for_both_and_never_give_masters() {
        let me = user("me");
        let request = Attributes::resource(&me, "list", "", "pods").in_namespace("ns");
        let on = "impersonate-on:user-info:list /pods/ ns ";
        let who = "impersonate:user-info authentication.k8s.io/users/  jane";
        let jane = user("jane");
        let ok = impersonate(&jane, &request, only(&[on, who])).unwrap();
        assert_eq!(ok.constraint, "impersonate:user-info");
        assert!(impersonate(&jane, &request, only(&[who])).is_err());
        let e = impersonate(&jane, &request, only(&[on])).unwrap_err();
        let ImpersonationError::Forbidden { group, resource, name, message } = e else { panic!() };
        assert_eq!((&*group, &*resource, &*name), ("authentication.k8s.io", "users", "jane"));
        assert_eq!(
            message,
            r#"User "me" cannot impersonate:user-info resource "users" in API group "authentication.k8s.io" at the cluster scope"#
        );

        let with_groups = |list: &[&str]| {
            let mut w = user("jane");
            w.groups = list.iter().map(|s| (*s).to_owned()).collect();
            w
        };
        let group = |g: &str| format!("impersonate:user-info authentication.k8s.io/groups/  {g}");
        let (masters, star) = (group("system:masters"), group("*"));
        let may = |w: &UserInfo, more: &str| impersonate(w, &request, only(&[on, who, more]));
        assert!(may(&with_groups(&["system:masters"]), &masters).is_err());
        assert!(may(&with_groups(&["a", "b", "c", "d"]), &star).is_ok(), "many: one check for all");
        assert!(may(&with_groups(&["a", "b", "c"]), &star).is_err(), "few: one by one");
        assert!(may(&with_groups(&[""]), &group("")).is_err());
        let mut w = user("jane");
        w.extra.insert("plain".to_owned(), vec!["v".to_owned()]);
        assert!(may(&w, "impersonate:user-info authentication.k8s.io/userextras/plain  v").is_err());
        w.extra = BTreeMap::from([("a.io/k".to_owned(), vec!["v".to_owned()])]);
        assert!(may(&w, "impersonate:user-info authentication.k8s.io/userextras/a.io/k  v").is_ok());
    }

    #[test]
    fn an_account_may_be_its_own_node() {
        let mut me = user("system:serviceaccount:ns:agent");
        me.extra.insert(extra::NODE_NAME.to_owned(), vec!["n1".to_owned()]);
        let request = Attributes::resource(&me, "get", "", "pods").in_namespace("ns").named("p");
        let rules = [
            "impersonate-on:associated-node:get /pods/ ns p",
            "impersonate:associated-node authentication.k8s.io/nodes/  *",
        ];
        let ok = impersonate(&user("system:node:n1"), &request, only(&rules)).unwrap();
        assert_eq!(ok.user.name, "system:node:n1");
        assert_eq!(ok.user.groups, ["system:nodes", "system:authenticated"]);
        assert!(impersonate(&user("system:node:n2"), &request, only(&rules)).is_err());
        let arbitrary = [
            "impersonate-on:arbitrary-node:get /pods/ ns p",
            "impersonate:arbitrary-node authentication.k8s.io/nodes/  n2",
        ];
        assert!(impersonate(&user("system:node:n2"), &request, only(&arbitrary)).is_ok());
        let account = [
            "impersonate-on:serviceaccount:get /pods/ ns p",
            "impersonate:serviceaccount authentication.k8s.io/serviceaccounts/ x y",
        ];
        assert!(impersonate(&user("system:serviceaccount:x:y"), &request, only(&account)).is_ok());
        let old = ["impersonate /serviceaccounts/ x y"];
        assert!(impersonate(&user("system:serviceaccount:x:y"), &request, only(&old)).is_ok());
    }
}
