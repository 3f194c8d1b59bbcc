{{/* Names are fixed: there is one driver of its name in a cluster. */}}
{{- define "katadirect.labels" -}}
app.kubernetes.io/name: katadirect
app.kubernetes.io/part-of: katadirect
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "katadirect.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* root, without any of root's powers: the driver's socket is root's own, since whoever reaches it can delete volumes. */}}
{{- define "katadirect.sidecarSecurity" -}}
runAsUser: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "katadirect.podSecurity" -}}
seccompProfile: {type: RuntimeDefault}
{{- if .Values.openshift.enabled }}
seLinuxOptions: {type: spc_t}
{{- end }}
{{- end }}

{{- define "katadirect.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}
