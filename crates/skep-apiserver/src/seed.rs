//! Objects that the server itself makes, encoded once for all who get them: copies differ in uid and time alone.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skep_api::{DynKind, Object, Registry};
use skep_base::{GroupResource, Key, TenantName};
use skep_store::{Expect, NewValue, Op};

use crate::encode::new_value;
use crate::status::ApiError;

/// Holds a uid's place; as long as each.
const NO_UID: uuid::Uuid = uuid::Uuid::nil();
/// Holds the place of the time of creation; as long as each.
const NO_TIME: Timestamp = Timestamp::UNIX_EPOCH;

/// A time as objects carry it, to the second: 20 bytes up to the year 9999, at which [`Timestamp`] ends.
pub(crate) fn time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// An encoded object without its uid, its time of creation and its tenant.
pub struct Seed {
    resource: GroupResource,
    namespace: String,
    name: String,
    value: NewValue,
    /// Where in the body its uid belongs.
    uid_at: usize,
    /// Where in the body its time of creation belongs.
    time_at: usize,
}

impl Seed {
    /// Encodes an object; what it says of its uid and time is not looked at.
    ///
    /// # Errors
    /// 500 when it cannot be encoded, which is a defect.
    pub fn new(kind: &dyn DynKind, mut object: Box<dyn Object>) -> Result<Seed, ApiError> {
        let meta = object.meta_mut();
        let (namespace, name) =
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        meta.uid = Some(NO_UID.to_string());
        meta.creation_timestamp = Some(Time(NO_TIME));
        let value = new_value(kind, object.as_ref())?;
        let place_of = |field: &str, text: &str| {
            let needle = format!("\"{field}\":\"{text}\"");
            let meta = &value.body[value.meta_start as usize..];
            let at = meta.windows(needle.len()).position(|w| w == needle.as_bytes())?;
            Some(value.meta_start as usize + at + needle.len() - 1 - text.len())
        };
        let no_place =
            || ApiError::internal(format_args!("{}/{name} has no place for uid or time", kind.resource()));
        Ok(Seed {
            uid_at: place_of("uid", &NO_UID.to_string()).ok_or_else(no_place)?,
            time_at: place_of("creationTimestamp", &time_text(NO_TIME)).ok_or_else(no_place)?,
            resource: kind.resource().clone(),
            namespace,
            name,
            value,
        })
    }

    /// Encodes an object that is given as JSON without name and namespace.
    ///
    /// # Errors
    /// 500 when it is not one of its kind, which is a defect.
    pub(crate) fn of_json(
        registry: &Registry,
        (group, version, plural): (&str, &str, &str),
        namespace: &str,
        name: &str,
        object: &serde_json::Value,
    ) -> Result<Seed, ApiError> {
        let kind = registry
            .get(group, version, plural)
            .ok_or_else(|| ApiError::internal(format_args!("{plural} is not served")))?;
        let json = serde_json::to_vec(object).map_err(ApiError::internal)?;
        let mut object = kind.decode(&json, &mut |_| ()).map_err(ApiError::internal)?;
        let meta = object.meta_mut();
        meta.name = Some(name.to_owned());
        meta.namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
        Seed::new(kind.as_ref(), object)
    }

    /// Of which collection it is.
    pub(crate) fn resource(&self) -> &GroupResource {
        &self.resource
    }

    /// Its namespace, empty where there is none, and its name.
    pub(crate) fn place(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    /// A copy with a uid, made at `created` as [`time_text`] says it.
    pub(crate) fn copy(&self, uid: &uuid::Uuid, created: &str) -> NewValue {
        let mut value = self.value.clone();
        let mut buffer = uuid::Uuid::encode_buffer();
        let uid = uid.hyphenated().encode_lower(&mut buffer);
        for (at, text) in [(self.uid_at, &*uid), (self.time_at, created)] {
            value.body[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        value
    }

    /// The write that gives a tenant a copy with a uid of its own.
    pub(crate) fn write(&self, tenant: &TenantName, expect: Expect, created: &str) -> Op {
        let key = Key::new(self.resource.clone(), tenant.clone(), &self.namespace, &self.name);
        Op::Put { key, value: self.copy(&uuid::Uuid::new_v4(), created), expect, ttl_s: None }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use skep_base::Revision;
    use skep_store::Value;

    use super::*;

    #[test]
    fn a_copy_is_what_encoding_would_have_given() {
        let registry = Registry::builtin();
        // A label that looks like what is looked for must not be taken for it.
        let object = json!({"metadata": {"labels": {"uid": "x"}}, "data": {"uid": NO_UID.to_string()}});
        let seed = Seed::of_json(&registry, ("", "v1", "configmaps"), "ns", "name", &object).unwrap();
        let now: Timestamp = "2031-02-03T04:05:06.789Z".parse().unwrap();
        let tenant = TenantName::new("shop").unwrap();
        let op = seed.write(&tenant, Expect::Absent, &time_text(now));
        let Op::Put { key, value, .. } = op else { panic!() };
        assert_eq!(key.path(), "shop\0ns\0name");

        let kind = registry.get("", "v1", "configmaps").unwrap();
        let shown = Value::unstored(&value, Revision(7));
        let mut decoded = kind.decode(shown.json(), &mut |_| ()).unwrap();
        let meta = decoded.meta_mut();
        assert_eq!(meta.creation_timestamp.as_ref().unwrap().0.as_second(), now.as_second());
        let uid = meta.uid.clone().unwrap();
        assert_eq!(uuid::Uuid::parse_str(&uid).unwrap().get_version_num(), 4);
        meta.resource_version = None;
        assert_eq!(new_value(kind.as_ref(), decoded.as_ref()).unwrap(), value);
        let json: serde_json::Value = serde_json::from_slice(shown.json()).unwrap();
        assert_eq!(json["data"]["uid"], NO_UID.to_string());
    }
}
