{{- define "ctbatch.name" -}}
{{ printf "%s-%s" .root.Release.Name .name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "ctbatch.labels" -}}
{{ include "ctbatch.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "ctbatch.selector" -}}
app.kubernetes.io/name: ctbatch
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "ctbatch.image" -}}
{{ .root.Values.image.registry }}ctbatch/{{ .image }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* What every pod has: the rights of nobody, and nothing of the cluster. Its own processes share one PID namespace,
so that the pause container reaps orphans. Decoders set a system-call filter of their own, which RuntimeDefault
allows. */}}
{{- define "ctbatch.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
shareProcessNamespace: true
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "ctbatch.containerSecurity" -}}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "ctbatch.environment" -}}
{{- $storage := .root.Values.storage -}}
- {name: CTBATCH_HOME, value: /var/lib/ctbatch}
- name: CTBATCH_STORAGE_URL
  value: {{ if $storage.claim }}/files{{ else }}{{ required "set storage.url or storage.claim" $storage.url | quote }}{{ end }}
- {name: DATABASE_URL_FILE, value: /run/secrets/ctbatch/database_url}
- {name: CELERY_BROKER_URL_FILE, value: /run/secrets/ctbatch/broker_url}
{{- if and (not $storage.claim) .root.Values.awsCredentials }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .root.Values.secret }}, key: aws_access_key_id}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .root.Values.secret }}, key: aws_secret_access_key}}
{{- end }}
{{- with $storage.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- range $key, $value := merge (dict) (.environment | default dict) .root.Values.environment }}
- {name: {{ $key }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}} {{- /* not 3.4e+10 */}}
{{- end }}
{{- with .coresAs }}
- name: {{ . }}
  valueFrom: {resourceFieldRef: {containerName: ctbatch, resource: limits.cpu}}
{{- end }}
{{- end }}

{{- define "ctbatch.mounts" -}}
- {name: home, mountPath: /var/lib/ctbatch}
- {name: tmp, mountPath: /tmp}
- {name: secrets, mountPath: /run/secrets/ctbatch, readOnly: true}
{{- if .root.Values.storage.claim }}
- {name: files, mountPath: /files}
{{- end }}
{{- end }}

{{- define "ctbatch.volumes" -}}
- name: home
  emptyDir: {sizeLimit: {{ .homeSize }}}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
- name: secrets
  secret:
    secretName: {{ .root.Values.secret }}
    defaultMode: 0440
    items:
      {{- range .secrets }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- if .root.Values.storage.claim }}
- name: files
  persistentVolumeClaim: {claimName: {{ .root.Values.storage.claim }}}
{{- end }}
{{- end }}
