from kubeadm_config import (
    API_PORT,
    CRI_SOCKET,
    PATCHES,
    Cluster,
    Node,
    Release,
    UnsupportedVersionError,
    init_documents,
    join_documents,
    patches,
    to_yaml,
    with_token,
)

__all__ = [
    "API_PORT",
    "CRI_SOCKET",
    "PATCHES",
    "Cluster",
    "Node",
    "Release",
    "UnsupportedVersionError",
    "init_documents",
    "join_documents",
    "patches",
    "to_yaml",
    "with_token",
]
