{{/* The pod that gateways join, for a Deployment or a RayCluster. */}}
{{- define "dualmap.headPod" -}}
metadata:
  labels:
    {{- include "dualmap.headLabels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "dualmap.scheduling" . | nindent 2 }}
  shareProcessNamespace: true # Ray knows its processes by their ids
  terminationGracePeriodSeconds: 30
  containers:
    - name: ray
      image: {{ .Values.image.repository }}:{{ .Values.image.tag }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- if not .Values.head.kuberay }}
      command: [ray]
      args: {{ list "start" "--head" "--block" "--port=6379" "--ray-client-server-port=10001" "--num-cpus=0" "--include-dashboard=false" "--object-store-memory=100000000" "--disable-usage-stats" | toJson }}
      {{- end }}
      env:
        {{- include "dualmap.env" . | nindent 8 }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: gcs, containerPort: 6379}
        - {name: client, containerPort: 10001}
      startupProbe:
        tcpSocket: {port: client}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        tcpSocket: {port: gcs}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        tcpSocket: {port: client}
        periodSeconds: 2
      resources:
        {{- toYaml .Values.head.resources | nindent 8 }}
      securityContext:
        readOnlyRootFilesystem: true
        {{- include "dualmap.containerSecurity" . | nindent 8 }}
      volumeMounts:
        {{- include "dualmap.mounts" . | nindent 8 }}
        - {name: shm, mountPath: /dev/shm}
    # Ends, and is started again, with the Ray beside it.
    - name: dualmap
      image: {{ .Values.image.repository }}:{{ .Values.image.tag }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: {{ concat (include "dualmap.command" . | fromJsonArray) (list "--gateways" "0" "--ray-address" "127.0.0.1:6379" "/etc/dualmap/dualmap.yaml") .Values.extraArgs | toJson }}
      env:
        {{- include "dualmap.env" . | nindent 8 }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      resources:
        limits: {memory: 1Gi}
        requests: {cpu: 100m, memory: 256Mi}
      securityContext:
        readOnlyRootFilesystem: true
        {{- include "dualmap.containerSecurity" . | nindent 8 }}
      volumeMounts:
        {{- include "dualmap.mounts" . | nindent 8 }}
        - {name: shm, mountPath: /dev/shm}
  volumes:
    {{- include "dualmap.volumes" . | nindent 4 }}
    - name: shm # of Ray's object store
      emptyDir: {medium: Memory, sizeLimit: 256Mi}
{{- end -}}
