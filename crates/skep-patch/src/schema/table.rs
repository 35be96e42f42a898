//! How each list and map field of the generally available types of Kubernetes 1.36 merges.
//!
//! Sorted by type and by field, which the lookups rely on and a test checks. A field that is not
//! here merges as undeclared.

use super::rules::{ATOMIC, FieldRule, SET, UNDECLARED, map_by};

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
pub(super) static FIELD_RULES: &[TypeRules] = &[
    ("io.k8s.api.admissionregistration.v1.MatchResources", &[
        ("excludeResourceRules", ATOMIC.rule()),
        ("resourceRules", ATOMIC.rule()),
    ]),
    ("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicySpec", &[
        ("matchConditions", map_by(&["name"]).merge().by("name").rule()),
        ("mutations", ATOMIC.rule()),
        ("variables", ATOMIC.rule()),
    ]),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhook", &[
        ("admissionReviewVersions", ATOMIC.rule()),
        ("matchConditions", map_by(&["name"]).merge().by("name").rule()),
        ("rules", ATOMIC.rule()),
    ]),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration", &[
        ("webhooks", map_by(&["name"]).merge().by("name").rule()),
    ]),
    ("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", &[
        ("apiGroups", ATOMIC.rule()),
        ("apiVersions", ATOMIC.rule()),
        ("operations", ATOMIC.rule()),
        ("resourceNames", ATOMIC.rule()),
        ("resources", ATOMIC.rule()),
    ]),
    ("io.k8s.api.admissionregistration.v1.RuleWithOperations", &[
        ("apiGroups", ATOMIC.rule()),
        ("apiVersions", ATOMIC.rule()),
        ("operations", ATOMIC.rule()),
        ("resources", ATOMIC.rule()),
    ]),
    ("io.k8s.api.admissionregistration.v1.TypeChecking", &[
        ("expressionWarnings", ATOMIC.rule()),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec", &[
        ("validationActions", SET.rule()),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", &[
        ("auditAnnotations", ATOMIC.rule()),
        ("matchConditions", map_by(&["name"]).merge().by("name").rule()),
        ("validations", ATOMIC.rule()),
        ("variables", map_by(&["name"]).merge().by("name").rule()),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyStatus", &[
        ("conditions", map_by(&["type"]).rule()),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhook", &[
        ("admissionReviewVersions", ATOMIC.rule()),
        ("matchConditions", map_by(&["name"]).merge().by("name").rule()),
        ("rules", ATOMIC.rule()),
    ]),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration", &[
        ("webhooks", map_by(&["name"]).merge().by("name").rule()),
    ]),
    ("io.k8s.api.apps.v1.DaemonSetStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.apps.v1.DeploymentSpec", &[
        ("strategy", UNDECLARED.retain_keys().rule()),
    ]),
    ("io.k8s.api.apps.v1.DeploymentStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.apps.v1.ReplicaSetStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.apps.v1.StatefulSetSpec", &[
        ("volumeClaimTemplates", ATOMIC.rule()),
    ]),
    ("io.k8s.api.apps.v1.StatefulSetStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.authentication.v1.TokenRequestSpec", &[
        ("audiences", ATOMIC.rule()),
    ]),
    ("io.k8s.api.authentication.v1.TokenReviewSpec", &[
        ("audiences", ATOMIC.rule()),
    ]),
    ("io.k8s.api.authentication.v1.TokenReviewStatus", &[
        ("audiences", ATOMIC.rule()),
    ]),
    ("io.k8s.api.authentication.v1.UserInfo", &[
        ("groups", ATOMIC.rule()),
    ]),
    ("io.k8s.api.authorization.v1.FieldSelectorAttributes", &[
        ("requirements", ATOMIC.rule()),
    ]),
    ("io.k8s.api.authorization.v1.LabelSelectorAttributes", &[
        ("requirements", ATOMIC.rule()),
    ]),
    ("io.k8s.api.authorization.v1.NonResourceRule", &[
        ("nonResourceURLs", ATOMIC.rule()),
        ("verbs", ATOMIC.rule()),
    ]),
    ("io.k8s.api.authorization.v1.ResourceRule", &[
        ("apiGroups", ATOMIC.rule()),
        ("resourceNames", ATOMIC.rule()),
        ("resources", ATOMIC.rule()),
        ("verbs", ATOMIC.rule()),
    ]),
    ("io.k8s.api.authorization.v1.SubjectAccessReviewSpec", &[
        ("groups", ATOMIC.rule()),
    ]),
    ("io.k8s.api.authorization.v1.SubjectRulesReviewStatus", &[
        ("nonResourceRules", ATOMIC.rule()),
        ("resourceRules", ATOMIC.rule()),
    ]),
    ("io.k8s.api.autoscaling.v2.HPAScalingRules", &[
        ("policies", ATOMIC.rule()),
    ]),
    ("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec", &[
        ("metrics", ATOMIC.rule()),
    ]),
    ("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
        ("currentMetrics", ATOMIC.rule()),
    ]),
    ("io.k8s.api.batch.v1.CronJobStatus", &[
        ("active", ATOMIC.rule()),
    ]),
    ("io.k8s.api.batch.v1.JobStatus", &[
        ("conditions", ATOMIC.merge().by("type").rule()),
    ]),
    ("io.k8s.api.batch.v1.PodFailurePolicy", &[
        ("rules", ATOMIC.rule()),
    ]),
    ("io.k8s.api.batch.v1.PodFailurePolicyOnExitCodesRequirement", &[
        ("values", SET.rule()),
    ]),
    ("io.k8s.api.batch.v1.PodFailurePolicyRule", &[
        ("onPodConditions", ATOMIC.rule()),
    ]),
    ("io.k8s.api.batch.v1.SuccessPolicy", &[
        ("rules", ATOMIC.rule()),
    ]),
    ("io.k8s.api.batch.v1.UncountedTerminatedPods", &[
        ("failed", SET.rule()),
        ("succeeded", SET.rule()),
    ]),
    ("io.k8s.api.certificates.v1.CertificateSigningRequestSpec", &[
        ("groups", ATOMIC.rule()),
        ("usages", ATOMIC.rule()),
    ]),
    ("io.k8s.api.certificates.v1.CertificateSigningRequestStatus", &[
        ("conditions", map_by(&["type"]).rule()),
    ]),
    ("io.k8s.api.core.v1.Capabilities", &[
        ("add", ATOMIC.rule()),
        ("drop", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.CephFSPersistentVolumeSource", &[
        ("monitors", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.CephFSVolumeSource", &[
        ("monitors", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.ComponentStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.core.v1.ConfigMapProjection", &[
        ("items", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.ConfigMapVolumeSource", &[
        ("items", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.Container", &[
        ("args", ATOMIC.rule()),
        ("command", ATOMIC.rule()),
        ("env", map_by(&["name"]).merge().by("name").rule()),
        ("envFrom", ATOMIC.rule()),
        ("ports", map_by(&["containerPort", "protocol"]).merge().by("containerPort").rule()),
        ("resizePolicy", ATOMIC.rule()),
        ("restartPolicyRules", ATOMIC.rule()),
        ("volumeDevices", map_by(&["devicePath"]).merge().by("devicePath").rule()),
        ("volumeMounts", map_by(&["mountPath"]).merge().by("mountPath").rule()),
    ]),
    ("io.k8s.api.core.v1.ContainerImage", &[
        ("names", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.ContainerRestartRuleOnExitCodes", &[
        ("values", SET.rule()),
    ]),
    ("io.k8s.api.core.v1.ContainerStatus", &[
        ("allocatedResourcesStatus", map_by(&["name"]).merge().by("name").rule()),
        ("volumeMounts", map_by(&["mountPath"]).merge().by("mountPath").rule()),
    ]),
    ("io.k8s.api.core.v1.DownwardAPIProjection", &[
        ("items", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.DownwardAPIVolumeSource", &[
        ("items", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.EndpointSubset", &[
        ("addresses", ATOMIC.rule()),
        ("notReadyAddresses", ATOMIC.rule()),
        ("ports", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.Endpoints", &[
        ("subsets", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.EphemeralContainer", &[
        ("args", ATOMIC.rule()),
        ("command", ATOMIC.rule()),
        ("env", map_by(&["name"]).merge().by("name").rule()),
        ("envFrom", ATOMIC.rule()),
        ("ports", map_by(&["containerPort", "protocol"]).merge().by("containerPort").rule()),
        ("resizePolicy", ATOMIC.rule()),
        ("restartPolicyRules", ATOMIC.rule()),
        ("volumeDevices", map_by(&["devicePath"]).merge().by("devicePath").rule()),
        ("volumeMounts", map_by(&["mountPath"]).merge().by("mountPath").rule()),
    ]),
    ("io.k8s.api.core.v1.ExecAction", &[
        ("command", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.FCVolumeSource", &[
        ("targetWWNs", ATOMIC.rule()),
        ("wwids", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.HTTPGetAction", &[
        ("httpHeaders", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.HostAlias", &[
        ("hostnames", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.ISCSIPersistentVolumeSource", &[
        ("portals", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.ISCSIVolumeSource", &[
        ("portals", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.LimitRangeSpec", &[
        ("limits", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.LinuxContainerUser", &[
        ("supplementalGroups", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.LoadBalancerIngress", &[
        ("ports", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.LoadBalancerStatus", &[
        ("ingress", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.NamespaceSpec", &[
        ("finalizers", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.NamespaceStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.core.v1.NodeAffinity", &[
        ("preferredDuringSchedulingIgnoredDuringExecution", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.NodeAllocatableResourceClaimStatus", &[
        ("containers", SET.rule()),
    ]),
    ("io.k8s.api.core.v1.NodeSelector", &[
        ("nodeSelectorTerms", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.NodeSelectorRequirement", &[
        ("values", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.NodeSelectorTerm", &[
        ("matchExpressions", ATOMIC.rule()),
        ("matchFields", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.NodeSpec", &[
        ("podCIDRs", SET.merge().rule()),
        ("taints", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.NodeStatus", &[
        ("addresses", map_by(&["type"]).merge().by("type").rule()),
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
        ("declaredFeatures", ATOMIC.rule()),
        ("images", ATOMIC.rule()),
        ("runtimeHandlers", ATOMIC.rule()),
        ("volumesAttached", ATOMIC.rule()),
        ("volumesInUse", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.PersistentVolumeClaimSpec", &[
        ("accessModes", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.PersistentVolumeClaimStatus", &[
        ("accessModes", ATOMIC.rule()),
        ("allocatedResourceStatuses", UNDECLARED.granular_map().rule()),
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.core.v1.PersistentVolumeSpec", &[
        ("accessModes", ATOMIC.rule()),
        ("claimRef", UNDECLARED.granular_map().rule()),
        ("mountOptions", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.PodAffinity", &[
        ("preferredDuringSchedulingIgnoredDuringExecution", ATOMIC.rule()),
        ("requiredDuringSchedulingIgnoredDuringExecution", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.PodAffinityTerm", &[
        ("matchLabelKeys", ATOMIC.rule()),
        ("mismatchLabelKeys", ATOMIC.rule()),
        ("namespaces", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.PodAntiAffinity", &[
        ("preferredDuringSchedulingIgnoredDuringExecution", ATOMIC.rule()),
        ("requiredDuringSchedulingIgnoredDuringExecution", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.PodDNSConfig", &[
        ("nameservers", ATOMIC.rule()),
        ("options", ATOMIC.rule()),
        ("searches", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.PodExtendedResourceClaimStatus", &[
        ("requestMappings", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.PodSecurityContext", &[
        ("supplementalGroups", ATOMIC.rule()),
        ("sysctls", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.PodSpec", &[
        ("containers", map_by(&["name"]).merge().by("name").rule()),
        ("ephemeralContainers", map_by(&["name"]).merge().by("name").rule()),
        ("hostAliases", map_by(&["ip"]).merge().by("ip").rule()),
        ("imagePullSecrets", map_by(&["name"]).merge().by("name").rule()),
        ("initContainers", map_by(&["name"]).merge().by("name").rule()),
        ("nodeSelector", UNDECLARED.atomic_map().rule()),
        ("readinessGates", ATOMIC.rule()),
        ("resourceClaims", map_by(&["name"]).merge().retain_keys().by("name").rule()),
        ("schedulingGates", map_by(&["name"]).merge().by("name").rule()),
        ("tolerations", ATOMIC.rule()),
        ("topologySpreadConstraints", map_by(&["topologyKey", "whenUnsatisfiable"]).merge().by("topologyKey").rule()),
        ("volumes", map_by(&["name"]).merge().retain_keys().by("name").rule()),
    ]),
    ("io.k8s.api.core.v1.PodStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
        ("containerStatuses", ATOMIC.rule()),
        ("ephemeralContainerStatuses", ATOMIC.rule()),
        ("hostIPs", ATOMIC.merge().by("ip").rule()),
        ("initContainerStatuses", ATOMIC.rule()),
        ("nodeAllocatableResourceClaimStatuses", ATOMIC.rule()),
        ("podIPs", map_by(&["ip"]).merge().by("ip").rule()),
        ("resourceClaimStatuses", map_by(&["name"]).merge().retain_keys().by("name").rule()),
    ]),
    ("io.k8s.api.core.v1.ProjectedVolumeSource", &[
        ("sources", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.RBDPersistentVolumeSource", &[
        ("monitors", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.RBDVolumeSource", &[
        ("monitors", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.ReplicationControllerSpec", &[
        ("selector", UNDECLARED.atomic_map().rule()),
    ]),
    ("io.k8s.api.core.v1.ReplicationControllerStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.core.v1.ResourceQuotaSpec", &[
        ("scopes", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.ResourceRequirements", &[
        ("claims", map_by(&["name"]).rule()),
    ]),
    ("io.k8s.api.core.v1.ResourceStatus", &[
        ("resources", map_by(&["resourceID"]).rule()),
    ]),
    ("io.k8s.api.core.v1.ScopeSelector", &[
        ("matchExpressions", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.ScopedResourceSelectorRequirement", &[
        ("values", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.SecretProjection", &[
        ("items", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.SecretVolumeSource", &[
        ("items", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.ServiceAccount", &[
        ("imagePullSecrets", ATOMIC.rule()),
        ("secrets", map_by(&["name"]).merge().by("name").rule()),
    ]),
    ("io.k8s.api.core.v1.ServiceSpec", &[
        ("clusterIPs", ATOMIC.rule()),
        ("externalIPs", ATOMIC.rule()),
        ("ipFamilies", ATOMIC.rule()),
        ("loadBalancerSourceRanges", ATOMIC.rule()),
        ("ports", map_by(&["port", "protocol"]).merge().by("port").rule()),
        ("selector", UNDECLARED.atomic_map().rule()),
    ]),
    ("io.k8s.api.core.v1.ServiceStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.core.v1.TopologySelectorLabelRequirement", &[
        ("values", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.TopologySelectorTerm", &[
        ("matchLabelExpressions", ATOMIC.rule()),
    ]),
    ("io.k8s.api.core.v1.TopologySpreadConstraint", &[
        ("matchLabelKeys", ATOMIC.rule()),
    ]),
    ("io.k8s.api.discovery.v1.Endpoint", &[
        ("addresses", SET.rule()),
    ]),
    ("io.k8s.api.discovery.v1.EndpointHints", &[
        ("forNodes", ATOMIC.rule()),
        ("forZones", ATOMIC.rule()),
    ]),
    ("io.k8s.api.discovery.v1.EndpointSlice", &[
        ("endpoints", ATOMIC.rule()),
        ("ports", ATOMIC.rule()),
    ]),
    ("io.k8s.api.flowcontrol.v1.FlowSchemaSpec", &[
        ("rules", ATOMIC.rule()),
    ]),
    ("io.k8s.api.flowcontrol.v1.FlowSchemaStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.flowcontrol.v1.NonResourcePolicyRule", &[
        ("nonResourceURLs", SET.rule()),
        ("verbs", SET.rule()),
    ]),
    ("io.k8s.api.flowcontrol.v1.PolicyRulesWithSubjects", &[
        ("nonResourceRules", ATOMIC.rule()),
        ("resourceRules", ATOMIC.rule()),
        ("subjects", ATOMIC.rule()),
    ]),
    ("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.flowcontrol.v1.ResourcePolicyRule", &[
        ("apiGroups", SET.rule()),
        ("namespaces", SET.rule()),
        ("resources", SET.rule()),
        ("verbs", SET.rule()),
    ]),
    ("io.k8s.api.networking.v1.HTTPIngressRuleValue", &[
        ("paths", ATOMIC.rule()),
    ]),
    ("io.k8s.api.networking.v1.IPBlock", &[
        ("except", ATOMIC.rule()),
    ]),
    ("io.k8s.api.networking.v1.IngressLoadBalancerIngress", &[
        ("ports", ATOMIC.rule()),
    ]),
    ("io.k8s.api.networking.v1.IngressLoadBalancerStatus", &[
        ("ingress", ATOMIC.rule()),
    ]),
    ("io.k8s.api.networking.v1.IngressSpec", &[
        ("rules", ATOMIC.rule()),
        ("tls", ATOMIC.rule()),
    ]),
    ("io.k8s.api.networking.v1.IngressTLS", &[
        ("hosts", ATOMIC.rule()),
    ]),
    ("io.k8s.api.networking.v1.NetworkPolicyEgressRule", &[
        ("ports", ATOMIC.rule()),
        ("to", ATOMIC.rule()),
    ]),
    ("io.k8s.api.networking.v1.NetworkPolicyIngressRule", &[
        ("from", ATOMIC.rule()),
        ("ports", ATOMIC.rule()),
    ]),
    ("io.k8s.api.networking.v1.NetworkPolicySpec", &[
        ("egress", ATOMIC.rule()),
        ("ingress", ATOMIC.rule()),
        ("policyTypes", ATOMIC.rule()),
    ]),
    ("io.k8s.api.networking.v1.ServiceCIDRSpec", &[
        ("cidrs", ATOMIC.rule()),
    ]),
    ("io.k8s.api.networking.v1.ServiceCIDRStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.node.v1.Scheduling", &[
        ("nodeSelector", UNDECLARED.atomic_map().rule()),
        ("tolerations", ATOMIC.rule()),
    ]),
    ("io.k8s.api.policy.v1.PodDisruptionBudgetSpec", &[
        ("selector", UNDECLARED.replace().rule()),
    ]),
    ("io.k8s.api.policy.v1.PodDisruptionBudgetStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
    ("io.k8s.api.rbac.v1.AggregationRule", &[
        ("clusterRoleSelectors", ATOMIC.rule()),
    ]),
    ("io.k8s.api.rbac.v1.ClusterRole", &[
        ("rules", ATOMIC.rule()),
    ]),
    ("io.k8s.api.rbac.v1.ClusterRoleBinding", &[
        ("subjects", ATOMIC.rule()),
    ]),
    ("io.k8s.api.rbac.v1.PolicyRule", &[
        ("apiGroups", ATOMIC.rule()),
        ("nonResourceURLs", ATOMIC.rule()),
        ("resourceNames", ATOMIC.rule()),
        ("resources", ATOMIC.rule()),
        ("verbs", ATOMIC.rule()),
    ]),
    ("io.k8s.api.rbac.v1.Role", &[
        ("rules", ATOMIC.rule()),
    ]),
    ("io.k8s.api.rbac.v1.RoleBinding", &[
        ("subjects", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.AllocatedDeviceStatus", &[
        ("conditions", map_by(&["type"]).rule()),
    ]),
    ("io.k8s.api.resource.v1.CapacityRequestPolicy", &[
        ("validValues", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.Device", &[
        ("bindingConditions", ATOMIC.rule()),
        ("bindingFailureConditions", ATOMIC.rule()),
        ("consumesCounters", ATOMIC.rule()),
        ("taints", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.DeviceAllocationConfiguration", &[
        ("requests", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.DeviceAllocationResult", &[
        ("config", ATOMIC.rule()),
        ("results", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.DeviceAttribute", &[
        ("bools", ATOMIC.rule()),
        ("ints", ATOMIC.rule()),
        ("strings", ATOMIC.rule()),
        ("versions", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.DeviceClaim", &[
        ("config", ATOMIC.rule()),
        ("constraints", ATOMIC.rule()),
        ("requests", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.DeviceClaimConfiguration", &[
        ("requests", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.DeviceClassSpec", &[
        ("config", ATOMIC.rule()),
        ("selectors", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.DeviceConstraint", &[
        ("requests", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.DeviceRequest", &[
        ("firstAvailable", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.DeviceRequestAllocationResult", &[
        ("bindingConditions", ATOMIC.rule()),
        ("bindingFailureConditions", ATOMIC.rule()),
        ("tolerations", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.DeviceSubRequest", &[
        ("selectors", ATOMIC.rule()),
        ("tolerations", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.ExactDeviceRequest", &[
        ("selectors", ATOMIC.rule()),
        ("tolerations", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.NetworkDeviceData", &[
        ("ips", ATOMIC.rule()),
    ]),
    ("io.k8s.api.resource.v1.ResourceClaimStatus", &[
        ("devices", map_by(&["driver", "device", "pool", "shareID"]).rule()),
        ("reservedFor", map_by(&["uid"]).merge().by("uid").rule()),
    ]),
    ("io.k8s.api.resource.v1.ResourceSliceSpec", &[
        ("devices", ATOMIC.rule()),
        ("sharedCounters", ATOMIC.rule()),
    ]),
    ("io.k8s.api.storage.v1.CSIDriverSpec", &[
        ("tokenRequests", ATOMIC.rule()),
        ("volumeLifecycleModes", SET.rule()),
    ]),
    ("io.k8s.api.storage.v1.CSINodeDriver", &[
        ("topologyKeys", ATOMIC.rule()),
    ]),
    ("io.k8s.api.storage.v1.CSINodeSpec", &[
        ("drivers", map_by(&["name"]).merge().by("name").rule()),
    ]),
    ("io.k8s.api.storage.v1.StorageClass", &[
        ("allowedTopologies", ATOMIC.rule()),
        ("mountOptions", ATOMIC.rule()),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionNames", &[
        ("categories", ATOMIC.rule()),
        ("shortNames", ATOMIC.rule()),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionSpec", &[
        ("versions", ATOMIC.rule()),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus", &[
        ("conditions", map_by(&["type"]).rule()),
        ("storedVersions", ATOMIC.rule()),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionVersion", &[
        ("additionalPrinterColumns", ATOMIC.rule()),
        ("selectableFields", ATOMIC.rule()),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", &[
        ("allOf", ATOMIC.rule()),
        ("anyOf", ATOMIC.rule()),
        ("enum", ATOMIC.rule()),
        ("oneOf", ATOMIC.rule()),
        ("required", ATOMIC.rule()),
        ("x-kubernetes-list-map-keys", ATOMIC.rule()),
        ("x-kubernetes-validations", map_by(&["rule"]).merge().by("rule").rule()),
    ]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.WebhookConversion", &[
        ("conversionReviewVersions", ATOMIC.rule()),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup", &[
        ("serverAddressByClientCIDRs", ATOMIC.rule()),
        ("versions", ATOMIC.rule()),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList", &[
        ("groups", ATOMIC.rule()),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.APIResource", &[
        ("categories", ATOMIC.rule()),
        ("shortNames", ATOMIC.rule()),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList", &[
        ("resources", ATOMIC.rule()),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions", &[
        ("serverAddressByClientCIDRs", ATOMIC.rule()),
        ("versions", ATOMIC.rule()),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", &[
        ("dryRun", ATOMIC.rule()),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldSelectorRequirement", &[
        ("values", ATOMIC.rule()),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector", &[
        ("matchExpressions", ATOMIC.rule()),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelectorRequirement", &[
        ("values", ATOMIC.rule()),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", &[
        ("finalizers", SET.merge().rule()),
        ("managedFields", ATOMIC.rule()),
        ("ownerReferences", map_by(&["uid"]).merge().by("uid").rule()),
    ]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.StatusDetails", &[
        ("causes", ATOMIC.rule()),
    ]),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceSpec", &[
        ("caBundle", ATOMIC.rule()),
    ]),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceStatus", &[
        ("conditions", map_by(&["type"]).merge().by("type").rule()),
    ]),
];
