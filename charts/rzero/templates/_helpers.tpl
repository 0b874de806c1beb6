{{- define "rzero.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- /* Stem of all names: 50 characters leave room for "-stage", "-metrics" and a pod's suffix. */ -}}
{{- define "rzero.fullname" -}}
{{- $name := include "rzero.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* The component keeps the operator's selector away from stage pods, which bear the same name. */ -}}
{{- define "rzero.selectorLabels" -}}
app.kubernetes.io/name: {{ include "rzero.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "rzero.labels" -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "app.kubernetes.io/part-of" "rzero" -}}
{{- merge $labels (include "rzero.selectorLabels" . | fromYaml) .Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "rzero.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "rzero.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* Empty: stage pods run as the default account of their namespace. */ -}}
{{- define "rzero.stageServiceAccountName" -}}
{{- if .Values.stages.serviceAccount.name -}}
{{- .Values.stages.serviceAccount.name -}}
{{- else if and .Values.stages.serviceAccount.create .Values.watchNamespaces -}}
{{- include "rzero.fullname" . }}-stage
{{- end -}}
{{- end -}}

{{- /* Takes a list: an image of values.yaml, and the chart's version as its default tag. */ -}}
{{- define "rzero.image" -}}
{{- $image := index . 0 -}}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default (index . 1) $image.tag }}{{ end -}}
{{- end -}}

{{- /* Defaults of stage pods, one JSON object: what the operator reads as RZERO_STAGE_DEFAULTS. */ -}}
{{- define "rzero.stageDefaults" -}}
{{- $stages := .Values.stages -}}
{{- $defaults := dict
  "image" (include "rzero.image" (list $stages.image .Chart.AppVersion))
  "imagePullPolicy" $stages.image.pullPolicy
  "imagePullSecrets" $stages.imagePullSecrets
  "resources" $stages.resources
  "labels" $stages.labels
  "metricsPort" $stages.metricsPort
  "terminationGracePeriodSeconds" $stages.terminationGracePeriodSeconds
  "podTemplate" $stages.podTemplate -}}
{{- with $stages.cache -}}
{{- $_ := set $defaults "cache" . -}}
{{- end -}}
{{- with include "rzero.stageServiceAccountName" . -}}
{{- $_ := set $defaults "serviceAccountName" . -}}
{{- end -}}
{{- if .Values.metrics.podMonitor.enabled -}}
{{- /* Two scrapes, in seconds: how far a moment moves when the interval is added twice. Of days and weeks, nothing. */ -}}
{{- $interval := .Values.metrics.podMonitor.interval -}}
{{- $moment := toDate "2006-01-02" "2000-01-01" -}}
{{- $later := $moment | dateModify $interval | dateModify $interval -}}
{{- with sub (unixEpoch $later) (unixEpoch $moment) -}}
{{- $_ := set $defaults "metricsLingerSeconds" . -}}
{{- end -}}
{{- end -}}
{{- toJson $defaults -}}
{{- end -}}

{{- /* All that the operator may do with runs and what belongs to them. */ -}}
{{- define "rzero.operatorRules" -}}
- apiGroups: [rzero.dev]
  resources: [coevolutionruns]
  verbs: [get, list, watch]
- apiGroups: [rzero.dev]
  resources: [coevolutionruns/status]
  verbs: [update]
# Jobs name their run as an owner that waits for them (blockOwnerDeletion), which clusters with
# OwnerReferencesPermissionEnforcement allow only with this.
- apiGroups: [rzero.dev]
  resources: [coevolutionruns/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# Headless Services, by which the pods of a stage on several nodes find each other; they go with
# their run.
- apiGroups: [""]
  resources: [services]
  verbs: [create]
# Termination messages carry results.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# Events say why a pod does not start.
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end -}}
