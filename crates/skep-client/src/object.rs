//! What a client must know of every object: where it is, which one it is, how new it is.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use skep_base::{Revision, SharedStr, TenantName};

use crate::error::Error;

/// The annotation by which an object says, in the cross-tenant view, whose it is.
pub const TENANT_ANNOTATION: &str = "tenancy.skep.io/tenant";

/// Where an object of a known resource is. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its namespace; empty when cluster-scoped.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// `namespace` is empty for cluster-scoped objects.
    #[must_use]
    pub fn new(tenant: &TenantName, namespace: &str, name: &str) -> ObjectKey {
        // Of a tenant's thousands of objects most are in few namespaces.
        let namespace = SharedStr::new(namespace).into();
        ObjectKey { tenant: tenant.clone(), namespace, name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.tenant)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// The part of an object's metadata that is read of every object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Head<'a> {
    #[serde(borrow)]
    pub(crate) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) namespace: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) uid: Cow<'a, str>,
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
    #[serde(borrow)]
    annotations: Option<HeadAnnotations<'a>>,
    deletion_timestamp: Option<IgnoredAny>,
    deletion_grace_period_seconds: Option<i64>,
    finalizers: Option<Vec<IgnoredAny>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HeadAnnotations<'a> {
    #[serde(rename = "tenancy.skep.io/tenant", borrow)]
    tenant: Option<&'a str>,
    #[serde(rename = "k8s.io/initial-events-end", borrow)]
    initial_events_end: Option<&'a str>,
}

impl<'a> Head<'a> {
    /// Reads it off an object, without looking further than it must.
    pub(crate) fn read(object: &'a [u8]) -> Result<Head<'a>, Error> {
        struct Finder<'s, 'a>(&'s mut Option<Head<'a>>);
        impl<'a> Visitor<'a> for Finder<'_, 'a> {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
                while let Some(key) = map.next_key::<Cow<'a, str>>()? {
                    if key == "metadata" {
                        *self.0 = Some(map.next_value()?);
                        // An error is the only way to stop early.
                        return Err(A::Error::custom("found"));
                    }
                    map.next_value::<IgnoredAny>()?;
                }
                Ok(())
            }
        }
        let mut found = None;
        let result = serde::Deserializer::deserialize_map(
            &mut serde_json::Deserializer::from_slice(object),
            Finder(&mut found),
        );
        match (found, result) {
            (Some(head), _) => Ok(head),
            (None, Ok(())) => Err(Error::Answer("an object has no metadata".to_owned())),
            (None, Err(e)) => Err(Error::Answer(e.to_string())),
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision::parse(&self.resource_version).unwrap_or(Revision::ZERO)
    }

    pub(crate) fn tenant(&self) -> Option<&'a str> {
        self.annotations.as_ref()?.tenant
    }

    /// Whether this is the last state of an object that is gone: its end was announced, and nothing holds it. The answer to the
    /// write that took away the last finalizer looks like this.
    pub(crate) fn is_over(&self) -> bool {
        self.deletion_timestamp.is_some()
            && self.deletion_grace_period_seconds.unwrap_or(0) == 0
            && self.finalizers.as_ref().is_none_or(Vec::is_empty)
    }

    pub(crate) fn initial_events_end(&self) -> bool {
        self.annotations.as_ref().is_some_and(|a| a.initial_events_end == Some("true"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_found_anywhere() {
        let texts = [
            r#"{"kind":"Pod","metadata":{"resourceVersion":"7","annotations":{"tenancy.skep.io/tenant":"shop","x":"\u0041"},"name":"a","namespace":"b","uid":"u"},"spec":{"broken"#,
            r#"{"spec":{"metadata":{"name":"no"}},"metadata":{"uid":"u","name":"\u0061","namespace":"b","resourceVersion":"7","annotations":{"tenancy.skep.io/tenant":"shop"}}}"#,
        ];
        for text in texts {
            let head = Head::read(text.as_bytes()).unwrap();
            assert_eq!((&*head.name, &*head.namespace, &*head.uid), ("a", "b", "u"));
            assert_eq!((head.revision(), head.tenant()), (Revision(7), Some("shop")));
            assert!(!head.initial_events_end());
        }
        let bookmark = br#"{"kind":"Pod","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}"#;
        assert!(Head::read(bookmark).unwrap().initial_events_end());
        let over = |text: &str| Head::read(text.as_bytes()).unwrap().is_over();
        assert!(over(
            r#"{"metadata":{"deletionTimestamp":"t","deletionGracePeriodSeconds":0,"finalizers":[]}}"#
        ));
        assert!(!over(r#"{"metadata":{"deletionTimestamp":"t","finalizers":["x"]}}"#));
        assert!(!over(r#"{"metadata":{"deletionTimestamp":"t","deletionGracePeriodSeconds":30}}"#));
        assert!(!over(r#"{"metadata":{"name":"a"}}"#));
        for bad in ["", "[]", "{}", r#"{"metadata":3}"#, r#"{"metadata":{"name":"a"#] {
            assert!(Head::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
