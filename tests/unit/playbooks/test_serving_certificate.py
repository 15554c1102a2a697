"""The certificate of a service in the cluster: made once, finished or made again, and of use for one name alone."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.playbook_modules import kubernetes_apply as apply
from tests.support.playbook_modules import load

serving = load("library/serving_certificate.py", "serving_certificate")


class Cluster:
    """Keeps the Secret that `kubectl apply` is given."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.secret: tuple[str, str] | None = None
        self.down = False
        monkeypatch.setattr(serving, "kubectl", self)
        monkeypatch.setattr(serving, "PKI", str(directory))

    def __call__(self, *words: str, stdin: str | None = None, timeout: float = 300) -> str:
        self.calls.append(words)
        if self.down:
            raise apply.ClusterError("kubectl apply: connection refused")
        document = json.loads(stdin or "")
        assert document["metadata"] == {"name": "metrics-server-serving", "namespace": "kube-system"}
        texts = [base64.b64decode(document["data"][name]).decode() for name in ("tls.crt", "tls.key")]
        self.secret = (texts[0], texts[1])
        return ""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path, monkeypatch)


def test_it_serves_for_its_name_and_signs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    text, made = serving.ensure("metrics-server", "kube-system", check=False)
    assert made and cluster.secret is not None
    assert cluster.secret[0] == text
    found = x509.load_pem_x509_certificate(text.encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["metrics-server.kube-system.svc"]
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    key = load_pem_private_key(cluster.secret[1].encode(), None)
    assert key.public_key() == found.public_key()
    # The key is in the cluster and nowhere else.
    assert [path.name for path in tmp_path.iterdir()] == ["metrics-server-serving.crt"]


def test_a_second_run_changes_nothing(cluster: Cluster) -> None:
    first, _ = serving.ensure("metrics-server", "kube-system", check=False)
    calls = len(cluster.calls)
    assert serving.ensure("metrics-server", "kube-system", check=False) == (first, False)
    assert len(cluster.calls) == calls


def test_one_whose_secret_could_not_be_stored_is_made_again(cluster: Cluster, tmp_path: Path) -> None:
    cluster.down = True
    with pytest.raises(apply.ClusterError):
        serving.ensure("metrics-server", "kube-system", check=False)
    assert not list(tmp_path.iterdir())
    cluster.down = False
    text, made = serving.ensure("metrics-server", "kube-system", check=False)
    assert made and cluster.secret is not None and cluster.secret[0] == text


def test_a_check_makes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    assert serving.ensure("metrics-server", "kube-system", check=True) == ("", True)
    assert not cluster.calls and not list(tmp_path.iterdir())


def test_the_metrics_api_would_be_verified_with_it(cluster: Cluster, tmp_path: Path) -> None:
    """As the API server does: the certificate alone is the pool of authorities."""
    serving.ensure("metrics-server", "kube-system", check=False)
    path = str(tmp_path / "metrics-server-serving.crt")
    words = ["openssl", "verify", "-CAfile", path, "-partial_chain", "-purpose", "sslserver", "-verify_hostname"]
    good = subprocess.run([*words, "metrics-server.kube-system.svc", path], capture_output=True, check=False)
    other = subprocess.run([*words, "kubernetes.default.svc", path], capture_output=True, check=False)
    assert (good.returncode, other.returncode) == (0, 2)
