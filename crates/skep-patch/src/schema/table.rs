//! How each list and map field of the generally available types of Kubernetes 1.36 merges.
//!
//! Sorted by type and by field, which the lookups rely on and a test checks. A field that is not
//! here merges as undeclared.

use super::rules::{ATOMIC, FieldRule, NONE, SET, map_by};

/// The rules of one type: its name and its fields.
pub(super) type TypeRules = (&'static str, &'static [(&'static str, FieldRule)]);

/// Types that server-side apply owns as a whole wherever they stand, unless the field says
/// otherwise.
pub(super) const ATOMIC_TYPES: &[&str] = &[
    "io.k8s.api.admissionregistration.v1.MatchResources",
    "io.k8s.api.admissionregistration.v1.NamedRuleWithOperations",
    "io.k8s.api.admissionregistration.v1.ParamKind",
    "io.k8s.api.admissionregistration.v1.ParamRef",
    "io.k8s.api.admissionregistration.v1.Variable",
    "io.k8s.api.autoscaling.v1.CrossVersionObjectReference",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.EndpointAddress",
    "io.k8s.api.core.v1.EndpointPort",
    "io.k8s.api.core.v1.FileKeySelector",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.NodeSelectorTerm",
    "io.k8s.api.core.v1.ObjectFieldSelector",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.ResourceFieldSelector",
    "io.k8s.api.core.v1.ScopeSelector",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.SecretReference",
    "io.k8s.api.core.v1.TopologySelectorTerm",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
    "io.k8s.api.discovery.v1.EndpointPort",
    "io.k8s.api.networking.v1.ServiceBackendPort",
    "io.k8s.api.rbac.v1.RoleRef",
    "io.k8s.api.rbac.v1.Subject",
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
];

/// What the server fills in when an element of a [`ListType::Map`](super::ListType) leaves out one
/// of its keys: element type, key, value. Keys that are not here have no such value.
pub(super) const KEY_DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "TCP"),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "TCP"),
];

