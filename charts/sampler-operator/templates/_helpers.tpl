{{- define "sampler-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* The name of all objects; short enough for what is put behind it. */}}
{{- define "sampler-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "sampler-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "sampler-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* What selects the operator's pod: it never changes. */}}
{{- define "sampler-operator.selector" -}}
app.kubernetes.io/name: {{ include "sampler-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "sampler-operator.labels" -}}
{{- $own := include "sampler-operator.selector" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $own "app.kubernetes.io/part-of" "sampler-operator" }}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_")) }}
{{- toYaml (merge $own (default (dict) .Values.commonLabels)) }}
{{- end }}

{{- /* metadata: of (context, name) and, if given, namespace, labels, annotations. */}}
{{- define "sampler-operator.metadata" -}}
{{- $own := include "sampler-operator.labels" .context | fromYaml }}
{{- $annotations := merge (dict) (default (dict) .annotations) (default (dict) .context.Values.commonAnnotations) -}}
name: {{ .name }}
{{- with .namespace }}
namespace: {{ . }}
{{- end }}
labels: {{- toYaml (merge $own (default (dict) .labels)) | nindent 2 }}
{{- with $annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "sampler-operator.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{- define "sampler-operator.readsNodes" -}}
{{- if kindIs "invalid" .Values.rbac.readNodes }}
{{- if not .Values.watchNamespaces }}yes{{ end }}
{{- else if .Values.rbac.readNodes }}yes{{ end }}
{{- end }}
