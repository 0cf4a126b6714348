{{/* The name of the chart, for the label that selects its pods. */}}
{{- define "lazaret.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of every object. A release that is called after the chart is not called after it twice. It is cut to leave room
for what is added to it (`-lease`). */}}
{{- define "lazaret.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- .Values.fullnameOverride | default $full | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "lazaret.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "lazaret.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "lazaret.image" -}}
{{- with .Values.image }}
{{- .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* What selects the operator's pods. It may never change: a Deployment keeps its selector for life. */}}
{{- define "lazaret.selector" -}}
app.kubernetes.io/name: {{ include "lazaret.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{/* The labels of every object. A version may hold a `+`, a label may not. */}}
{{- define "lazaret.labels" -}}
{{ include "lazaret.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: lazaret
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Who is bound to the roles. */}}
{{- define "lazaret.subjects" -}}
- kind: ServiceAccount
  name: {{ include "lazaret.serviceAccountName" . }}
  namespace: {{ .Release.Namespace | quote }}
{{- end }}
