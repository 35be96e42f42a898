//! ServiceAccount.

use k8s_openapi::api::core::v1::{ObjectReference, ServiceAccount};

use crate::context::Context;
use crate::field::Errors;
use crate::kind::{Kind, KindInfo, Subresource, Verb};

/// Restricted pods of the account to the secrets that it lists; deprecated.
const ENFORCE_MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

/// Only the names of secrets mean anything here.
fn keep_names_only(account: &mut ServiceAccount) {
    for secret in account.secrets.iter_mut().flatten() {
        *secret = ObjectReference { name: secret.name.take(), ..ObjectReference::default() };
    }
}

fn has_enforce_annotation(account: &ServiceAccount) -> bool {
    account.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(ENFORCE_MOUNTABLE_SECRETS))
}

impl Kind for ServiceAccount {
    fn info() -> KindInfo {
        KindInfo::of::<ServiceAccount>().short("sa").sub(Subresource {
            name: "token",
            group: "authentication.k8s.io",
            version: "v1",
            kind: "TokenRequest",
            verbs: Verb::CREATE,
        })
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        keep_names_only(self);
    }

    fn prepare_update(&mut self, _: &Self, _: &Context<'_>) {
        keep_names_only(self);
    }

    /// Everything that is checked of a service account is metadata.
    fn validate(&self, _: &Context<'_>, _: &mut Errors) {}

    fn warnings(&self, old: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        if !has_enforce_annotation(self) || old.is_some_and(has_enforce_annotation) {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{ENFORCE_MOUNTABLE_SECRETS}]: deprecated in v1.32+; prefer separate \
             namespaces to isolate access to mounted secrets"
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_names() {
        let json =
            json!({"metadata": {"name": "a"}, "secrets": [{"name": "s", "namespace": "n", "uid": "u"}]});
        let account: ServiceAccount = created(&json);
        let only_name = ObjectReference { name: Some("s".into()), ..Default::default() };
        assert_eq!(account.secrets.as_deref(), Some([only_name].as_slice()));
        assert_eq!(updated(&account, &json, "").secrets, account.secrets);
    }

    #[test]
    fn the_deprecated_annotation_warns_when_it_is_new() {
        let json = json!({"metadata": {"name": "a", "annotations": {ENFORCE_MOUNTABLE_SECRETS: "true"}}});
        let account: ServiceAccount = created(&json);
        assert_eq!(
            create_warnings::<ServiceAccount>(&json),
            ["metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer \
              separate namespaces to isolate access to mounted secrets"]
        );
        assert!(in_context("", |cx| account.warnings(Some(&account), cx)).is_empty());
    }
}
