#!/usr/bin/python3
"""Ansible module: a certificate for a service in the cluster that serves with TLS, made once, on the control plane.

The certificate is its own authority and can sign nothing else; who calls the service trusts it alone. Its key is in the
cluster, in the Secret NAME-serving, and nowhere else. A certificate whose Secret is missing was not finished, and is
made again.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kubernetes_apply import ClusterError, kubectl
from ansible.module_utils.pace import seconds
from ansible.module_utils.whole_file import write_whole

DOCUMENTATION = r"""
module: serving_certificate
short_description: A certificate for a service in the cluster
options:
  name:
    description: The service's name.
    type: str
    required: true
  namespace:
    description: Where it is.
    type: str
    required: true
"""

RETURN = r"""
certificate:
  description: The certificate in PEM, in base64 as C(caBundle) takes it; empty in a check that would make it.
  type: str
"""

# kubeadm's directory: a reset empties it, and the cluster with the Secret is gone then, too.
PKI = "/etc/kubernetes/pki"
# A lab is gone long before.
DAYS = 3650


def ensure(name: str, namespace: str, *, check: bool) -> tuple[str, bool]:
    """The certificate in PEM, and whether it is new; it is empty in a `check` that would make it."""
    path = os.path.join(PKI, f"{name}-serving.crt")
    if os.path.exists(path):
        with open(path, encoding="ascii") as stream:
            return stream.read(), False
    return ("" if check else make(name, namespace, path)), True


def make(name: str, namespace: str, path: str) -> str:
    host = f"{name}.{namespace}.svc"
    with tempfile.TemporaryDirectory() as work:
        certificate, key = os.path.join(work, "tls.crt"), os.path.join(work, "tls.key")
        words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(DAYS)]
        words += ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
        words += ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth"]
        argv = ["openssl", "req", "-x509", *words, "-keyout", key, "-out", certificate]
        subprocess.run(argv, capture_output=True, text=True, timeout=seconds(60), check=True)
        with open(certificate, encoding="ascii") as first, open(key, encoding="ascii") as second:
            text, private = first.read(), second.read()
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{name}-serving", "namespace": namespace},
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": encoded(text), "tls.key": encoded(private)},
    }
    # One start of kubectl, which takes the place of what an interrupted run stored. The text lies in no process's
    # arguments, and in no annotation of kubectl's.
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(secret))
    # Last: it stands for a Secret that is there.
    write_whole(path, text.encode())
    return text


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def main() -> None:
    module = AnsibleModule(
        argument_spec={"name": {"type": "str", "required": True}, "namespace": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    params = module.params
    try:
        text, made = ensure(params["name"], params["namespace"], check=module.check_mode)
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"openssl req: {error.stderr.strip()}")
    except (ClusterError, OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=made, certificate=encoded(text))


if __name__ == "__main__":
    main()
