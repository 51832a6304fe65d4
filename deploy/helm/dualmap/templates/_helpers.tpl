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

{{- define "dualmap.drain" -}}
{{- $gateway := default dict .Values.config.gateway -}}
{{ default 10 $gateway.drain_s }}
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
{{- if .Values.adminTokenSecret }}{{ $_ := set $gateway "admin_token_file" "/etc/dualmap-admin/token" }}{{ end -}}
{{- if .Values.apiKeysSecret }}{{ $_ := set $gateway "api_keys_file" "/etc/dualmap-keys/keys.yaml" }}{{ end -}}
{{- if .Values.instanceKeySecret }}{{ $_ := set $gateway "instance_key_file" "/etc/dualmap-instance-key/key" }}{{ end -}}
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
