"""How the program queries a cluster: on its control plane, as root, with the kubeconfig that kubeadm wrote there."""

ADMIN_CONF = "/etc/kubernetes/admin.conf"
KUBECTL = f"sudo -n kubectl --kubeconfig {ADMIN_CONF}"
