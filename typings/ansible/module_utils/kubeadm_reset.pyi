from kubeadm_reset import *
