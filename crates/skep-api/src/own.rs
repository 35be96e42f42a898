//! What the kinds of Skep's own share: the plumbing between a type with metadata, spec and status and its JSON.

/// Gives a struct with the fields `metadata`, `spec` and `status: Option<_>` its API names, its JSON form
/// (`apiVersion` and `kind` are written always and checked when read) and its schema. What the kind *does* is
/// its [`Kind`](crate::Kind) implementation, written out.
macro_rules! own_object {
    (
        $ty:ident, spec: $spec:ty, status: $status:ty, scope: $scope:ty,
        group: $group:literal, version: $version:literal, plural: $plural:literal, list: $list:literal,
        schema: $schema:literal, doc: $doc:literal $(,)?
    ) => {
        impl k8s_openapi::Resource for $ty {
            const API_VERSION: &'static str = concat!($group, "/", $version);
            const GROUP: &'static str = $group;
            const KIND: &'static str = stringify!($ty);
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = $scope;
        }

        impl k8s_openapi::ListableResource for $ty {
            const LIST_KIND: &'static str = $list;
        }

        impl k8s_openapi::Metadata for $ty {
            type Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
            fn metadata(&self) -> &Self::Ty {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.metadata
            }
        }

        const _: () = {
            use k8s_openapi::Resource as _;
            use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

            #[derive(serde::Deserialize, schemars::JsonSchema)]
            #[serde(rename_all = "camelCase")]
            #[schemars(description = $doc)]
            struct Wire {
                /// The version of the schema of this object.
                #[serde(default)]
                api_version: Option<String>,
                /// The kind of this object.
                #[serde(default)]
                kind: Option<String>,
                /// Names, labels and what else all objects have.
                #[serde(default)]
                metadata: ObjectMeta,
                /// What is wanted.
                #[serde(default)]
                spec: $spec,
                /// What is.
                #[serde(default)]
                status: Option<$status>,
            }

            #[derive(serde::Serialize)]
            #[serde(rename_all = "camelCase")]
            struct WireRef<'a> {
                api_version: &'static str,
                kind: &'static str,
                metadata: &'a ObjectMeta,
                spec: &'a $spec,
                #[serde(skip_serializing_if = "Option::is_none")]
                status: Option<&'a $status>,
            }

            impl serde::Serialize for $ty {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    let wire = WireRef {
                        api_version: Self::API_VERSION,
                        kind: Self::KIND,
                        metadata: &self.metadata,
                        spec: &self.spec,
                        status: self.status.as_ref(),
                    };
                    wire.serialize(serializer)
                }
            }

            impl<'de> serde::Deserialize<'de> for $ty {
                fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$ty, D::Error> {
                    use serde::de::{Error, Unexpected};
                    let wire = Wire::deserialize(deserializer)?;
                    for (got, want) in [(wire.api_version, Self::API_VERSION), (wire.kind, Self::KIND)] {
                        if let Some(got) = got.filter(|got| got != want) {
                            return Err(D::Error::invalid_value(Unexpected::Str(&got), &want));
                        }
                    }
                    Ok($ty { metadata: wire.metadata, spec: wire.spec, status: wire.status })
                }
            }

            impl schemars::JsonSchema for $ty {
                fn schema_name() -> std::borrow::Cow<'static, str> {
                    $schema.into()
                }
                fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                    Wire::json_schema(generator)
                }
            }
        };
    };
}

pub(crate) use own_object;
