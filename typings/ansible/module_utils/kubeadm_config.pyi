from kubeadm_config import *
