{{- define "dualmap.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "dualmap.selector" -}}
app.kubernetes.io/name: dualmap
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ ternary "picker" "gateway" .Values.picker.enabled }}
{{- end -}}

{{- define "dualmap.headSelector" -}}
app.kubernetes.io/name: dualmap
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: head
{{- end -}}

{{- define "dualmap.release" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "dualmap.labels" -}}
{{ include "dualmap.selector" . }}
{{ include "dualmap.release" . }}
{{- end -}}

{{- define "dualmap.headLabels" -}}
{{ include "dualmap.headSelector" . }}
{{ include "dualmap.release" . }}
{{- end -}}

{{/* Not empty where several gateways make one Ray cluster. */}}
{{- define "dualmap.joins" -}}
{{- if gt (int .Values.replicas) 1 }}yes{{ end -}}
{{- end -}}

{{- define "dualmap.headName" -}}
{{ include "dualmap.name" . }}-head
{{- end -}}

{{- define "dualmap.tokenSecret" -}}
{{ default (include "dualmap.headName" .) .Values.head.tokenSecret }}
{{- end -}}

{{/* Of `dualmap`, wherever it runs. */}}
{{- define "dualmap.command" -}}
{{- if .Values.picker.enabled -}}
{{ list "pick" "--grpc-port" "9002" "--mode" .Values.picker.mode | toJson }}
{{- else -}}
{{ list "up" | toJson }}
{{- end -}}
{{- end -}}

{{- define "dualmap.env" -}}
- {name: HOME, value: /tmp}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- if include "dualmap.joins" . }}
- {name: RAY_AUTH_MODE, value: token}
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "dualmap.tokenSecret" . }}, key: {{ .Values.secretKeys.clusterToken }}}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "dualmap.mounts" -}}
- {name: config, mountPath: /etc/dualmap, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if .Values.adminTokenSecret }}
- {name: admin-token, mountPath: /etc/dualmap-admin, readOnly: true}
{{- end }}
{{- if .Values.apiKeysSecret }}
- {name: api-keys, mountPath: /etc/dualmap-keys, readOnly: true}
{{- end }}
{{- if .Values.instanceKeySecret }}
- {name: instance-key, mountPath: /etc/dualmap-instance-key, readOnly: true}
{{- end }}
{{- if .Values.tlsSecret }}
- {name: tls, mountPath: /etc/dualmap-tls, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "dualmap.volumes" -}}
- name: config
  configMap: {name: {{ include "dualmap.name" . }}}
- name: tmp
  emptyDir: {}
{{- with .Values.adminTokenSecret }}
- name: admin-token
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.apiKeysSecret }}
- name: api-keys
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.instanceKeySecret }}
- name: instance-key
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.tlsSecret }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where a pod of ours may run. */}}
{{- define "dualmap.scheduling" -}}
serviceAccountName: {{ include "dualmap.account" . }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "dualmap.podSecurity" . | nindent 2 }}
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
{{- if and .Values.vllm.enabled .Values.vllm.autoscaling.enabled -}}
{{- $scaling := .Values.vllm.autoscaling -}}
{{- if .Values.vllm.roles -}}
{{- $bounds := dict -}}
{{- range $role, $own := .Values.vllm.roles -}}
{{- $least := int ($own.minReplicas | default $scaling.minReplicas) -}}
{{- if lt $least 1 -}}
{{- fail "vllm.autoscaling.minReplicas: 0 is for servers that do all of a request: each of vllm.roles needs one" -}}
{{- end -}}
{{- $_ := set $bounds $role (dict "min_replicas" $least "max_replicas" (int ($own.maxReplicas | default $scaling.maxReplicas))) -}}
{{- end -}}
{{- $_ := set $fixed "scaling" $bounds -}}
{{- else -}}
{{- $_ := set $fixed "scaling" (dict "min_replicas" (int $scaling.minReplicas) "max_replicas" (int $scaling.maxReplicas) "scale_to_zero_after_s" (int $scaling.scaleToZeroAfterSeconds)) -}}
{{- end -}}
{{- end -}}
{{- toYaml (mergeOverwrite $given $fixed) -}}
{{- end -}}

{{- define "dualmap.egress" -}}
# the instances
- ports:
    - {port: {{ .Values.discovery.port }}, protocol: TCP}
  to:
    - podSelector:
        matchLabels:
          {{- toYaml .Values.discovery.labels | nindent 10 }}
# names, and Kubernetes' API
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    - {port: 443, protocol: TCP}
    - {port: 6443, protocol: TCP}
{{- with .Values.networkPolicy.egress }}
{{ toYaml . }}
{{- end }}
{{- end -}}
