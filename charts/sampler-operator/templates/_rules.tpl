{{- /* What the operator does, as operator/sampler_operator/kube/rights.py lists it. */}}
{{- define "sampler-operator.rules" -}}
- apiGroups: [sampler.dev]
  resources: [samplerdeployments]
  verbs: [list, watch]
- apiGroups: [sampler.dev]
  resources: [samplerdeployments/status]
  verbs: [patch]
# For blockOwnerDeletion of their children, where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [sampler.dev]
  resources: [samplerdeployments/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create, patch]
# Whether several replicas can share a claim.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
{{- end }}

{{- define "sampler-operator.nodeRules" -}}
- apiGroups: [""]
  resources: [nodes, pods]
  verbs: [list]
{{- end }}

{{- define "sampler-operator.clientRules" -}}
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
{{- end }}

{{- define "sampler-operator.subjects" -}}
- kind: ServiceAccount
  name: {{ include "sampler-operator.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