#[rustfmt::skip]
pub(super) const FIELD_RULES: &[TypeRules] = &[
    ("io.k8s.api.admissionregistration.v1.MatchResources", &[
        ("excludeResourceRules", ATOMIC),
        ("resourceRules", ATOMIC),
    ]),
    ("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicySpec", &[
        ("matchConditions", map_by(&["name"]).merge().by("name")),
        ("mutations", ATOMIC),
        ("variables", ATOMIC),
    ]),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhook", &[
        ("admissionReviewVersions", ATOMIC),
        ("matchConditions", map_by(&["name"]).merge().by("name")),
        ("rules", ATOMIC),
    ]),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration", &[
        ("webhooks", map_by(&["name"]).merge().by("name")),
    ]),
    ("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", &[
        ("apiGroups", ATOMIC),
        ("apiVersions", ATOMIC),
        ("operations", ATOMIC),
        ("resourceNames", ATOMIC),
        ("resources", ATOMIC),
    ]),
    ("io.k8s.api.admissionregistration.v1.RuleWithOperations", &[
        ("apiGroups", ATOMIC),
        ("apiVersions", ATOMIC),
        ("operations", ATOMIC),
        ("resources", ATOMIC),
    ]),
    ("io.k8s.api.admissionregistration.v1.TypeChecking", &[
        ("expressionWarnings", ATOMIC),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec", &[
        ("validationActions", SET),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", &[
        ("auditAnnotations", ATOMIC),
        ("matchConditions", map_by(&["name"]).merge().by("name")),
        ("validations", ATOMIC),
        ("variables", map_by(&["name"]).merge().by("name")),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyStatus", &[
        ("conditions", map_by(&["type"])),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhook", &[
        ("admissionReviewVersions", ATOMIC),
        ("matchConditions", map_by(&["name"]).merge().by("name")),
        ("rules", ATOMIC),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration", &[
        ("webhooks", map_by(&["name"]).merge().by("name")),
    ]),
    ("io.k8s.api.apps.v1.DaemonSetStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.apps.v1.DeploymentSpec", &[
        ("strategy", NONE.retain_keys()),
    ]),
    ("io.k8s.api.apps.v1.DeploymentStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.apps.v1.ReplicaSetStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.apps.v1.StatefulSetSpec", &[
        ("volumeClaimTemplates", ATOMIC),
    ]),
    ("io.k8s.api.apps.v1.StatefulSetStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.authentication.v1.TokenRequestSpec", &[
        ("audiences", ATOMIC),
    ]),
    ("io.k8s.api.authentication.v1.TokenReviewSpec", &[
        ("audiences", ATOMIC),
    ]),
    ("io.k8s.api.authentication.v1.TokenReviewStatus", &[
        ("audiences", ATOMIC),
    ]),
    ("io.k8s.api.authentication.v1.UserInfo", &[
        ("groups", ATOMIC),
    ]),
    ("io.k8s.api.authorization.v1.FieldSelectorAttributes", &[
        ("requirements", ATOMIC),
    ]),
    ("io.k8s.api.authorization.v1.LabelSelectorAttributes", &[
        ("requirements", ATOMIC),
    ]),
    ("io.k8s.api.authorization.v1.NonResourceRule", &[
        ("nonResourceURLs", ATOMIC),
        ("verbs", ATOMIC),
    ]),
    ("io.k8s.api.authorization.v1.ResourceRule", &[
        ("apiGroups", ATOMIC),
        ("resourceNames", ATOMIC),
        ("resources", ATOMIC),
        ("verbs", ATOMIC),
    ]),
    ("io.k8s.api.authorization.v1.SubjectAccessReviewSpec", &[
        ("groups", ATOMIC),
    ]),
    ("io.k8s.api.authorization.v1.SubjectRulesReviewStatus", &[
        ("nonResourceRules", ATOMIC),
        ("resourceRules", ATOMIC),
    ]),
    ("io.k8s.api.autoscaling.v2.HPAScalingRules", &[
        ("policies", ATOMIC),
    ]),
    ("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec", &[
        ("metrics", ATOMIC),
    ]),
    ("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
        ("currentMetrics", ATOMIC),
    ]),
    ("io.k8s.api.batch.v1.CronJobStatus", &[
        ("active", ATOMIC),
    ]),
    ("io.k8s.api.batch.v1.JobStatus", &[
        ("conditions", ATOMIC.merge().by("type")),
    ]),
    ("io.k8s.api.batch.v1.PodFailurePolicy", &[
        ("rules", ATOMIC),
    ]),
    ("io.k8s.api.batch.v1.PodFailurePolicyOnExitCodesRequirement", &[
        ("values", SET),
    ]),
    ("io.k8s.api.batch.v1.PodFailurePolicyRule", &[
        ("onPodConditions", ATOMIC),
    ]),
    ("io.k8s.api.batch.v1.SuccessPolicy", &[
        ("rules", ATOMIC),
    ]),
    ("io.k8s.api.batch.v1.UncountedTerminatedPods", &[
        ("failed", SET),
        ("succeeded", SET),
    ]),
    ("io.k8s.api.certificates.v1.CertificateSigningRequestSpec", &[
        ("groups", ATOMIC),
        ("usages", ATOMIC),
    ]),
    ("io.k8s.api.certificates.v1.CertificateSigningRequestStatus", &[
        ("conditions", map_by(&["type"])),
    ]),
    ("io.k8s.api.core.v1.Capabilities", &[
        ("add", ATOMIC),
        ("drop", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.CephFSPersistentVolumeSource", &[
        ("monitors", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.CephFSVolumeSource", &[
        ("monitors", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.ComponentStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.core.v1.ConfigMapProjection", &[
        ("items", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.ConfigMapVolumeSource", &[
        ("items", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.Container", &[
        ("args", ATOMIC),
        ("command", ATOMIC),
        ("env", map_by(&["name"]).merge().by("name")),
        ("envFrom", ATOMIC),
        ("ports", map_by(&["containerPort", "protocol"]).merge().by("containerPort")),
        ("resizePolicy", ATOMIC),
        ("restartPolicyRules", ATOMIC),
        ("volumeDevices", map_by(&["devicePath"]).merge().by("devicePath")),
        ("volumeMounts", map_by(&["mountPath"]).merge().by("mountPath")),
    ]),
    ("io.k8s.api.core.v1.ContainerImage", &[
        ("names", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.ContainerRestartRuleOnExitCodes", &[
        ("values", SET),
    ]),
    ("io.k8s.api.core.v1.ContainerStatus", &[
        ("allocatedResourcesStatus", map_by(&["name"]).merge().by("name")),
        ("volumeMounts", map_by(&["mountPath"]).merge().by("mountPath")),
    ]),
    ("io.k8s.api.core.v1.DownwardAPIProjection", &[
        ("items", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.DownwardAPIVolumeSource", &[
        ("items", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.EndpointSubset", &[
        ("addresses", ATOMIC),
        ("notReadyAddresses", ATOMIC),
        ("ports", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.Endpoints", &[
        ("subsets", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.EphemeralContainer", &[
        ("args", ATOMIC),
        ("command", ATOMIC),
        ("env", map_by(&["name"]).merge().by("name")),
        ("envFrom", ATOMIC),
        ("ports", map_by(&["containerPort", "protocol"]).merge().by("containerPort")),
        ("resizePolicy", ATOMIC),
        ("restartPolicyRules", ATOMIC),
        ("volumeDevices", map_by(&["devicePath"]).merge().by("devicePath")),
        ("volumeMounts", map_by(&["mountPath"]).merge().by("mountPath")),
    ]),
    ("io.k8s.api.core.v1.ExecAction", &[
        ("command", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.FCVolumeSource", &[
        ("targetWWNs", ATOMIC),
        ("wwids", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.HTTPGetAction", &[
        ("httpHeaders", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.HostAlias", &[
        ("hostnames", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.ISCSIPersistentVolumeSource", &[
        ("portals", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.ISCSIVolumeSource", &[
        ("portals", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.LimitRangeSpec", &[
        ("limits", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.LinuxContainerUser", &[
        ("supplementalGroups", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.LoadBalancerIngress", &[
        ("ports", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.LoadBalancerStatus", &[
        ("ingress", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.NamespaceSpec", &[
        ("finalizers", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.NamespaceStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.core.v1.NodeAffinity", &[
        ("preferredDuringSchedulingIgnoredDuringExecution", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.NodeAllocatableResourceClaimStatus", &[
        ("containers", SET),
    ]),
    ("io.k8s.api.core.v1.NodeSelector", &[
        ("nodeSelectorTerms", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.NodeSelectorRequirement", &[
        ("values", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.NodeSelectorTerm", &[
        ("matchExpressions", ATOMIC),
        ("matchFields", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.NodeSpec", &[
        ("podCIDRs", SET.merge()),
        ("taints", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.NodeStatus", &[
        ("addresses", map_by(&["type"]).merge().by("type")),
        ("conditions", map_by(&["type"]).merge().by("type")),
        ("declaredFeatures", ATOMIC),
        ("images", ATOMIC),
        ("runtimeHandlers", ATOMIC),
        ("volumesAttached", ATOMIC),
        ("volumesInUse", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.PersistentVolumeClaimSpec", &[
        ("accessModes", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.PersistentVolumeClaimStatus", &[
        ("accessModes", ATOMIC),
        ("allocatedResourceStatuses", NONE.granular_map()),
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.core.v1.PersistentVolumeSpec", &[
        ("accessModes", ATOMIC),
        ("claimRef", NONE.granular_map()),
        ("mountOptions", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.PodAffinity", &[
        ("preferredDuringSchedulingIgnoredDuringExecution", ATOMIC),
        ("requiredDuringSchedulingIgnoredDuringExecution", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.PodAffinityTerm", &[
        ("matchLabelKeys", ATOMIC),
        ("mismatchLabelKeys", ATOMIC),
        ("namespaces", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.PodAntiAffinity", &[
        ("preferredDuringSchedulingIgnoredDuringExecution", ATOMIC),
        ("requiredDuringSchedulingIgnoredDuringExecution", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.PodDNSConfig", &[
        ("nameservers", ATOMIC),
        ("options", ATOMIC),
        ("searches", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.PodExtendedResourceClaimStatus", &[
        ("requestMappings", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.PodSecurityContext", &[
        ("supplementalGroups", ATOMIC),
        ("sysctls", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.PodSpec", &[
        ("containers", map_by(&["name"]).merge().by("name")),
        ("ephemeralContainers", map_by(&["name"]).merge().by("name")),
        ("hostAliases", map_by(&["ip"]).merge().by("ip")),
        ("imagePullSecrets", map_by(&["name"]).merge().by("name")),
        ("initContainers", map_by(&["name"]).merge().by("name")),
        ("nodeSelector", NONE.atomic_map()),
        ("readinessGates", ATOMIC),
        ("resourceClaims", map_by(&["name"]).merge().retain_keys().by("name")),
        ("schedulingGates", map_by(&["name"]).merge().by("name")),
        ("tolerations", ATOMIC),
        ("topologySpreadConstraints", map_by(&["topologyKey", "whenUnsatisfiable"]).merge().by("topologyKey")),
        ("volumes", map_by(&["name"]).merge().retain_keys().by("name")),
    ]),
    ("io.k8s.api.core.v1.PodStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
        ("containerStatuses", ATOMIC),
        ("ephemeralContainerStatuses", ATOMIC),
        ("hostIPs", ATOMIC.merge().by("ip")),
        ("initContainerStatuses", ATOMIC),
        ("nodeAllocatableResourceClaimStatuses", ATOMIC),
        ("podIPs", map_by(&["ip"]).merge().by("ip")),
        ("resourceClaimStatuses", map_by(&["name"]).merge().retain_keys().by("name")),
    ]),
    ("io.k8s.api.core.v1.ProjectedVolumeSource", &[
        ("sources", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.RBDPersistentVolumeSource", &[
        ("monitors", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.RBDVolumeSource", &[
        ("monitors", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.ReplicationControllerSpec", &[
        ("selector", NONE.atomic_map()),
    ]),
    ("io.k8s.api.core.v1.ReplicationControllerStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.core.v1.ResourceQuotaSpec", &[
        ("scopes", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.ResourceRequirements", &[
        ("claims", map_by(&["name"])),
    ]),
    ("io.k8s.api.core.v1.ResourceStatus", &[
        ("resources", map_by(&["resourceID"])),
    ]),
    ("io.k8s.api.core.v1.ScopeSelector", &[
        ("matchExpressions", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.ScopedResourceSelectorRequirement", &[
        ("values", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.SecretProjection", &[
        ("items", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.SecretVolumeSource", &[
        ("items", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.ServiceAccount", &[
        ("imagePullSecrets", ATOMIC),
        ("secrets", map_by(&["name"]).merge().by("name")),
    ]),
    ("io.k8s.api.core.v1.ServiceSpec", &[
        ("clusterIPs", ATOMIC),
        ("externalIPs", ATOMIC),
        ("ipFamilies", ATOMIC),
        ("loadBalancerSourceRanges", ATOMIC),
        ("ports", map_by(&["port", "protocol"]).merge().by("port")),
        ("selector", NONE.atomic_map()),
    ]),
    ("io.k8s.api.core.v1.ServiceStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.core.v1.TopologySelectorLabelRequirement", &[
        ("values", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.TopologySelectorTerm", &[
        ("matchLabelExpressions", ATOMIC),
    ]),
    ("io.k8s.api.core.v1.TopologySpreadConstraint", &[
        ("matchLabelKeys", ATOMIC),
    ]),
    ("io.k8s.api.discovery.v1.Endpoint", &[
        ("addresses", SET),
    ]),
    ("io.k8s.api.discovery.v1.EndpointHints", &[
        ("forNodes", ATOMIC),
        ("forZones", ATOMIC),
    ]),
    ("io.k8s.api.discovery.v1.EndpointSlice", &[
        ("endpoints", ATOMIC),
        ("ports", ATOMIC),
    ]),
    ("io.k8s.api.flowcontrol.v1.FlowSchemaSpec", &[
        ("rules", ATOMIC),
    ]),
    ("io.k8s.api.flowcontrol.v1.FlowSchemaStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.flowcontrol.v1.NonResourcePolicyRule", &[
        ("nonResourceURLs", SET),
        ("verbs", SET),
    ]),
    ("io.k8s.api.flowcontrol.v1.PolicyRulesWithSubjects", &[
        ("nonResourceRules", ATOMIC),
        ("resourceRules", ATOMIC),
        ("subjects", ATOMIC),
    ]),
    ("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.flowcontrol.v1.ResourcePolicyRule", &[
        ("apiGroups", SET),
        ("namespaces", SET),
        ("resources", SET),
        ("verbs", SET),
    ]),
    ("io.k8s.api.networking.v1.HTTPIngressRuleValue", &[
        ("paths", ATOMIC),
    ]),
    ("io.k8s.api.networking.v1.IPBlock", &[
        ("except", ATOMIC),
    ]),
    ("io.k8s.api.networking.v1.IngressLoadBalancerIngress", &[
        ("ports", ATOMIC),
    ]),
    ("io.k8s.api.networking.v1.IngressLoadBalancerStatus", &[
        ("ingress", ATOMIC),
    ]),
    ("io.k8s.api.networking.v1.IngressSpec", &[
        ("rules", ATOMIC),
        ("tls", ATOMIC),
    ]),
    ("io.k8s.api.networking.v1.IngressTLS", &[
        ("hosts", ATOMIC),
    ]),
    ("io.k8s.api.networking.v1.NetworkPolicyEgressRule", &[
        ("ports", ATOMIC),
        ("to", ATOMIC),
    ]),
    ("io.k8s.api.networking.v1.NetworkPolicyIngressRule", &[
        ("from", ATOMIC),
        ("ports", ATOMIC),
    ]),
    ("io.k8s.api.networking.v1.NetworkPolicySpec", &[
        ("egress", ATOMIC),
        ("ingress", ATOMIC),
        ("policyTypes", ATOMIC),
    ]),
    ("io.k8s.api.networking.v1.ServiceCIDRSpec", &[
        ("cidrs", ATOMIC),
    ]),
    ("io.k8s.api.networking.v1.ServiceCIDRStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.node.v1.Scheduling", &[
        ("nodeSelector", NONE.atomic_map()),
        ("tolerations", ATOMIC),
    ]),
    ("io.k8s.api.policy.v1.PodDisruptionBudgetSpec", &[
        ("selector", NONE.replace()),
    ]),
    ("io.k8s.api.policy.v1.PodDisruptionBudgetStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
    ("io.k8s.api.rbac.v1.AggregationRule", &[
        ("clusterRoleSelectors", ATOMIC),
    ]),
    ("io.k8s.api.rbac.v1.ClusterRole", &[
        ("rules", ATOMIC),
    ]),
    ("io.k8s.api.rbac.v1.ClusterRoleBinding", &[
        ("subjects", ATOMIC),
    ]),
    ("io.k8s.api.rbac.v1.PolicyRule", &[
        ("apiGroups", ATOMIC),
        ("nonResourceURLs", ATOMIC),
        ("resourceNames", ATOMIC),
        ("resources", ATOMIC),
        ("verbs", ATOMIC),
    ]),
    ("io.k8s.api.rbac.v1.Role", &[
        ("rules", ATOMIC),
    ]),
    ("io.k8s.api.rbac.v1.RoleBinding", &[
        ("subjects", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.AllocatedDeviceStatus", &[
        ("conditions", map_by(&["type"])),
    ]),
    ("io.k8s.api.resource.v1.CapacityRequestPolicy", &[
        ("validValues", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.Device", &[
        ("bindingConditions", ATOMIC),
        ("bindingFailureConditions", ATOMIC),
        ("consumesCounters", ATOMIC),
        ("taints", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.DeviceAllocationConfiguration", &[
        ("requests", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.DeviceAllocationResult", &[
        ("config", ATOMIC),
        ("results", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.DeviceAttribute", &[
        ("bools", ATOMIC),
        ("ints", ATOMIC),
        ("strings", ATOMIC),
        ("versions", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.DeviceClaim", &[
        ("config", ATOMIC),
        ("constraints", ATOMIC),
        ("requests", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.DeviceClaimConfiguration", &[
        ("requests", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.DeviceClassSpec", &[
        ("config", ATOMIC),
        ("selectors", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.DeviceConstraint", &[
        ("requests", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.DeviceRequest", &[
        ("firstAvailable", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.DeviceRequestAllocationResult", &[
        ("bindingConditions", ATOMIC),
        ("bindingFailureConditions", ATOMIC),
        ("tolerations", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.DeviceSubRequest", &[
        ("selectors", ATOMIC),
        ("tolerations", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.ExactDeviceRequest", &[
        ("selectors", ATOMIC),
        ("tolerations", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.NetworkDeviceData", &[
        ("ips", ATOMIC),
    ]),
    ("io.k8s.api.resource.v1.ResourceClaimStatus", &[
        ("devices", map_by(&["driver", "device", "pool", "shareID"])),
        ("reservedFor", map_by(&["uid"]).merge().by("uid")),
    ]),
    ("io.k8s.api.resource.v1.ResourceSliceSpec", &[
        ("devices", ATOMIC),
        ("sharedCounters", ATOMIC),
    ]),
    ("io.k8s.api.storage.v1.CSIDriverSpec", &[
        ("tokenRequests", ATOMIC),
        ("volumeLifecycleModes", SET),
    ]),
    ("io.k8s.api.storage.v1.CSINodeDriver", &[
        ("topologyKeys", ATOMIC),
    ]),
    ("io.k8s.api.storage.v1.CSINodeSpec", &[
        ("drivers", map_by(&["name"]).merge().by("name")),
    ]),
    ("io.k8s.api.storage.v1.StorageClass", &[
        ("allowedTopologies", ATOMIC),
        ("mountOptions", ATOMIC),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionNames", &[
        ("categories", ATOMIC),
        ("shortNames", ATOMIC),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionSpec", &[
        ("versions", ATOMIC),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus", &[
        ("conditions", map_by(&["type"])),
        ("storedVersions", ATOMIC),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionVersion", &[
        ("additionalPrinterColumns", ATOMIC),
        ("selectableFields", ATOMIC),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", &[
        ("allOf", ATOMIC),
        ("anyOf", ATOMIC),
        ("enum", ATOMIC),
        ("oneOf", ATOMIC),
        ("required", ATOMIC),
        ("x-kubernetes-list-map-keys", ATOMIC),
        ("x-kubernetes-validations", map_by(&["rule"]).merge().by("rule")),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.WebhookConversion", &[
        ("conversionReviewVersions", ATOMIC),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup", &[
        ("serverAddressByClientCIDRs", ATOMIC),
        ("versions", ATOMIC),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList", &[
        ("groups", ATOMIC),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.APIResource", &[
        ("categories", ATOMIC),
        ("shortNames", ATOMIC),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList", &[
        ("resources", ATOMIC),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions", &[
        ("serverAddressByClientCIDRs", ATOMIC),
        ("versions", ATOMIC),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", &[
        ("dryRun", ATOMIC),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldSelectorRequirement", &[
        ("values", ATOMIC),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector", &[
        ("matchExpressions", ATOMIC),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelectorRequirement", &[
        ("values", ATOMIC),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", &[
        ("finalizers", SET.merge()),
        ("managedFields", ATOMIC),
        ("ownerReferences", map_by(&["uid"]).merge().by("uid")),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.StatusDetails", &[
        ("causes", ATOMIC),
    ]),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceSpec", &[
        ("caBundle", ATOMIC),
    ]),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type")),
    ]),
];
