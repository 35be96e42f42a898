//! The pods of a Job.

use serde_json::{Value, json};

use super::Job;
use crate::meta::OwnerKind;
use crate::pod::{
    COMPLETION_INDEX, INDEX_FAILURE_COUNT, INDEX_IGNORED_FAILURE_COUNT, JOB_TRACKING_FINALIZER,
};
use crate::template::{canonical, generate_name, pod_body};

/// The variable in which a container finds its index.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The longest beginning of a name that the API server completes with five characters, to one DNS label.
const MAX_GENERATED_NAME: usize = 58;

/// A pod to create.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewPod {
    /// The completion it works on, in an indexed Job.
    pub index: Option<i32>,
    /// Failures of that index so far, where they are limited per index.
    pub failures: Option<i32>,
    /// Of those, how many the policy ignored.
    pub ignored_failures: i32,
}

/// Makes bodies of create requests. The template is taken apart once for all pods.
pub struct PodMaker<'a> {
    job: &'a Job,
    spec: String,
}

impl<'a> PodMaker<'a> {
    /// For the pods of a Job.
    #[must_use]
    pub fn new(job: &'a Job) -> PodMaker<'a> {
        let spec = if job.is_indexed() {
            let mut spec = job.template.spec_value();
            for list in ["initContainers", "containers"] {
                for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    add_index_variable(container);
                }
            }
            if let Some(map) = spec.as_object_mut() {
                map.remove("hostname");
            }
            canonical(&spec)
        } else {
            job.template.spec.to_string()
        };
        PodMaker { job, spec }
    }

    /// The body for one pod.
    #[must_use]
    pub fn body(&self, new: NewPod) -> String {
        let job = self.job;
        let mut finalizers = job.template.finalizers.clone();
        if !finalizers.iter().any(|f| f == JOB_TRACKING_FINALIZER) {
            finalizers.push(JOB_TRACKING_FINALIZER.to_owned());
        }
        let mut annotations = job.template.annotations.clone();
        let mut labels = job.template.labels.clone();
        let mut name = generate_name(&job.meta.name);
        let mut spec = self.spec.as_str();
        let with_hostname;
        if let Some(index) = new.index {
            let text = index.to_string();
            labels = labels.with(COMPLETION_INDEX, &text);
            if let Some(failures) = new.failures {
                annotations.insert(INDEX_FAILURE_COUNT.to_owned(), failures.to_string());
                if new.ignored_failures > 0 {
                    annotations
                        .insert(INDEX_IGNORED_FAILURE_COUNT.to_owned(), new.ignored_failures.to_string());
                }
            }
            annotations.insert(COMPLETION_INDEX.to_owned(), text);
            name = indexed_name(&job.meta.name, index);
            // The spec is a JSON object in which there is no host name.
            let rest = spec.strip_prefix('{').unwrap_or(spec);
            let comma = if rest.starts_with('}') { "" } else { "," };
            with_hostname =
                format!(r#"{{"hostname":{}{comma}{rest}"#, json!(format!("{}-{index}", job.meta.name)));
            spec = &with_hostname;
        }
        let mut meta = json!({
            "generateName": name,
            "labels": labels,
            "finalizers": finalizers,
            "ownerReferences": [job.meta.controller_ref(OwnerKind::Job)],
        });
        if !annotations.is_empty() {
            meta["annotations"] = json!(annotations);
        }
        pod_body(&meta, spec)
    }
}

fn indexed_name(job: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let room = MAX_GENERATED_NAME.saturating_sub(end.len());
    format!("{}{end}", &job[..job.floor_char_boundary(room.min(job.len()))])
}

fn add_index_variable(container: &mut Value) {
    let Some(container) = container.as_object_mut() else { return };
    let Some(env) = container.entry("env").or_insert_with(|| json!([])).as_array_mut() else { return };
    if env.iter().any(|v| v.get("name").and_then(Value::as_str) == Some(INDEX_VARIABLE)) {
        return;
    }
    let path = format!("metadata.labels['{COMPLETION_INDEX}']");
    env.push(json!({ "name": INDEX_VARIABLE, "valueFrom": { "fieldRef": { "fieldPath": path } } }));
}
