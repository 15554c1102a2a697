from kubernetes_apply import *
