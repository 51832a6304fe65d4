{{- define "dualmap.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "dualmap.selector" -}}
app.kubernetes.io/name: dualmap
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ ternary "picker" "gateway" .Values.picker.enabled }}
{{- end -}}

{{- define "dualmap.labels" -}}
{{ include "dualmap.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "dualmap.port" -}}
{{ ternary 9002 8080 .Values.picker.enabled }}
{{- end -}}

{{- define "dualmap.account" -}}
{{ default (ternary (include "dualmap.name" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end -}}

{{/* Seconds from preStop to the end of the last answer: a pod that is killed before cuts answers off. */}}
{{- define "dualmap.drained" -}}
{{- $gateway := default dict .Values.config.gateway -}}
{{- $drain := ternary $gateway.drain_s 10 (hasKey $gateway "drain_s") -}}
{{ add .Values.preStopSeconds (ceil $drain | int) }}
{{- end -}}

{{- define "dualmap.grace" -}}
{{- $drained := include "dualmap.drained" . | int -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}
{{ add $drained 20 }}
{{- else if le (int $given) $drained -}}
{{- printf "terminationGracePeriodSeconds: %d is too short: preStopSeconds and config.gateway.drain_s take %d s, and the gateway's end some more" (int $given) $drained | fail -}}
{{- else -}}
{{ $given }}
{{- end -}}
{{- end -}}

{{- define "dualmap.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "dualmap.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "dualmap.config" -}}
{{- $given := deepCopy .Values.config -}}
{{- $gateway := dict "host" "0.0.0.0" "admin_host" "0.0.0.0" "admin_port" 8081 "port" (include "dualmap.port" . | int) -}}
{{- if .Values.adminTokenSecret }}{{ $_ := set $gateway "admin_token_file" (printf "/etc/dualmap-admin/%s" .Values.secretKeys.adminToken) }}{{ end -}}
{{- if .Values.apiKeysSecret }}{{ $_ := set $gateway "api_keys_file" (printf "/etc/dualmap-keys/%s" .Values.secretKeys.apiKeys) }}{{ end -}}
{{- if .Values.instanceKeySecret }}{{ $_ := set $gateway "instance_key_file" (printf "/etc/dualmap-instance-key/%s" .Values.secretKeys.instanceKey) }}{{ end -}}
{{- if .Values.tlsSecret -}}
{{- $_ := set $gateway "tls_cert_file" "/etc/dualmap-tls/tls.crt" -}}
{{- $_ := set $gateway "tls_key_file" "/etc/dualmap-tls/tls.key" -}}
{{- end -}}
{{- $labels := list -}}
{{- range $name, $value := .Values.discovery.labels }}{{ $labels = append $labels (printf "%s=%s" $name $value) }}{{ end -}}
{{- $pods := dict "namespace" .Release.Namespace "label_selector" (join "," $labels) "port" .Values.discovery.port -}}
{{- $fixed := dict "gateway" $gateway "log_dir" "/tmp/dualmap" "discovery" (dict "kubernetes" $pods) -}}
{{- toYaml (mergeOverwrite $given $fixed) -}}
{{- end -}}
